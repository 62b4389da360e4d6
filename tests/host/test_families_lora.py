"""LoRAs through ComfyUI's own loader: the edit equals that of weights merged by hand."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from safetensors.torch import save_file
from torch import Tensor

from ale_edit.host.text.embedding import embed_side
from ale_edit.tests.families import FAMILIES, Family, randomise
from ale_edit.tests.host.runs import edit, patched, plain, relative_error, two_branch_guider
from ale_edit.tests.tiny import edits_of, generator, tiny_clip, tiny_sd2_clip, tiny_sdxl_clip

CORE = importlib.import_module("nodes")  # ComfyUI's; type checkers would take it for ours
RANK, ALPHA, STRENGTH, TEXT_STRENGTH = 3, 2.0, 0.8, 0.6
TEXT_WIDTH, POOLED = 64, 40  # of tiny_sdxl_clip

# The names of a weight in LoRA files: of the UNet by diffusers' or by ldm's place, with
# underscores (kohya; LCM-LoRA's own file has the first), or in diffusers' old format.
KOHYA, KOHYA_LDM, DIFFUSERS = "kohya", "kohya, ldm places", "diffusers"
SUFFIXES = {
    KOHYA: (".lora_down.weight", ".lora_up.weight"),
    KOHYA_LDM: (".lora_down.weight", ".lora_up.weight"),
    DIFFUSERS: ("_lora.down.weight", "_lora.up.weight"),
}


@dataclass(frozen=True)
class Kind:
    family: Family
    clip: Any  # () -> CLIP
    encoders: dict[str, str]  # ComfyUI's prefix of an encoder -> its prefix in kohya's names


def calm_sdxl_clip() -> Any:
    """SDXL reads a layer without the final norm, which tiny_sdxl_clip's weights leave very large:
    a network in which rounding errors grow."""
    clip = tiny_sdxl_clip()
    randomise(clip.cond_stage_model, seed=1, output_gain=1.0)
    return clip


TE = "transformer.text_model.encoder.layers."
KINDS = {
    "SD 1.5": Kind(FAMILIES["SD 1.5"], tiny_clip, {"clip_l.": "lora_te"}),
    "SD 2": Kind(FAMILIES["SD 2, v"], tiny_sd2_clip, {"clip_h.": "lora_te"}),
    "SDXL": Kind(
        replace(
            FAMILIES["SDXL"],
            layout={
                **FAMILIES["SDXL"].layout,
                "context_dim": TEXT_WIDTH,
                "adm_in_channels": POOLED + 6 * 256,
            },
        ),
        calm_sdxl_clip,
        {"clip_l.": "lora_te1", "clip_g.": "lora_te2"},
    ),
}


def unet_names(model: Any, naming: str) -> dict[str, str]:
    """Names in a LoRA file of every weight of the UNet that has one: {name: ComfyUI's key}."""
    places = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    weights = model.model.diffusion_model.state_dict()
    names = {}
    for theirs, ours in places.items():
        if ours not in weights or weights[ours].ndim < 2 or theirs.startswith("class_embedding"):
            continue  # SDXL's name is add_embedding
        place = (ours if naming == KOHYA_LDM else theirs).removesuffix(".weight")
        if naming != DIFFUSERS:
            names["lora_unet_" + place.replace(".", "_")] = f"diffusion_model.{ours}"
        elif ".to_" in place:
            place = place.replace(".to_", ".processor.to_").removesuffix(".0")
            names[f"unet.{place}"] = f"diffusion_model.{ours}"
    return names


def text_names(clip: Any, kind: Kind, naming: str) -> dict[str, str]:
    """Of the text encoders' attention and feed-forward weights."""
    names = {}
    for key, weight in clip.cond_stage_model.state_dict().items():
        for ours, theirs in kind.encoders.items():
            if not key.startswith(ours + TE) or weight.ndim < 2:
                continue
            place = key.removeprefix(ours + "transformer.").removesuffix(".weight")
            if naming == DIFFUSERS:
                number = "_2" if theirs.endswith("2") else ""
                names[f"text_encoder{number}.{place}"] = key
            else:
                names[f"{theirs}_{place.replace('.', '_')}"] = key
    return names


def draw_lora(
    weights: dict[str, Tensor], names: dict[str, str], naming: str, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A LoRA file of random numbers, and what it adds to each weight at strength 1."""
    file, changes, draws = {}, {}, generator(seed)
    down_suffix, up_suffix = SUFFIXES[naming]
    for name, key in names.items():
        out_channels, in_channels, *kernel = weights[key].shape
        down = torch.randn(RANK, in_channels, *kernel, generator=draws)
        up = torch.randn(out_channels, RANK, *[1] * len(kernel), generator=draws)
        up *= 0.15 / down[0].numel() ** 0.5
        file |= {name + down_suffix: down, name + up_suffix: up}
        scale = 1.0
        if naming != DIFFUSERS:
            file[f"{name}.alpha"] = torch.tensor(ALPHA)
            scale = ALPHA / RANK
        product = scale * up.flatten(1).double() @ down.flatten(1).double()
        changes[key] = product.reshape(weights[key].shape)
    return file, changes


def merged(holder: Any, changes: dict[str, Tensor], strength: float) -> Any:
    """A MODEL or CLIP with the changes written into its weights."""
    module = holder.cond_stage_model if hasattr(holder, "cond_stage_model") else holder.model
    state = module.state_dict()
    added = {k: (state[k].double() + strength * d).to(state[k]) for k, d in changes.items()}
    module.load_state_dict({**state, **added})
    return holder


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folder of LoRAs."""
    places = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", places)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def whole_edit(model: Any, clip: Any) -> Tensor:
    edits = edits_of()
    source, target = (embed_side(clip, edits, side) for side in ("source", "target"))
    negative = plain(clip, "blurry")
    return edit(two_branch_guider(model, source, target, negative, reuses_source=False))


@pytest.mark.parametrize("naming", [KOHYA, KOHYA_LDM, DIFFUSERS])
@pytest.mark.parametrize("name", KINDS)
def test_a_lora_is_its_weights_merged_by_hand(name, naming, loras, caplog):
    kind = KINDS[name]
    model, clip = kind.family.model(), kind.clip()
    places = unet_names(model, naming), text_names(clip, kind, naming)
    states = model.model.state_dict(), clip.cond_stage_model.state_dict()
    drawn = [
        draw_lora(state, names, naming, seed)
        for seed, (state, names) in enumerate(zip(states, places, strict=True))
    ]
    assert all(names for names in places)
    save_file({**drawn[0][0], **drawn[1][0]}, loras / "made.safetensors")

    def loaded(model: Any) -> Any:
        return CORE.LoraLoader().load_lora(model, clip, "made.safetensors", STRENGTH, TEXT_STRENGTH)

    with caplog.at_level(logging.WARNING):
        before = whole_edit(patched(loaded(model)[0]), loaded(model)[1])
        after = whole_edit(loaded(patched(model))[0], loaded(model)[1])
    assert not [r for r in caplog.records if "lora key not loaded" in r.getMessage()]
    unchanged = whole_edit(patched(model), clip)
    expected = whole_edit(
        patched(merged(kind.family.model(), drawn[0][1], STRENGTH)),
        merged(kind.clip(), drawn[1][1], TEXT_STRENGTH),
    )
    print(f"LoRA, {name}, {naming}: {relative_error(before, expected):.1e} of the std")
    assert relative_error(before, expected) < 1e-4
    assert torch.equal(after, before)
    assert relative_error(expected, unchanged) > 0.05


@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
def test_lcm_lora_in_any_order_of_the_nodes(name, loras):
    """The UNet alone, at strength 1, with ModelSamplingDiscrete: how people speed up a model."""
    kind = KINDS[name]
    model, clip = kind.family.model(), kind.clip()
    file, changes = draw_lora(model.model.state_dict(), unet_names(model, KOHYA), KOHYA, 2)
    save_file(file, loras / "lcm.safetensors")

    def lora(m: Any) -> Any:
        return CORE.LoraLoaderModelOnly().load_lora_model_only(m, "lcm.safetensors", 1.0)[0]

    def lcm(m: Any) -> Any:
        return ModelSamplingDiscrete().patch(m, "lcm", False)[0]

    made = [
        whole_edit(m, clip)
        for m in (patched(lcm(lora(model))), lora(patched(lcm(model))), lcm(lora(patched(model))))
    ]
    expected = whole_edit(patched(lcm(merged(kind.family.model(), changes, 1.0))), clip)
    assert relative_error(made[0], expected) < 1e-4
    assert torch.equal(made[1], made[0]) and torch.equal(made[2], made[0])


def test_a_lora_of_another_family_says_so_and_changes_nothing(loras, caplog):
    """ComfyUI's own warning, one for each weight; there is no place where it could fit."""
    sdxl = KINDS["SDXL"].family.model()
    names = {n: k for n, k in unet_names(sdxl, KOHYA_LDM).items() if "input_blocks_2_1" in n}
    file, _ = draw_lora(sdxl.model.state_dict(), names, KOHYA_LDM, 3)
    save_file(file, loras / "sdxl.safetensors")
    model, clip = KINDS["SD 1.5"].family.model(), tiny_clip()
    expected = whole_edit(patched(model), clip)
    with caplog.at_level(logging.WARNING):
        changed = CORE.LoraLoaderModelOnly().load_lora_model_only(model, "sdxl.safetensors", 1.0)
    assert torch.equal(whole_edit(patched(changed[0]), clip), expected)
    warned = [r.getMessage() for r in caplog.records if "lora key not loaded" in r.getMessage()]
    assert len(warned) == len(file)
