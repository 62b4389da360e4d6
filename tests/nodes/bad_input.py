"""What the tests of bad input share: a world of tiny models that counts the model's calls, and what
a case of bad input is.

Imported by tests as `ale_edit.tests.nodes.bad_input`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

from ale_edit.tests.host.flow_models import flow_model, tiny_aura_flow
from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, one, picture, run
from ale_edit.tests.tiny import (
    tiny_clip,
    two_boxes,
)

VERBS = (
    "Add|Apply|Choose|Connect|Describe|Do not|Encode|Invert|Lower|Make|Name|Paint|Put|Raise|Remove|"
    "Select|Set|Shorten|Type|Use|Write"
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
        """A MODEL without a UNet, of a known family."""
        return flow_model("Flux.1")

    @cached_property
    def aura_flow(self) -> Any:
        """A MODEL without a UNet, of a family that is not known."""
        return tiny_aura_flow()

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


def regional(model: Any) -> Any:
    return one("ALERegionCrossAttention", model=model, regions=regions())
