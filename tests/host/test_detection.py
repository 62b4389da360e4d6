"""UNets that ComfyUI detects and loads by itself from the numbers of a file: as wide as people's,
with fewer layers. test_full_size.py has the whole ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.tests.families import (
    IN_9,
    KOALA,
    SD1,
    SD2,
    VEGA,
    conditioning,
    plain_conditioning,
    randomise,
)
from ale_edit.tests.host.published_form import published_form
from ale_edit.tests.host.runs import edit, generate, patched, relative_error
from ale_edit.tests.host.test_families import guide
from ale_edit.tests.tiny import source_latent, two_regions
from ale_edit.tests.versions import SCALED_FP8_ROUNDS_BIASES, keeps_scaled_fp8

PREFIX = "model.diffusion_model."
ONES = {"channel_mult": [1, 1, 1]}
SHORT = {**SD1, "channel_mult": [1, 1], "num_heads": 8}
DEEP = {  # SD 2's kind is read from the twelfth output block
    **SD2,
    **ONES,
    "num_res_blocks": [3, 3, 3],
    "transformer_depth": [1, 0, 0, 0, 0, 0, 0, 0, 1],
    "transformer_depth_output": [1] + [0] * 10 + [1],
}
KIND = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass(frozen=True)
class File:
    """config, kind: what ComfyUI must detect. width: of the text. marks: entries of the file that
    the layout does not have, or other numbers for those that it has."""

    config: str
    kind: str
    width: int
    layout: Mapping[str, Any]
    marks: Mapping[str, Tensor] = field(default_factory=dict)


FILES = {
    "SD 1.5": File("SD15", "EPS", 768, SHORT),
    "SD 1.5 inpainting": File("SD15", "EPS", 768, {**SHORT, **IN_9}),
    # with the guidance embedding of LCM_Dreamshaper_v7, which ComfyUI leaves out
    "SD 1.5, LCM": File(
        "SD15", "EPS", 768, SHORT, {"time_embed.cond_proj.weight": torch.ones(320, 256)}
    ),
    "SD 2": File("SD20", "EPS", 1024, DEEP, {KIND: torch.linspace(-0.1, 0.1, 320)}),
    "SD 2, v": File("SD20", "V_PREDICTION", 1024, DEEP, {KIND: torch.linspace(-0.5, 0.5, 320)}),
    "Segmind Vega": File("Segmind_Vega", "EPS", 2048, {**VEGA, **ONES}),
    "KOALA": File("KOALA_700M", "EPS", 2048, {**KOALA, **ONES}),
}


@cache
def weights(name: str) -> Mapping[str, Tensor]:
    """A UNet's part of a checkpoint, in half precision."""
    file = FILES[name]
    settings = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "use_spatial_transformer": True,
        "num_head_channels": -1 if "num_heads" in file.layout else 64,
        "context_dim": file.width,
        "legacy": False,
        **file.layout,
    }
    with torch.inference_mode(False):
        unet = UNetModel(**settings, dtype=torch.float16, operations=comfy.ops.disable_weight_init)
        randomise(unet, seed=0, output_gain=0.06)
    made = {**unet.state_dict(), **{key: mark.half() for key, mark in file.marks.items()}}
    return {PREFIX + key: value for key, value in made.items()}


def load(state: Mapping[str, Tensor], **options: Any) -> Any:
    """As UNETLoader."""
    model = comfy.sd.load_diffusion_model_state_dict({**state}, model_options=options)
    assert model is not None
    return model


def whole_edit(model: Any, width: int, **settings: Any) -> Tensor:
    texts: dict[str, Any] = {
        "source": conditioning(20, width, **settings),
        "target": conditioning(30, width, **settings),
        "negative": plain_conditioning(40, width),
    }
    return edit(guide(patched(model), **texts), steps=2)


@pytest.mark.parametrize("name", FILES)
def test_a_detected_model_edits_as_it_must(name):
    file, model = FILES[name], load(weights(name))
    assert type(model.model.model_config).__name__ == file.config
    assert model.model.model_type.name == file.kind

    text = conditioning(30, file.width, ore=False, rgb_cam=False, blending=False)
    negative = plain_conditioning(40, file.width)
    latent = source_latent()
    same = guide(patched(model), (2.0, 2.0), source=text, target=text, negative=negative)
    assert relative_error(edit(same, latent, steps=2), latent) < 1e-4

    positive = conditioning(30, file.width)

    def image(m: Any) -> Tensor:
        return generate(m, positive, negative, steps=1, sampler="lcm")

    made = image(apply_rgb_cam(model, two_regions()))
    expected = image(published_form(model, positive[0][1][ORE_KEY], two_regions()))
    print(f"{name}: published form {relative_error(made, expected):.1e} of its std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, image(model)) > 1e-3


def test_the_guidance_embedding_of_an_lcm_checkpoint_changes_nothing(caplog):
    """ComfyUI has no place for it and says so; InfEdit and ALE-Edit do not use it either."""
    with caplog.at_level(logging.WARNING):
        model = load(weights("SD 1.5, LCM"))
    assert "time_embed.cond_proj.weight" in caplog.text
    assert torch.equal(whole_edit(model, 768), whole_edit(load(weights("SD 1.5")), 768))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["SD 1.5", "Segmind Vega"])
def test_weights_that_the_loader_stores_in_fp8(name, dtype):
    """UNETLoader's weight_dtype, against the same numbers in a file of fp32."""
    width = FILES[name].width
    model = load(weights(name), dtype=dtype)
    assert model.model.diffusion_model.dtype == dtype
    same = {key: value.to(dtype).float() for key, value in weights(name).items()}
    made, expected = whole_edit(model, width), whole_edit(load(same), width)
    assert torch.equal(made, expected)
    assert relative_error(made, whole_edit(load(weights(name)), width)) > 1e-3


@pytest.mark.parametrize("name", ["SD 1.5", "Segmind Vega"])
def test_a_file_of_scaled_fp8_weights(name):
    """Each linear layer's weights in fp8, over a scale of its own, which the layers multiply."""
    fp8, width, stored, meant = torch.float8_e4m3fn, FILES[name].width, {}, {}
    for key, value in weights(name).items():
        stored[key] = meant[key] = value
        layer = key.removesuffix("weight")
        if layer != key and value.ndim == 2:
            scale = value.float().abs().amax() / 400
            stored[key] = (value.float() / scale).to(fp8)
            stored[layer + "scale_weight"] = scale
            meant[key] = stored[key].float() * scale
        elif (
            SCALED_FP8_ROUNDS_BIASES
            and key.endswith("bias")
            and weights(name)[key[:-4] + "weight"].ndim == 2
        ):
            meant[key] = value.float().to(fp8)
    stored[f"{PREFIX}scaled_fp8"] = torch.tensor([], dtype=fp8)
    model = load(stored)
    layers = cross_attention_layers(model.model.diffusion_model).values()
    assert layers and all(keeps_scaled_fp8(model, layer.to_v) for layer in layers)
    meant = {key: value.float() for key, value in meant.items()}
    made, expected = whole_edit(model, width), whole_edit(load(meant), width)
    print(f"{name}, scaled fp8: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
