"""Inversions as nodes: made, saved, loaded, edited from, and refused where they do not belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from ale_edit.host.inverting.files import LOAD_NODE, NOTHING, list_inversions
from ale_edit.host.inverting.fingerprint import fingerprint_model
from ale_edit.tests.nodes.graph import one, picture, run
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model
from ale_edit.tests.tiny import source_latent

STEPS = 4


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture
def invert(model: Any, clip: Any, vae: Any) -> Callable[..., Any]:
    def run_node(image: Any = None, **inputs: Any) -> Any:
        latent = {"samples": vae.encode(picture() if image is None else image)}
        usual = {"model": model, "clip": clip, "latent": latent, "steps": STEPS}
        return one("ALEInvertImage", **{**usual, **inputs})

    return run_node


@pytest.fixture
def edit(model: Any, clip: Any, vae: Any) -> Callable[..., Any]:
    def run_node(node_id: str = "ALEMasaCtrl", **inputs: Any) -> Any:
        usual = {"model": model, "clip": clip, "vae": vae, "steps": STEPS, "image": picture()}
        usual |= {"edits": one("ALEEditList", text="wolf -> goat"), "time_steps": "DDIM"}
        return one(node_id, **{**usual, **inputs})

    return run_node


def add_lora(model: Any, strength: float) -> Any:
    clone = model.clone()
    name = "diffusion_model.out.2.weight"
    weight = model.model.state_dict()[name]
    clone.add_patches({name: ("diff", (torch.ones_like(weight),))}, strength)
    clone.parent = model
    return clone


# -- what an edit from one is ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DDIM", "direct", "negative-prompt", "edit-friendly"])
def test_an_editor_that_inverts_gives_the_edit_from_a_stored_inversion(invert, edit, method):
    at_once = edit(inversion_method=method, seed=5)
    stored = edit(inversion=invert(method=method, guidance=1.0, seed=5), seed=5)
    torch.testing.assert_close(stored, at_once, rtol=0, atol=1e-5)
    assert not torch.allclose(at_once, edit(inversion_method="virtual"), atol=1e-2)


def test_the_single_nodes_give_the_editors_edit(model, clip, vae, invert, edit):
    """MasaCtrl whose control does nothing: a plain edit."""
    inversion = invert(prompt="wolf")
    text = {
        side: clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        for side, prompt in (("source", "wolf"), ("target", "goat"), ("negative", ""))
    }
    guidance = {"source_guidance": 1.0, "target_guidance": 2.0}
    guider = one("ALETwoBranchGuider", model=model, **text, **guidance)
    sampler, sigmas = run("ALESampleFromInversion", model=model, inversion=inversion)
    latent = vae.encode(picture())
    made = vae.decode(guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=0))
    whole = edit(inversion=inversion, source_prompt="edits", start_step_share=1.0)
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-4)


SAME_TEXTS = {"ALEMasaCtrl": {"source_prompt": "edits"}, "ALEFPE": {"source_prompt": "edits"}}


@pytest.mark.parametrize("node_id", ["ALEMasaCtrl", "ALEFPE", "ALEP2P"])
def test_an_edit_friendly_edit_that_changes_no_text_gives_the_image_back(vae, edit, node_id):
    """At the guidance of the inversion, whatever that is."""
    edits = one(
        "ALEFullPrompts", edits=one("ALEEditList", text="wolf -> goat"),
        source_prompt="grey wolf", target_prompt="grey wolf",
    )  # fmt: skip
    usual = {"node_id": node_id, "edits": edits, **SAME_TEXTS.get(node_id, {})}
    usual |= {"inversion_method": "edit-friendly", "source_guidance": 3.5}
    decoded = vae.decode(vae.encode(picture()))
    torch.testing.assert_close(edit(**usual, target_guidance=3.5), decoded, rtol=0, atol=1e-4)
    assert not torch.allclose(edit(**usual, target_guidance=15.0), decoded, atol=1e-2)


def test_at_guidance_1_the_image_comes_back_and_better_with_more_steps():
    """On a random network whose output is of the size of its noise."""
    model, clip, latent = comfy_model(), comfy_clip(), source_latent()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("wolf"))
    inputs = {"model": model, "source": text, "target": text, "negative": text}
    guider = one("ALETwoBranchGuider", **inputs, source_guidance=1.0, target_guidance=1.0)
    errors = []
    for steps in (5, 20, 80):
        inversion = one(
            "ALEInvertImage", model=model, clip=clip, latent={"samples": latent},
            prompt="wolf", steps=steps,
        )  # fmt: skip
        sampler, sigmas = run("ALESampleFromInversion", model=model, inversion=inversion)
        made = guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=0)
        errors.append(float((made - latent).square().mean().sqrt() / latent.std()))
    print("error in standard deviations:", [f"{error:.3g}" for error in errors])
    assert errors[0] > errors[1] > errors[2] and errors[2] < errors[0] / 4


REPLACED = [
    ("negative-prompt", {}, "the source prompt"),
    ("null-text", {"source_guidance": 3.0}, "texts that it optimises for each step"),
    ("null-text", {"source_guidance": 1.0}, "texts that it optimises for each step"),
    ("null-text", {"source_guidance": 1.0, "target_guidance": 1.0}, None),
    ("DDIM", {}, None),
]


@pytest.mark.parametrize(("method", "guidance", "own"), REPLACED)
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_negative_that_an_inversion_replaces_is_named(
    clip, invert, edit, caplog, method, guidance, own, is_stored
):
    if is_stored:
        scale = max(guidance.get("source_guidance", 1.0), guidance.get("target_guidance", 2.0))
        start = {"inversion": invert(method=method, guidance=scale)}
    else:
        start = {"inversion_method": method}
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    edit(**start, **guidance, negative=negative)
    notices = [text for text in caplog.messages if "negative input" in text]
    said = (
        f"MasaCtrl: {method} inversion replaces the negative input with {own}. Disconnect "
        "negative, or use another inversion method."
    )
    assert notices == ([] if own is None else [said])
    caplog.clear()
    edit(**start, **guidance)
    assert not any("negative input" in text for text in caplog.messages)


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["negative-prompt", "edit-friendly"])
def test_an_inversion_is_the_same_after_a_file(invert, edit, output, method):
    inversion = invert(method=method)
    name = one("ALESaveInversion", inversion=inversion, filename_prefix="deep/wolf")
    assert name == "deep/wolf_00001_.safetensors" and list_inversions() == [name]
    loaded = one("ALELoadInversion", name=name)
    for field, value in vars(inversion).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(loaded, field), value)
        elif field != "schedule":
            assert getattr(loaded, field) == value, field
    assert str(loaded.schedule) == str(inversion.schedule)
    assert torch.equal(edit(inversion=loaded), edit(inversion=inversion))


def test_a_file_from_before_noise_maps_is_read(invert, edit, output):
    """Written by hand, as Save Inversion wrote it then."""
    inversion = invert()
    facts = {
        "version": 1, "method": "DDIM",
        "schedule": {"steps": STEPS, "strength": 1.0, "time_steps": "DDIM"},
        "sigmas": inversion.sigmas, "prompt": "", "model": inversion.model,
        "convention": "published code", "guidance": 1.0,
    }  # fmt: skip
    (output / "inversions").mkdir()
    save_file(
        {"latents": inversion.latents.contiguous()},
        output / "inversions" / "old.safetensors",
        {"ale_edit.inversion": json.dumps(facts)},
    )
    loaded = one("ALELoadInversion", name="old.safetensors")
    assert loaded.noise_maps is None
    assert torch.equal(edit(inversion=loaded), edit(inversion=inversion))


def test_a_file_without_its_noise_maps_is_refused(invert, output):
    stripped = replace(invert(method="edit-friendly"), noise_maps=None)
    name = one("ALESaveInversion", inversion=stripped)
    with pytest.raises(ValueError, match=r"holds no inversion .*no noise maps for its 4 steps"):
        one("ALELoadInversion", name=name)


def test_saving_again_takes_the_next_number_and_leaves_no_other_file(invert, output):
    inversion = invert()
    names = [one("ALESaveInversion", inversion=inversion) for _ in range(2)]
    assert names == ["inversion_00001_.safetensors", "inversion_00002_.safetensors"]
    assert sorted(path.name for path in (output / "inversions").iterdir()) == names


@pytest.mark.parametrize("prefix", ["", "../wolf", "../../wolf", "a\0b", "wolf" * 60, "deep/.."])
def test_a_prefix_that_is_no_name_of_a_file_is_refused(invert, output, prefix):
    with pytest.raises(ValueError, match="^Save Inversion: the filename_prefix input is .* Type a"):
        one("ALESaveInversion", inversion=invert(), filename_prefix=prefix)
    assert not list(output.rglob("*.safetensors"))


def test_a_failed_save_leaves_nothing(invert, output, monkeypatch):
    from ale_edit.host.inverting import files

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        one("ALESaveInversion", inversion=invert())
    assert not list((output / "inversions").iterdir())


@pytest.mark.parametrize(
    "name", ["missing.safetensors", NOTHING, "../outside.safetensors", "x" * 999, "a\0b"]
)
def test_a_name_that_is_not_there_is_refused(output, name):
    (output / "outside.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=f'^{LOAD_NODE}: there is no inversion "'):
        one("ALELoadInversion", name=name)


def test_a_file_that_holds_something_else_is_refused(output):
    (output / "inversions").mkdir()
    (output / "inversions" / "x.safetensors").write_bytes(b"no safetensors at all")
    with pytest.raises(ValueError, match=r"x\.safetensors holds no inversion"):
        one("ALELoadInversion", name="x.safetensors")


# -- where one does not belong -----------------------------------------------------------------


def test_another_lora_is_another_model(model, invert, edit):
    assert fingerprint_model(model.clone()) == fingerprint_model(model)
    prints = {fingerprint_model(add_lora(model, s)) for s in (0.5, 1.0)} | {
        fingerprint_model(model)
    }
    assert len(prints) == 3
    with pytest.raises(ValueError, match=r"was made with the model \w{12}, but the model input"):
        edit(model=add_lora(model, 1.0), inversion=invert())


def test_a_patched_model_has_its_name_while_it_is_loaded(model):
    """The weights are changed in place then."""
    patched = add_lora(model, 1.0)
    before = fingerprint_model(patched)
    patched.patch_model()
    try:
        assert fingerprint_model(patched) == before != fingerprint_model(model)
    finally:
        patched.unpatch_model()


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"prompt": "cat"}, {}, 'made with the prompt "cat", but this edit starts from ""'),
    ({"steps": 5}, {}, "has 5 DDIM steps at strength 1, but this edit has 4 DDIM steps"),
    ({"strength": 0.5}, {}, "strength 0.5, but this edit has 4 DDIM steps at strength 1"),
    ({}, {"time_steps": "LCM"}, "has 4 DDIM steps at strength 1, but this edit has 4 LCM steps"),
    ({"image": (128, 64)}, {}, r"latents of the shape \(1, 4, 16, 8\)"),
]


@pytest.mark.parametrize(("made", "used", "message"), REFUSED)
def test_another_prompt_schedule_or_size_is_refused(invert, edit, made, used, message):
    if "image" in made:
        height, width = made["image"]
        made = {"image": picture(height=height, width=width)}
    with pytest.raises(ValueError, match=message):
        edit(inversion=invert(**made), **used)


def test_a_conditioning_of_another_prompt_is_sampled_but_does_not_give_the_image_back():
    """It does not hold its prompt, so that nothing can be refused: help pages say what happens."""
    model, clip, latent = comfy_model(), comfy_clip(), source_latent()
    inversion = one(
        "ALEInvertImage", model=model, clip=clip, latent={"samples": latent}, prompt="wolf",
        steps=40,
    )  # fmt: skip
    sampler, sigmas = run("ALESampleFromInversion", model=model, inversion=inversion)
    errors = []
    for prompt in ("wolf", "yellow moon"):
        text = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        inputs = {"model": model, "source": text, "target": text, "negative": text}
        guider = one("ALETwoBranchGuider", **inputs, source_guidance=1.0, target_guidance=1.0)
        made = guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=0)
        errors.append(float((made - latent).square().mean().sqrt() / latent.std()))
    print("error in standard deviations:", [f"{error:.3g}" for error in errors])
    assert errors[1] > 5 * errors[0]


def test_other_sigmas_are_refused(model, clip, vae, invert):
    text = clip.encode_from_tokens_scheduled(clip.tokenize("wolf"))
    guider = one("ALETwoBranchGuider", model=model, source=text, target=text, negative=text)
    sampler, _ = run("ALESampleFromInversion", model=model, inversion=invert())
    sigmas = one("ALELCMSchedule", model=model, steps=STEPS)
    latent = vae.encode(picture())
    with pytest.raises(ValueError, match=r"Sample from Inversion: the inversion runs from sigma"):
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=0)


@pytest.mark.parametrize("method", ["DDIM", "edit-friendly"])
def test_a_stock_sampler_cannot_run_branches(model, clip, vae, invert, method):
    text = clip.encode_from_tokens_scheduled(clip.tokenize("wolf"))
    guider = one("ALETwoBranchGuider", model=model, source=text, target=text, negative=text)
    _, sigmas = run("ALESampleFromInversion", model=model, inversion=invert(method=method))
    latent = vae.encode(picture())
    sampler = comfy.samplers.sampler_object("euler_ancestral")
    with pytest.raises(ValueError, match="is sample_euler_ancestral"):
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, seed=0)


@pytest.mark.parametrize("name", ["time_steps", "method", "convention"])
def test_a_choice_that_is_none_is_refused(invert, name):
    with pytest.raises(ValueError, match=f"^Invert Image: .*{name}"):
        invert(**{name: "neither"})


def test_an_inversion_that_is_not_whole_is_refused(invert, edit):
    inversion = invert()
    fewer = replace(inversion, latents=inversion.latents[:-1])
    with pytest.raises(ValueError, match="latents for .* noise levels. Invert the image again"):
        edit(inversion=fewer)
    by_maps = invert(method="edit-friendly")
    for maps, message in (
        (None, "is edit-friendly, but holds no noise maps for its 4 steps"),
        (by_maps.noise_maps[1:], r"noise maps of the shape \(3, 1, 4, 8, 8\) .* \(4, 1, 4, 8, 8\)"),
        (by_maps.noise_maps[..., :4], r"noise maps of the shape \(4, 1, 4, 8, 4\)"),
    ):
        with pytest.raises(ValueError, match=f"MasaCtrl: the inversion .*{message}.*Invert the"):
            edit(inversion=replace(by_maps, noise_maps=maps))
    narrow = replace(inversion, null_texts=torch.zeros(1, 1, 77, 5))
    with pytest.raises(ValueError, match="the text of the inversion input has 5 channels a token"):
        edit(inversion=narrow)
