"""Conditionings that do not go together, or hold what does not fit: refused in one sentence."""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import comfy.hooks
import comfy.samplers
import pytest
import torch

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.refusals import refuses, sample
from ale_edit.tests.host.runs import generate, guide, plain, side, two_branch_guider
from ale_edit.tests.tiny import (
    edits_of,
    randn,
    tiny_clip,
    tiny_controlnet,
    tiny_model,
    two_boxes,
    two_regions,
)


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


@pytest.mark.parametrize("name", ["source", "negative"])
def test_an_area_that_begins_beyond_the_image_is_named(calls, clip, name):
    conds: dict[str, Any] = {k: plain(clip, "wolf") for k in ("source", "target", "negative")}
    conds[name][0][1]["area"] = (4, 4, 8, 2)
    words = ["Two-Branch Guider", "Set x and y of Conditioning (Set Area)", "(8, 2)", "(8, 8)"]
    words.append(f"area of the {name} input")
    if name == "source":  # the target has the same, or they differ
        conds["target"] = conds["source"]
    refuses(words, lambda: sample(two_branch_guider(calls, **conds)), calls)
    for cond in conds.values():
        cond[0][1]["area"] = (4, 4, 4, 2)
    sample(two_branch_guider(calls, **conds))


def test_text_changed_after_ore(calls, clip):
    """Another node appended tokens: 77 of ours, 80 at the model."""
    target = side(clip, edits_of(), "target")
    longer = [[torch.cat([target[0][0], randn(1, 3, 32)], dim=1), target[0][1]]]
    chain = apply_rgb_cam(calls, two_regions())
    words = ["Region Cross-Attention", "80 tokens", "77", "Remove"]
    refuses(words, lambda: generate(chain, longer, plain(clip, ""), cfg=1.0), calls)


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
