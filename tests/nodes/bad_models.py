"""Models and text encoders that a node cannot serve.

Imported by tests as `ale_edit.tests.nodes.bad_models`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ale_edit.tests.families import family_model
from ale_edit.tests.nodes.bad_input import Case, World, listed, only_wolf, regional, regions
from ale_edit.tests.nodes.graph import one, run
from ale_edit.tests.tiny import (
    SDXL_WIDTHS,
    tiny_sdxl_clip,
)


def flow_matching(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, 3.0)[0]


def continuous(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0]


def sd3_clip() -> Any:
    """A CLIP with the tokenizer of SD 3; nothing is encoded with it."""
    import comfy.sd
    import comfy.text_encoders.sd3_clip

    clip = comfy.sd.CLIP(no_init=True)
    clip.tokenizer = comfy.text_encoders.sd3_clip.SD3Tokenizer()
    clip.tokenizer_options = {}
    return clip


def sdxl_ore(world: World, **vectors: torch.Tensor) -> Any:
    """Embeddings of a tiny SDXL with a textual inversion of these vectors in a phrase."""
    with tempfile.TemporaryDirectory() as folder:
        safetensors.torch.save_file(vectors, Path(folder) / "fur.safetensors")
        clip = tiny_sdxl_clip(embedding_directory=folder)
        return world.ore(listed("wolf embedding:fur -> goat"), clip)


def doubling_clip(clip: Any) -> Any:
    """A CLIP as an encoder with separate keys and values leaves it: two rows a token."""

    def encode(tokens: Any) -> Any:
        return [[t.repeat(1, 2, 1), o] for t, o in clip.encode_from_tokens_scheduled(tokens)]

    doubling = clip.clone()
    doubling.encode_from_tokens_scheduled = encode
    return doubling


NO_UNET = "which has no UNet cross-attention layers"
CLIP_OF_ANOTHER = "it was made with another text encoder"
SAME_EDITS = "Connect the same edits to Object-Restricted Embeddings and to Regions"
MODEL_CASES = [
    Case(
        "Flux in RGB-CAM",
        lambda w: one("ALERegionCrossAttention", model=w.flux, regions=regions()),
        "ALERegionCrossAttention",
        NO_UNET,
        ("Region Cross-Attention", "model input", "Flux"),
    ),
    Case(
        "Flux in injection",
        lambda w: one("ALESelfAttentionInjection", model=w.flux),
        "ALESelfAttentionInjection",
        NO_UNET,
        ("Self-Attention Injection", "model input", "Flux"),
    ),
    Case(
        "AuraFlow in blending",
        lambda w: one("ALEBackgroundBlending", model=w.aura_flow, regions=regions()),
        "ALEBackgroundBlending",
        NO_UNET,
        ("Background Blending", "model input", "AuraFlow"),
    ),
    Case(
        "AuraFlow in the guider",
        lambda w: w.guide(w.aura_flow),
        "ALETwoBranchGuider",
        NO_UNET,
        ("Two-Branch Guider", "model input", "AuraFlow"),
    ),
    Case(
        "AuraFlow in the schedule",
        lambda w: one("ALELCMSchedule", model=w.aura_flow),
        "ALELCMSchedule",
        NO_UNET,
        ("LCM Schedule", "model input", "AuraFlow"),
    ),
    Case(
        "conditioning of another model",
        lambda w: w.sample(w.guide(negative=w.plain("", w.other_clip))),
        "ALETwoBranchGuider",
        CLIP_OF_ANOTHER,
        ("Two-Branch Guider", "negative", "64 channels", "32"),
    ),
    Case(
        "RGB-CAM with the wrong text encoder",
        lambda w: w.generate(
            one("ALERegionCrossAttention", model=w.model, regions=regions()),
            w.ore(clip=w.other_clip)[1],
        ),
        "ALERegionCrossAttention",
        CLIP_OF_ANOTHER,
        ("Region Cross-Attention", "64 channels", "32"),
    ),
    Case(
        "RGB-CAM with two background texts",
        lambda w: one(
            "ALERegionCrossAttention",
            model=w.model,
            regions=regions(),
            background=w.plain("fog") + w.plain("sky"),
        ),
        "ALERegionCrossAttention",
        "the background input has 2 entries",
        ("Region Cross-Attention", "CLIP Text Encode"),
    ),
    Case(
        "RGB-CAM without our conditioning",
        lambda w: w.generate(
            one("ALERegionCrossAttention", model=w.model, regions=regions()), w.plain("a goat")
        ),
        "ALERegionCrossAttention",
        "no conditioning of this run was made by Object-Restricted Embeddings",
        ("Region Cross-Attention", "positive input", "target input of Two-Branch Guider"),
    ),
    Case(
        "regions of other edits",
        lambda w: w.edit(edits=only_wolf(), regions=regions()),
        "ALEEdit",
        "Connect the same edits to ALE Edit and to Regions",
        ("ALE Edit", "edits input", "wolf", "yellow moon", "regions input"),
    ),
    Case(
        "regions of other edits in RGB-CAM",
        lambda w: w.generate(regional(w.model), w.ore(only_wolf())[1]),
        "ALERegionCrossAttention",
        SAME_EDITS,
        ("Region Cross-Attention", "goat", "yellow moon", "regions input"),
    ),
    Case(
        "text encoders of SD 3",
        lambda w: w.ore(clip=sd3_clip()),
        "ALEObjectRestrictedEmbeddings",
        "belong to another kind of model than a UNet with CLIP",
        ("Object-Restricted Embeddings", "clip input", "g, l, t5xxl", "SDXL"),
    ),
    Case(
        "no text encoder",
        lambda w: run("ALEObjectRestrictedEmbeddings", clip=None, edits=listed()),
        "ALEObjectRestrictedEmbeddings",
        "the clip input is empty",
        ("Object-Restricted Embeddings", "SD 1.5", "SD 2", "SDXL"),
    ),
    Case(
        "an embedding for one of SDXL's encoders",
        lambda w: sdxl_ore(w, clip_g=torch.ones(1, SDXL_WIDTHS["g"])),
        "ALEObjectRestrictedEmbeddings",
        "a textual inversion in the",
        ("Object-Restricted Embeddings", "source prompt", "40 (g) and 40 (l)", "64 in all"),
    ),
    Case(
        "an embedding of uneven length",
        lambda w: sdxl_ore(
            w,
            clip_g=torch.ones(2, SDXL_WIDTHS["g"]),
            clip_l=torch.ones(1, SDXL_WIDTHS["l"]),
        ),
        "ALEObjectRestrictedEmbeddings",
        "so that their words stand at different places",
        ("Object-Restricted Embeddings", "wolf embedding:fur", "3 tokens in text encoder g", "2 "),
    ),
    Case(
        "a clip that gives more rows than tokens",
        lambda w: w.ore(clip=doubling_clip(w.clip)),
        "ALEObjectRestrictedEmbeddings",
        "another node changed how it encodes",
        ("Object-Restricted Embeddings", "clip input", "154 rows for 77 tokens"),
    ),
    Case(
        "RGB-CAM twice",
        lambda w: w.edit(model=one("ALERegionCrossAttention", model=w.model, regions=regions())),
        "ALEEdit",
        "already went through a",
        ("Region Cross-Attention", "model input"),
    ),
    Case(
        "injection twice",
        lambda w: one(
            "ALESelfAttentionInjection", model=one("ALESelfAttentionInjection", model=w.model)
        ),
        "ALESelfAttentionInjection",
        "already went through a Self-Attention Injection node",
        ("Self-Attention Injection", "model input"),
    ),
    Case(
        "blending twice",
        lambda w: one(
            "ALEBackgroundBlending",
            model=one("ALEBackgroundBlending", model=w.model, regions=regions()),
            regions=regions(),
        ),
        "ALEBackgroundBlending",
        "already went through a Background Blending node",
        ("Background Blending", "model input"),
    ),
    Case(
        "injection without a source branch",
        lambda w: w.generate(one("ALESelfAttentionInjection", model=w.model), w.plain("a goat")),
        "ALESelfAttentionInjection",
        "Self-Attention Injection needs a source branch",
        ("CFGGuider", "Two-Branch Guider", "model"),
    ),
    Case(
        "blending without a source branch",
        lambda w: w.generate(
            one("ALEBackgroundBlending", model=w.model, regions=regions()), w.plain("a goat")
        ),
        "ALEBackgroundBlending",
        "Background Blending needs a source branch",
        ("CFGGuider", "Two-Branch Guider", "model"),
    ),
]
OTHER_MODEL_CASES = [
    Case(
        "flow matching in the guider",
        lambda w: w.sample(w.guide(flow_matching(w.model))),
        "ALETwoBranchGuider",
        "samples by flow matching or from image to image",
        ("Two-Branch Guider", "model input"),
    ),
    Case(
        "flow matching in the schedule",
        lambda w: one("ALELCMSchedule", model=flow_matching(w.model)),
        "ALELCMSchedule",
        "samples by flow matching or from image to image",
        ("LCM Schedule", "model input"),
    ),
    Case(
        "continuous noise levels in the schedule",
        lambda w: one("ALELCMSchedule", model=continuous(w.model)),
        "ALELCMSchedule",
        "has no table of 1000 noise levels",
        ("LCM Schedule", "model input", "Karras Scheduler"),
    ),
    Case(
        "a video model in the guider",
        lambda w: w.guide(family_model("SVD")),
        "ALETwoBranchGuider",
        "a video model",
        ("Two-Branch Guider", "model input", "SVD"),
    ),
    Case(
        "an upscaling model in the guider",
        lambda w: w.guide(family_model("x4 upscaler")),
        "ALETwoBranchGuider",
        "has no self-attention in some of its layers",
        ("Two-Branch Guider", "model input", "Upscale"),
    ),
]
