"""Every bad input of a node gives one sentence that says what, the values, the cure, the node and
its input, before any sampling; and the help page of the node explains it."""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

from ale_edit.demo import models, weights
from ale_edit.tests.families import family_model
from ale_edit.tests.host.stock_runs import core_node
from ale_edit.tests.host.test_composition import in_tiles, row_by_row
from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, one, picture, run, schema
from ale_edit.tests.nodes.test_grounding import SAID as GROUNDING_SAID
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.nodes.test_schemas import NODE_IDS
from ale_edit.tests.nodes.test_scores import LOADERS_SAY
from ale_edit.tests.nodes.test_scores import SAID as SCORES_SAID
from ale_edit.tests.tiny import (
    SDXL_WIDTHS,
    tiny_clip,
    tiny_controlnet,
    tiny_flux,
    tiny_sdxl_clip,
    two_boxes,
)
from ale_edit.tests.versions import HAS_CFG_OVERRIDE

VERBS = (
    "Add|Apply|Connect|Do not|Encode|Make|Name|Paint|Put|Raise|Remove|Select|Set|Shorten|Use|Write"
)
CURE = re.compile(rf"\. ({VERBS}) ")


class World:
    """Tiny models, and a count of the model's calls."""

    def __init__(self, model: Any, clip: Any, vae: Any) -> None:
        self.model, self.clip, self.vae = model.clone(), clip, vae
        seen: list[int] = []

        def count(apply_model: Any, arguments: dict[str, Any]) -> Any:
            """A function and no method: ComfyUI copies objects with each clone of a model."""
            seen.append(1)
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        self._seen = seen
        self.model.set_model_unet_function_wrapper(count)

    @property
    def calls(self) -> int:
        return len(self._seen)

    @cached_property
    def flux(self) -> Any:
        """A MODEL without a UNet."""
        return tiny_flux()

    @cached_property
    def other_clip(self) -> Any:
        """The text encoder of another checkpoint, twice as wide."""
        return tiny_clip(width=64)

    def plain(self, text: str, clip: Any = None) -> Any:
        """As CLIP Text Encode."""
        clip = clip or self.clip
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def ore(self, edits: Any = None, clip: Any = None) -> tuple[Any, ...]:
        edits = edits_with_masks() if edits is None else edits
        return run("ALEObjectRestrictedEmbeddings", clip=clip or self.clip, edits=edits)

    def guide(self, model: Any = None, **inputs: Any) -> Any:
        source, target = self.ore()
        usual = {"source": source, "target": target, "negative": self.plain("")}
        return one("ALETwoBranchGuider", model=model or self.model, **{**usual, **inputs})

    def sample(self, guider: Any = None, **inputs: Any) -> Any:
        """SamplerCustomAdvanced, with our sampler, schedule and the encoded picture."""
        usual = {
            "noise": RandomNoise.execute(noise_seed=0).args[0],
            "guider": guider or self.guide(),
            "sampler": one("ALEVirtualInversion"),
            "sigmas": one("ALELCMSchedule", model=self.model, steps=2),
            "latent_image": {"samples": self.vae.encode(picture())},
        }
        return SamplerCustomAdvanced.execute(**{**usual, **inputs})

    def stock_guider(self) -> Any:
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(self.plain("a goat"), self.plain(""))
        return guider

    def generate(self, model: Any, positive: Any) -> Any:
        """A stock guider and sampler on an empty latent."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, self.plain(""))
        guider.set_cfg(2.0)
        empty = latent(torch.zeros(1, 4, 8, 8))
        return self.sample(guider, sampler=stock_sampler("euler"), latent_image=empty)

    def edit(self, **inputs: Any) -> Any:
        usual = {"model": self.model, "clip": self.clip, "vae": self.vae, "steps": 2}
        usual |= {"image": picture(), "edits": edits_with_masks()}
        return run("ALEEdit", **{**usual, **inputs})


@dataclass(frozen=True)
class Case:
    """One bad input.

    page: the node whose help page explains it.
    quote: what the sentence and the page both say.
    says: what the sentence must name besides: the node and its input, and the values.
    calls: of the model before; 1 where only a call shows what another node on the model does.
    """

    name: str
    cause: Callable[[World], Any]
    page: str
    quote: str
    says: tuple[str, ...]
    calls: int = 0


def listed(text: str = TEXT) -> Any:
    return one("ALEEditList", text=text)


def boxes() -> torch.Tensor:
    return torch.stack(two_boxes(64, 64))


def regions(**inputs: Any) -> Any:
    return one("ALERegions", **{"edits": listed(), "masks": boxes(), **inputs})


def regions_of_two() -> Any:
    """Regions of a batch of two images."""
    return regions(image=picture(2), masks=torch.cat([boxes(), boxes().roll(1, dims=2)]))


def latent(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"samples": tensor}


def stock_sampler(name: str) -> Any:
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


def only_wolf() -> Any:
    return one("ALEEditObject", source="wolf", target="goat", mask=boxes()[0])


def with_extra(conditioning: Any, key: str, value: Any) -> Any:
    """As a node that sets something on a conditioning."""
    return [[tensor, {**extras, key: value}] for tensor, extras in conditioning]


def with_control(conditioning: Any) -> Any:
    return with_extra(conditioning, "control", object())


def controlled(world: World, net: Any, images: int = 1) -> dict[str, Any]:
    """Source and target through one Apply ControlNet."""
    node = importlib.import_module("nodes").ControlNetApplyAdvanced()
    picture = torch.rand(images, 64, 64, 3)
    conds = node.apply_controlnet(*world.ore(), net, picture, 1.0, 0.0, 1.0)
    return dict(zip(("source", "target"), conds, strict=True))


def flow_matching(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, 3.0)[0]


def continuous(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0]


def inpainting(world: World) -> dict[str, Any]:
    """Source and target through Inpaint Model Conditioning, the negative past it."""
    extras = {
        "concat_latent_image": torch.rand(1, 4, 8, 8),
        "concat_mask": torch.ones(1, 1, 64, 64),
    }
    source, target = world.ore()
    for key, value in extras.items():
        source, target = with_extra(source, key, value), with_extra(target, key, value)
    return {"source": source, "target": target}


def regional(model: Any) -> Any:
    return one("ALERegionCrossAttention", model=model, regions=regions())


def couple(model: Any) -> Any:
    """Another pack's node that appends a text inside cross-attention."""

    def patch(n: Any, context: Any, value: Any, options: Any) -> Any:
        text = torch.cat([context, context], dim=1)
        return n, text, text

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


def merge_queries(model: Any) -> Any:
    """Another pack's node that leaves out half of the positions of cross-attention."""

    def patch(n: Any, context: Any, value: Any, options: Any) -> Any:
        return n[:, ::2], context, value

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


MAHIRO = core_node("nodes_mahiro", "Mahiro")
CFG_OVERRIDE = core_node("nodes_custom_sampler", "CFGOverride", 4.0)
WINDOWS = core_node(
    "nodes_context_windows",
    *("ContextWindowsManualNode", 2, 0, "standard_static", 1, False, "flat", 0),
)


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


def sentences(**prompts: str) -> Any:
    empty = {"source_prompt": "", "target_prompt": ""}
    return one("ALEFullPrompts", edits=listed(), **{**empty, **prompts})


EDIT_CASES = [
    Case(
        "no edits",
        lambda w: listed("# none"),
        "ALEEditList",
        "Write at least one line such as",
        ("Edit List", "text"),
    ),
    Case(
        "no arrow",
        lambda w: listed("a -> b\nwolf goat"),
        "ALEEditList",
        'has no "->"',
        ("Edit List", "line 2 of the text", '"wolf goat"'),
    ),
    Case(
        "two arrows",
        lambda w: listed("a -> b -> c"),
        "ALEEditList",
        "has 2 arrows instead of one",
        ("Edit List", "line 1 of the text", '"a -> b -> c"'),
    ),
    Case(
        "empty side of a line",
        lambda w: listed("a -> b\n -> c"),
        "ALEEditList",
        "is empty. Name the object before and after the edit",
        ("Edit List", "line 2 of the text", "source", '" -> c"'),
    ),
    Case(
        "empty side of a node",
        lambda w: one("ALEEditObject", source="wolf", target=" "),
        "ALEEditObject",
        "is empty. Name the object before and after the edit",
        ("Edit Object", "target", '"wolf -> "'),
    ),
    Case(
        "two masks for one object",
        lambda w: w.edit(edits=one("ALEEditObject", mask=boxes())),
        "ALEEditObject",
        "holds 2 masks, one object takes one",
        ("ALE Edit", 'the mask of "wolf"', "Edit Object"),
    ),
    Case(
        "three masks for two images",
        lambda w: w.edit(edits=one("ALEEditObject", mask=boxes()[[0, 0, 1]]), image=picture(2)),
        "ALEEdit",
        "one object takes one (or one for each of the",
        ("ALE Edit", 'the mask of "wolf" holds 3 masks', "2 images"),
    ),
    Case(
        "regions of another number of images",
        lambda w: w.edit(image=picture(3), regions=regions_of_two()),
        "ALEEdit",
        "the regions are of",
        ("ALE Edit", "2 images", "3"),
    ),
    Case(
        "regions of another number of images in RGB-CAM",
        lambda w: w.generate(
            one("ALERegionCrossAttention", model=w.model, regions=regions_of_two()), w.ore()[1]
        ),
        "ALERegionCrossAttention",
        "the regions are of",
        ("Region Cross-Attention", "2 images", "1"),
    ),
    Case(
        "regions of another number of images in blending",
        lambda w: w.sample(
            w.guide(one("ALEBackgroundBlending", model=w.model, regions=regions_of_two()))
        ),
        "ALEBackgroundBlending",
        "the regions are of",
        ("Background Blending", "2 images", "1"),
    ),
    Case(
        "regions of another number of images in Paste Background",
        lambda w: one(
            "ALEPasteBackground",
            edited=picture(3),
            source=picture(3),
            regions=regions_of_two(),
        ),
        "ALEPasteBackground",
        "the regions are of",
        ("Paste Background", "2 images", "3"),
    ),
    Case(
        "no tokens",
        lambda w: w.ore(listed("() -> goat")),
        "ALEObjectRestrictedEmbeddings",
        "yields no tokens",
        ("Object-Restricted Embeddings", "edits", 'source phrase "()"'),
    ),
    Case(
        "long phrase",
        lambda w: w.ore(listed("wolf -> " + "red " * 80)),
        "ALEObjectRestrictedEmbeddings",
        "more than the 75 of one chunk",
        ("Object-Restricted Embeddings", "edits", "80 tokens"),
    ),
    Case(
        "not in the full prompt",
        lambda w: w.ore(one("ALEFullPrompts", edits=listed(), source_prompt="a dog")),
        "ALEFullPrompts",
        "does not stand in the",
        ("Full Prompts", "source_prompt", '"wolf"', '"a dog"'),
    ),
    Case(
        "only in a longer word",
        lambda w: w.ore(sentences(source_prompt="a werewolf-wolfhound under a yellow moon")),
        "ALEFullPrompts",
        "stands only as a part of other words",
        ("Object-Restricted Embeddings", "source_prompt", '"wolf"', "werewolf-wolfhound"),
    ),
    Case(
        "text behind its end",
        lambda w: w.ore(sentences(source_prompt="a wolf <|endoftext|> under a yellow moon")),
        "ALEObjectRestrictedEmbeddings",
        "goes on behind an end-of-text token",
        ("Object-Restricted Embeddings", "<|endoftext|> under a yellow moon"),
    ),
    Case(
        "cut by a chunk",
        lambda w: w.ore(
            one(
                "ALEFullPrompts",
                edits=listed("red wolf -> goat"),
                source_prompt="word " * 74 + "red wolf",
            )
        ),
        "ALEFullPrompts",
        "is cut by the border between two chunks of 75 tokens",
        ("Full Prompts", "source_prompt", '"red wolf"'),
    ),
]
REGION_CASES = [
    Case(
        "more masks than edits",
        lambda w: regions(masks=torch.cat([boxes(), boxes()])),
        "ALERegions",
        "masks, but 2 of 2 edits need one",
        ("Regions", "masks input", "4 masks"),
    ),
    Case(
        "a mask less than edits",
        lambda w: regions(masks=boxes()[:1]),
        "ALERegions",
        "has no region",
        ("Regions", "masks input", '"yellow moon -> soccer ball"', "2 masks", "1 given"),
    ),
    Case(
        "no mask at all",
        lambda w: w.edit(edits=listed()),
        "ALEEdit",
        "has no region",
        ("ALE Edit", "masks input of Regions", '"wolf -> brown-colored goat"'),
    ),
    Case(
        "empty mask",
        lambda w: regions(masks=boxes() * torch.tensor([1.0, 0.0])[:, None, None]),
        "ALERegions",
        "is empty: no pixel is 0.5 or more",
        ("Regions", "masks input", '"yellow moon"'),
    ),
    Case(
        "two masks that coincide",
        lambda w: regions(masks=boxes()[:1].expand(2, -1, -1)),
        "ALERegions",
        "has no place of its own",
        ("Regions", '"wolf"', '"yellow moon"', "overlap goes to the background"),
    ),
    Case(
        "a mask within another in ALE Edit",
        lambda w: w.edit(edits=only_wolf().added(replace(only_wolf().items[0], source="cub"))),
        "ALEEdit",
        "has no place of its own",
        ("ALE Edit", '"wolf"', '"cub"'),
    ),
    Case(
        "mask of another shape",
        lambda w: regions(image=picture(width=96)),
        "ALERegions",
        "their shapes differ",
        ("Regions", "64x64", "64x96"),
    ),
    Case(
        "image of another shape than the regions",
        lambda w: w.edit(image=picture(width=96), regions=regions()),
        "ALEEdit",
        "their shapes differ",
        ("64x64", "64x96"),
    ),
    Case(
        "edited and source of other sizes",
        lambda w: one(
            "ALEPasteBackground", edited=picture(height=32), source=picture(), regions=regions()
        ),
        "ALEPasteBackground",
        "Connect the image that was encoded for this edit",
        ("Paste Background", "edited", "source", "32x64", "64x64"),
    ),
    Case(
        "two edited images, three sources",
        lambda w: one(
            "ALEPasteBackground", edited=picture(2), source=picture(3), regions=regions()
        ),
        "ALEPasteBackground",
        "or as many as edited ones",
        ("Paste Background", "2 edited images", "3 sources"),
    ),
    Case(
        "image too small",
        lambda w: w.edit(image=picture(height=4, width=4), edits=only_wolf()),
        "ALEEdit",
        "at least 8 pixels a side are needed",
        ("ALE Edit", "image input", "4x4"),
    ),
]
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
        "Flux in blending",
        lambda w: one("ALEBackgroundBlending", model=w.flux, regions=regions()),
        "ALEBackgroundBlending",
        NO_UNET,
        ("Background Blending", "model input", "Flux"),
    ),
    Case(
        "Flux in the guider",
        lambda w: w.guide(w.flux),
        "ALETwoBranchGuider",
        NO_UNET,
        ("Two-Branch Guider", "model input", "Flux"),
    ),
    Case(
        "Flux in the schedule",
        lambda w: one("ALELCMSchedule", model=w.flux),
        "ALELCMSchedule",
        NO_UNET,
        ("LCM Schedule", "model input", "Flux"),
    ),
    Case(
        "Flux in ALE Edit",
        lambda w: w.edit(model=w.flux),
        "ALEEdit",
        NO_UNET,
        ("model input", "Flux"),
    ),
    Case(
        "text encoder of another model",
        lambda w: w.edit(clip=w.other_clip),
        "ALEEdit",
        CLIP_OF_ANOTHER,
        ("64 channels", "32"),
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
PATCH_CASES = [
    Case(
        "an attention couple beside RGB-CAM",
        lambda w: w.generate(regional(couple(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "changes the text inside cross-attention",
        ("Region Cross-Attention", "attention couple", "Hypernetwork Loader"),
        calls=1,
    ),
    Case(
        "merged queries beside RGB-CAM",
        lambda w: w.generate(regional(merge_queries(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "changes the rows or positions of cross-attention",
        ("Region Cross-Attention", "2 rows of 64 positions became 2 of 32"),
        calls=1,
    ),
    Case(
        "tiles beside RGB-CAM",
        lambda w: w.generate(in_tiles(regional(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "Remove what cuts latents into tiles",
        ("Region Cross-Attention", "8x8", "8x4", "Tiled Diffusion"),
    ),
    Case(
        "rows one by one beside RGB-CAM",
        lambda w: w.generate(row_by_row(regional(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "Remove what splits, repeats or windows the batch",
        ("Region Cross-Attention", "2 rows of a model call into 1"),
    ),
    Case(
        "rows one by one beside injection",
        lambda w: w.sample(w.guide(row_by_row(one("ALESelfAttentionInjection", model=w.model)))),
        "ALESelfAttentionInjection",
        "Remove what splits, repeats or windows the batch",
        ("Self-Attention Injection", "4 rows of a model call into 1"),
    ),
    Case(
        "Mahiro",
        lambda w: w.sample(w.guide(MAHIRO(w.model))),
        "ALETwoBranchGuider",
        "the model went through Mahiro",
        ("Two-Branch Guider", "averages over all images"),
    ),
    Case(
        "Context Windows",
        lambda w: w.sample(w.guide(WINDOWS(w.model))),
        "ALETwoBranchGuider",
        "the model went through Context Windows",
        ("Two-Branch Guider", "batch of source and edit"),
    ),
    *(
        [
            Case(
                "CFG Override",
                lambda w: w.sample(w.guide(CFG_OVERRIDE(w.model))),
                "ALETwoBranchGuider",
                "the model went through CFG Override",
                ("Two-Branch Guider", "one guidance for all", "source_guidance"),
            )
        ]
        if HAS_CFG_OVERRIDE
        else []
    ),
]
OF_NODES_NOT_HERE = [] if HAS_CFG_OVERRIDE else ["the model went through CFG Override"]
LATENT_OF_ANOTHER = "Encode the source image with the VAE of the same checkpoint"
SAMPLING_CASES = [
    Case(
        "stock sampler",
        lambda w: w.sample(sampler=stock_sampler("euler")),
        "ALETwoBranchGuider",
        "needs a sampler that runs both branches",
        ("Two-Branch Guider", "sampler input", "sample_euler", "Virtual Inversion"),
    ),
    Case(
        "stock guider",
        lambda w: w.sample(w.stock_guider()),
        "ALEVirtualInversion",
        "needs a source and a target branch",
        ("Virtual Inversion", "guider", "CFGGuider", "Two-Branch Guider"),
    ),
    Case(
        "two sources",
        lambda w: w.guide(source=w.plain("a") + w.plain("b")),
        "ALETwoBranchGuider",
        "conditioning entries, it needs exactly one",
        ("Two-Branch Guider", "source input", "2"),
    ),
    Case(
        "two targets",
        lambda w: w.guide(target=w.plain("a") + w.plain("b")),
        "ALETwoBranchGuider",
        "conditioning entries, it needs exactly one",
        ("Two-Branch Guider", "target input", "2"),
    ),
    Case(
        "control on one branch",
        lambda w: w.guide(target=with_control(w.plain("a"))),
        "ALETwoBranchGuider",
        "inputs differ in",
        ("Two-Branch Guider", "source and target", "control"),
    ),
    Case(
        "sizes on one branch",
        lambda w: w.guide(target=with_extra(w.plain("a"), "width", 768)),
        "ALETwoBranchGuider",
        "inputs differ in",
        ("Two-Branch Guider", "source and target", "width"),
    ),
    Case(
        "a negative without the inpainting mask",
        lambda w: w.sample(w.guide(family_model("SD 1.5 inpainting"), **inpainting(w))),
        "ALETwoBranchGuider",
        "the negative input differs from source and target in concat_",
        ("Two-Branch Guider", "Inpaint Model Conditioning"),
    ),
    Case(
        "a part of the steps",
        lambda w: w.sample(
            w.guide(
                source=with_extra(w.plain("a"), "end_percent", 0.4),
                target=with_extra(w.plain("b"), "end_percent", 0.4),
            )
        ),
        "ALETwoBranchGuider",
        "is not active at step",
        ("Two-Branch Guider", "source input", "step 2 of 2", "Timestep Range"),
    ),
    Case(
        "a negative for a part of the steps",
        lambda w: w.sample(w.guide(negative=with_extra(w.plain("a"), "start_percent", 0.5))),
        "ALETwoBranchGuider",
        "is not active at step",
        ("Two-Branch Guider", "negative input", "step 1 of 2"),
    ),
    Case(
        "ControlNet of another family",
        lambda w: w.sample(w.guide(**controlled(w, tiny_controlnet(width=64)))),
        "ALETwoBranchGuider",
        "was made for another family of models",
        ("Two-Branch Guider", "ControlNet of the source input", "32 channels"),
    ),
    Case(
        "two control images for one latent",
        lambda w: w.sample(w.guide(**controlled(w, tiny_controlnet(), images=2))),
        "ALETwoBranchGuider",
        "Connect one control image, or one for each latent",
        ("Two-Branch Guider", "source input holds 2 images", "latent 1"),
    ),
    Case(
        "empty latent",
        lambda w: w.sample(latent_image=latent(torch.zeros(1, 4, 8, 8))),
        "ALETwoBranchGuider",
        "the latent of this run is empty",
        ("Two-Branch Guider", "VAE Encode"),
    ),
    Case(
        "latent of NaN",
        lambda w: w.sample(latent_image=latent(torch.full((1, 4, 8, 8), torch.nan))),
        "ALETwoBranchGuider",
        "holds NaN or infinite values",
        ("Two-Branch Guider", "latent"),
    ),
    Case(
        "latent of 16 channels",
        lambda w: w.sample(latent_image=latent(torch.ones(1, 16, 8, 8))),
        "ALETwoBranchGuider",
        LATENT_OF_ANOTHER,
        ("Two-Branch Guider", "latent", "16", "4"),
    ),
    Case(
        "no sigmas",
        lambda w: w.sample(sigmas=torch.tensor([0.0])),
        "ALETwoBranchGuider",
        "has no step",
        ("Two-Branch Guider", "sigmas input", "LCM Schedule"),
    ),
    Case(
        "rising sigmas",
        lambda w: w.sample(sigmas=torch.tensor([1.0, 2.0, 0.0])),
        "ALETwoBranchGuider",
        "must fall at every step and end at 0",
        ("Two-Branch Guider", "sigmas", "1, 2, 0"),
    ),
    Case(
        "zero steps",
        lambda w: one("ALELCMSchedule", model=w.model, steps=0),
        "ALELCMSchedule",
        "a latent consistency schedule has 1 to 50 steps",
        ("LCM Schedule", "steps is 0"),
    ),
    Case(
        "too little strength",
        lambda w: one("ALELCMSchedule", model=w.model, steps=4, strength=0.1),
        "ALELCMSchedule",
        "leave no step to sample",
        ("LCM Schedule", "4 steps", "strength 0.1"),
    ),
    Case(
        "too little strength in ALE Edit",
        lambda w: w.edit(steps=4, strength=0.1),
        "ALEEdit",
        "leave no step to sample",
        ("4 steps", "strength 0.1"),
    ),
]
DEMO_QUOTES = ("is missing", "bytes, not", "is not the listed one (SHA-256)")
CASES = [
    *EDIT_CASES,
    *REGION_CASES,
    *MODEL_CASES,
    *OTHER_MODEL_CASES,
    *PATCH_CASES,
    *SAMPLING_CASES,
]


@pytest.fixture(scope="session")
def world(model: Any, clip: Any, vae: Any) -> World:
    return World(model, clip, vae)


@pytest.fixture(scope="session")
def refuse(world: World) -> Callable[[Case], tuple[str, int]]:
    """What ComfyUI shows for a case, and how often the model was called before; each case runs
    once."""

    @cache
    def refused(case: Case) -> tuple[str, int]:
        before = world.calls
        with pytest.raises(ValueError) as error:
            case.cause(world)
        return str(error.value), world.calls - before

    return refused


every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_the_sentence_names_what_is_wrong_with_its_values_node_and_input(
    case: Case, refuse: Callable[[Case], tuple[str, int]]
) -> None:
    sentence, _ = refuse(case)
    assert case.quote in sentence
    assert [words for words in case.says if words not in sentence] == []


@every_case
def test_the_sentence_ends_with_the_cure(
    case: Case, refuse: Callable[[Case], tuple[str, int]]
) -> None:
    sentence, _ = refuse(case)
    assert CURE.search(sentence), sentence
    assert sentence.endswith(".") and "\n" not in sentence


@every_case
def test_nothing_has_been_sampled(case: Case, refuse: Callable[[Case], tuple[str, int]]) -> None:
    _, calls = refuse(case)
    assert calls == case.calls


@every_case
def test_the_help_page_explains_it(case: Case) -> None:
    assert f"`{case.quote}" in page(case.page) or f"{case.quote}`" in page(case.page)


def test_every_node_that_takes_a_model_refuses_one_without_a_unet() -> None:
    takers = {i for i in NODE_IDS if any(e.io_type == "MODEL" for e in schema(i).inputs)}
    assert takers == {case.page for case in MODEL_CASES if case.quote == NO_UNET}


def test_a_run_that_is_right_does_sample(world: World) -> None:
    """Also of a clone, as every node of ours makes one."""
    for model in (world.model, one("ALESelfAttentionInjection", model=world.model)):
        before = world.calls
        world.sample(world.guide(model))
        assert world.calls > before


def test_the_next_edit_is_well_after_every_refusal(world: World) -> None:
    before = world.edit()[0]
    for case in SAMPLING_CASES:
        with pytest.raises(ValueError):
            case.cause(world)
    assert torch.equal(world.edit()[0], before)


@pytest.mark.parametrize(
    ("content", "quote"),
    [(None, "is missing"), (b"short", "bytes, not"), (b"0123456789", DEMO_QUOTES[2])],
    ids=["missing", "cut off", "damaged"],
)
def test_a_bad_demo_weight_file_is_named_with_the_cure(
    content: bytes | None, quote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "unet.safetensors"
    table = {file.name: {"bytes": 10, "sha256": "0"}}
    (tmp_path / weights.TABLE).write_text(json.dumps(table), encoding="utf-8")
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(models, "read_weights", lambda part: weights.read_weights(part, tmp_path))
    with pytest.raises(ValueError) as error:
        run("ALEDemoModelLoader")
    assert str(file) in str(error.value) and quote in str(error.value)
    assert "Clone the repository again" in str(error.value)
    assert f"`{quote}" in page("ALEDemoModelLoader")


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_sentence_that_a_help_page_quotes_is_one_that_is_said(node_id: str) -> None:
    said = [*DEMO_QUOTES, *GROUNDING_SAID, *SCORES_SAID, *LOADERS_SAY, *OF_NODES_NOT_HERE]
    said += [case.quote for case in CASES]
    mistakes = page(node_id).split("## Typical mistakes")[1].split("## See it in")[0]
    quoted = [line.split("`")[1] for line in mistakes.splitlines() if line.startswith("| `")]
    assert [quote for quote in quoted if not any(quote in s or s in quote for s in said)] == []
