"""Every wrong wiring or value that a run can meet: node, values and cure in one short message.

Bad edits are in tests/prompts, bad text in test_text.py, bad masks in test_regions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.controlnet
import comfy.hooks
import comfy.samplers
import pytest
import torch

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.runs import (
    edit,
    generate,
    guide,
    patched,
    plain,
    side,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.tiny import (
    edits_of,
    randn,
    source_latent,
    tiny_clip,
    tiny_controlnet,
    tiny_flux,
    tiny_model,
    two_boxes,
    two_regions,
)


@pytest.fixture
def calls(model: Any) -> Any:
    """The tiny model, counting its UNet calls: no bad input may cost a step."""
    counted: list[int] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(1)
        return executor(*args, **kwargs)

    counting = with_option(model, lambda m: m.add_wrapper_with_key("apply_model", "count", count))
    counting.calls = counted
    return counting


def refuses(words: list[str], run: Callable[[], Any], *models: Any) -> None:
    """run() raises a ValueError with these words, on one line, before any UNet call."""
    with pytest.raises(ValueError) as error:
        run()
    text = str(error.value)
    assert [word for word in words if word not in text] == [], text
    assert text.endswith(".") and "\n" not in text
    assert all(not model.calls for model in models)


def sample(guider: Any, latent: Any = None, sampler: Any = None, sigmas: Any = None) -> Any:
    latent = source_latent() if latent is None else latent
    sampler = sampler or virtual_inversion_sampler()
    sigmas = lcm_sigmas(guider.model_patcher, 4, 1.0) if sigmas is None else sigmas
    return guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True)


# -- wiring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler", "lcm", "dpmpp_2m", "uni_pc", "ddim"])
def test_two_branch_guider_with_a_stock_sampler(calls, clip, name):
    words = ["Two-Branch Guider", "Virtual Inversion"]
    sampler = comfy.samplers.sampler_object(name)
    refuses(words, lambda: sample(guide(calls, clip), sampler=sampler), calls)


def test_the_refused_stock_sampler_is_named(calls, clip):
    sampler = comfy.samplers.sampler_object("euler")
    refuses(["sample_euler"], lambda: sample(guide(calls, clip), sampler=sampler), calls)


def stock_guider(model: Any, clip: Any) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(side(clip, edits_of(), "target"), plain(clip, ""))
    return guider


def test_virtual_inversion_with_a_stock_guider(calls, clip):
    words = ["Virtual Inversion", "CFGGuider", "Connect Two-Branch Guider"]
    refuses(words, lambda: sample(stock_guider(calls, clip)), calls)


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
    ],
)
def test_injection_and_blending_with_a_stock_guider(calls, clip, apply, node):
    target, negative = side(clip, edits_of(), "target"), plain(clip, "")
    words = [node, "CFGGuider", "Use Two-Branch Guider", f"bypass {node}"]
    refuses(words, lambda: generate(apply(calls), target, negative), calls)


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention"),
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
    ],
)
def test_the_same_node_twice(model, apply, node):
    refuses([node, "already", "Remove one"], lambda: apply(apply(model)))


# -- conditionings ---------------------------------------------------------------------------------


def test_rgb_cam_without_our_conditioning(calls, clip):
    words = ["Region Cross-Attention", "Object-Restricted Embeddings", "Connect the target output"]
    chain = apply_rgb_cam(calls, two_regions())
    refuses(words, lambda: generate(chain, plain(clip, "a wolf"), plain(clip, "")), calls)
    guider = two_branch_guider(chain, plain(clip, "wolf"), plain(clip, "goat"), plain(clip, ""))
    refuses(words, lambda: sample(guider), calls)


@pytest.mark.parametrize("count", [1, 3])
def test_rgb_cam_with_another_number_of_regions_than_objects(calls, clip, count):
    names = ["tree", "lamp", "door"][:count]
    regions = make_regions([two_boxes()[0]] * count, names, 0.0)
    words = ["Region Cross-Attention", "2 objects (brown-colored goat, soccer ball)"]
    words += [f"has {count} ({', '.join(names)})", "Connect the same edits"]
    refuses(words, lambda: sample(guide(apply_rgb_cam(calls, regions), clip)), calls)


@pytest.mark.parametrize("name", ["source", "target"])
@pytest.mark.parametrize("count", [0, 2])
def test_source_or_target_of_several_entries_or_none(model, clip, name, count):
    conds = {"source": plain(clip, "wolf"), "target": plain(clip, "goat")}
    conds[name] = plain(clip, "wolf") * count
    words = ["Two-Branch Guider", f"{name} input", f"has {count}", "exactly one"]
    branches = conds["source"], conds["target"], plain(clip, "")
    refuses(words, lambda: two_branch_guider(model, *branches))


class Control:
    """Only its identity is looked at."""


@pytest.mark.parametrize(
    ("key", "first", "second", "cure"),
    [
        ("area", (4, 4, 0, 0), (4, 4, 2, 2), "Apply the same"),
        ("control", Control(), Control(), "one Apply ControlNet"),
        ("control", Control(), None, "one Apply ControlNet"),
        ("hooks", comfy.hooks.HookGroup(), comfy.hooks.HookGroup(), "one Cond Pair Set Props"),
        ("mask", torch.ones(1, 8, 8), torch.zeros(1, 8, 8), "Apply the same"),
        ("start_percent", 0.0, 0.5, "Apply the same"),
        ("strength", 1.0, 0.7, "Apply the same"),
        ("concat_latent_image", torch.ones(1, 4, 8, 8), None, "Apply the same"),
        ("width", 512, 768, "Apply the same"),
        ("any other key", 1, 2, "Apply the same"),
    ],
)
def test_source_and_target_that_differ_in_what_both_branches_share(
    model, clip, key, first, second, cure
):
    source, target = plain(clip, "wolf"), plain(clip, "goat")
    source[0][1][key] = first
    if second is not None:
        target[0][1][key] = second
    words = ["Two-Branch Guider", "source and target", f"differ in {key}", cure]
    refuses(words, lambda: two_branch_guider(model, source, target, plain(clip, "")))


def test_what_both_branches_share_may_be_equal(model, clip):
    source, target = plain(clip, "wolf"), plain(clip, "goat")
    for cond in (source, target):
        cond[0][1]["mask"] = torch.ones(1, 8, 8)
    guider = two_branch_guider(model, source, target, plain(clip, ""))
    assert torch.isfinite(sample(guider)).all()


def test_embeddings_of_another_text_encoder(calls):
    """The model wants 32 channels a token, this CLIP gives 64."""
    other = tiny_clip(width=64)
    words = ["64", "32", "another text encoder", "Connect the CLIP"]
    refuses(["Two-Branch Guider", *words], lambda: sample(guide(calls, other)), calls)
    chain = apply_rgb_cam(calls, two_regions())
    target = side(other, edits_of(), "target")
    refuses(
        ["Region Cross-Attention", *words],
        lambda: generate(chain, target, plain(tiny_clip(), "")),
        calls,
    )


def test_a_negative_or_a_source_of_another_text_encoder_is_named(calls, clip):
    other = tiny_clip(width=64)
    guider = two_branch_guider(calls, plain(clip, "wolf"), plain(clip, "goat"), plain(other, ""))
    refuses(["Two-Branch Guider", "negative", "64", "32"], lambda: sample(guider), calls)
    for source, target in ((clip, other), (other, clip)):
        guider = two_branch_guider(
            calls, plain(source, "wolf"), plain(target, "goat"), plain(clip, "")
        )
        words = ["Two-Branch Guider", "64", "32", "Connect"]
        refuses(words, lambda guider=guider: sample(guider), calls)


def test_text_changed_after_ore(calls, clip):
    """Another node appended tokens: 77 of ours, 80 at the model."""
    target = side(clip, edits_of(), "target")
    longer = [[torch.cat([target[0][0], randn(1, 3, 32)], dim=1), target[0][1]]]
    chain = apply_rgb_cam(calls, two_regions())
    words = ["Region Cross-Attention", "80 tokens", "77", "Remove"]
    refuses(words, lambda: generate(chain, longer, plain(clip, ""), cfg=1.0), calls)


# -- latents and sigmas ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (torch.zeros(1, 4, 8, 8), ["empty", "VAE Encode"]),
        (torch.full((1, 4, 8, 8), float("nan")), ["NaN", "Encode"]),
        (torch.full((1, 4, 8, 8), float("inf")), ["infinite", "Encode"]),
        (torch.ones(1, 16, 8, 8), ["(1, 16, 8, 8)", "(batch, 4, height, width)", "VAE"]),
        (torch.ones(1, 4, 3, 8, 8), ["(1, 4, 3, 8, 8)", "(batch, 4, height, width)"]),
        (torch.ones(0, 4, 8, 8), ["empty"]),
    ],
)
def test_a_latent_that_holds_no_image_of_this_model(calls, clip, latent, words):
    words = ["Two-Branch Guider", "latent", *words]
    refuses(words, lambda: sample(guide(patched(calls), clip), latent), calls)


@pytest.mark.parametrize("latent", [source_latent(2)])
def test_one_bad_image_of_a_batch_is_enough(calls, clip, latent):
    latent = latent.clone()
    latent[1, 2, 3, 4] = float("nan")
    words = ["Two-Branch Guider", "latent", "NaN"]
    refuses(words, lambda: sample(guide(calls, clip), latent), calls)


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        ([], ["no step", "LCM Schedule"]),
        ([14.6], ["no step", "LCM Schedule"]),
        ([1.0, 2.0, 0.0], ["1, 2, 0", "fall", "LCM Schedule"]),
        ([2.0, 2.0, 0.0], ["2, 2, 0", "fall"]),
        ([2.0, 1.0], ["2, 1", "end at 0"]),
        ([1.0, 0.0, -1.0], ["1, 0, -1", "end at 0"]),
        ([float("nan"), 1.0, 0.0], ["nan, 1, 0"]),
        ([float("inf"), 1.0, 0.0], ["inf, 1, 0"]),
    ],
)
def test_sigmas_without_steps_or_out_of_order(calls, clip, sigmas, words):
    words = ["Two-Branch Guider", "sigmas", *words]
    schedule = torch.tensor(sigmas)
    refuses(words, lambda: sample(guide(patched(calls), clip), sigmas=schedule), calls)


@pytest.mark.parametrize("steps", [0, -3, 51])
def test_a_schedule_without_steps(model, steps):
    refuses(["LCM Schedule", f"steps is {steps}", "1 to 50"], lambda: lcm_sigmas(model, steps, 1.0))


def test_a_strength_that_leaves_no_step(model):
    refuses(["LCM Schedule", "4 steps", "0.1", "Raise"], lambda: lcm_sigmas(model, 4, 0.1))


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention"),
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
        (lambda m: two_branch_guider(m, [], [], []), "Two-Branch Guider"),
        (lambda m: lcm_sigmas(m, 4, 1.0), "LCM Schedule"),
    ],
)
def test_a_model_without_unet_cross_attention(apply, node):
    words = [node, "model input", "Flux", "no UNet cross-attention", "SD 1.5"]
    refuses(words, lambda: apply(tiny_flux()))


# -- regions against the latent --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (apply_rgb_cam, "Region Cross-Attention: "),
        (apply_background_blending, "Background Blending: "),
    ],
)
def test_regions_of_another_shape_than_the_latent(calls, clip, apply, node):
    chain = apply(calls, two_regions(64, 128))
    words = [node, "64x128", "64x64", "Make the masks"]
    refuses(words, lambda: sample(guide(chain, clip)), calls)


def test_every_refusal_leaves_the_guider_and_the_model_well(model, clip):
    guider = guide(patched(model), clip)
    expected = edit(guider)
    for bad in (torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), float("nan"))):
        with pytest.raises(ValueError):
            sample(guider, bad)
    with pytest.raises(ValueError):
        sample(guider, sampler=comfy.samplers.sampler_object("euler"))
    assert torch.equal(edit(guider), expected)


def test_another_width_is_no_obstacle_when_the_model_has_it():
    clip, model = tiny_clip(width=64), tiny_model(width=64)
    assert torch.isfinite(edit(guide(patched(model), clip))).all()


def test_a_batch_of_texts_on_one_branch(model, clip):
    two = [[torch.cat([plain(clip, "wolf")[0][0]] * 2), {}]]
    with pytest.raises(ValueError, match="Two-Branch Guider: the source input holds 2 texts"):
        two_branch_guider(model, two, plain(clip, "goat"), plain(clip, ""))


# -- what conditionings bring along ----------------------------------------------------------------


def branches(clip: Any, **options: Any) -> tuple[Any, Any, Any]:
    """Source and target with the same options, and a plain negative."""
    source, target = plain(clip, "wolf"), plain(clip, "goat")
    for cond in (source, target):
        cond[0][1].update(options)
    return source, target, plain(clip, "")


def run_branches(model: Any, conds: tuple[Any, Any, Any], latent: Any = None) -> Any:
    guider = two_branch_guider(model, *conds)
    return sample(guider, latent)


class Adapter(torch.nn.Module):
    """The mark of a T2I-Adapter that was made for SDXL."""

    xl = True


@pytest.mark.parametrize("is_chained", [False, True])
@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter"])
def test_control_of_another_family_of_models(calls, clip, kind, is_chained):
    hint = torch.rand(1, 3, 64, 64)
    if kind == "ControlNet":
        bad = tiny_controlnet(width=64).copy().set_cond_hint(hint)
    else:
        bad = comfy.controlnet.T2IAdapter(Adapter(), 3, 8, "nearest-exact").set_cond_hint(hint)
    control = bad
    if is_chained:
        control = tiny_controlnet().copy().set_cond_hint(hint)
        control.set_previous_controlnet(bad)
    words = ["Two-Branch Guider", "ControlNet of the source input", "another family of models"]
    words += ["BaseModel", "32 channels", "Select a ControlNet"]
    refuses(words, lambda: run_branches(calls, branches(clip, control=control)), calls)


def test_a_pooled_output_on_one_branch_alone(clip):
    """SDXL reads it; SD 1.5 does not, and takes such inputs."""
    source, target, negative = branches(clip)
    source[0][1]["pooled_output"] = None
    assert torch.isfinite(run_branches(tiny_model(), (source, target, negative))).all()
    reader = tiny_model()
    reader.model.model_config.unet_config["adm_in_channels"] = 8
    words = ["Two-Branch Guider", "source input", "no pooled output", "Connect"]
    refuses(words, lambda: run_branches(reader, (source, target, negative)))


# -- many objects ----------------------------------------------------------------------------------


def test_thirty_objects_are_edited(model, clip):
    """Their base prompt has several chunks; the masks overlap and some vanish on coarse grids."""
    pairs = [(f"cat {i}", f"red dog number {i}") for i in range(30)]
    masks = [torch.zeros(64, 64) for _ in pairs]
    for i, mask in enumerate(masks):
        mask[2 * i : 2 * i + 3, i : i + 20] = 1
    edits = edits_of(pairs, masks)
    regions = make_regions(masks, edits.sources, 0.02)
    assert side(clip, edits, "target")[0][0].shape[1] > 77
    latent = source_latent()
    made = edit(guide(patched(model, regions), clip, edits), latent)
    assert torch.isfinite(made).all()
    fewer = make_regions(masks[:2], edits.sources[:2], 0.02)
    words = ["Region Cross-Attention", "30 objects", "has 2 (cat 0, cat 1)"]
    refuses(words, lambda: edit(guide(patched(model, fewer), clip, edits), latent))
