"""The flow-matching transformers that the pack knows, by ComfyUI's class of the model.

Text and image share one attention there, so a text has no mask and its length counts: padding
changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import Module

from .attention.unet import find_misfit
from .versions import samples_by_flow

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

UNETS = "SD 1.5, SD 2 or SDXL"


@dataclass(frozen=True)
class FlowFamily:
    """title: what people call its models. text_layer: the submodule that reads the text encoder's
    channels. guidance: the embedded guidance that ComfyUI takes for a text without one; None where
    the model has no such input."""

    title: str
    text_layer: str
    guidance: float | None = None


FAMILIES = {
    "SD3": FlowFamily("SD 3", "context_embedder"),
    "Flux": FlowFamily("Flux.1", "txt_in", guidance=3.5),
    "Flux2": FlowFamily("Flux.2", "txt_in", guidance=3.5),
    "Chroma": FlowFamily("Chroma", "txt_in", guidance=0.0),
    "QwenImage": FlowFamily("Qwen-Image", "txt_in"),
    "Lumina2": FlowFamily("Lumina 2 and Z-Image", "cap_embedder.1"),
}
TITLES = ", ".join(family.title for family in FAMILIES.values())


def find_family(model: ModelPatcher) -> FlowFamily | None:
    """The flow family of a MODEL; None for UNets and for transformers that are not known."""
    return FAMILIES.get(type(model.model).__name__)


def find_text_width(model: ModelPatcher) -> int | None:
    """The channels a token that a model of a flow family reads, if its layer says so."""
    family = find_family(model)
    if family is None:
        return None
    module: Module | None = model.get_model_object("diffusion_model")
    for name in family.text_layer.split("."):
        module = getattr(module, name, None)
    return getattr(module, "in_features", None)


def require_editable(model: ModelPatcher, node: str) -> None:
    """Raises ValueError when the model input of `node` is neither a UNet that makes one image at a
    time from text nor a flow transformer that the pack knows, sampling as it was trained."""
    if find_family(model) is not None:
        _require_flow(model, node)
        return
    diffusion_model = model.get_model_object("diffusion_model")
    if reason := find_misfit(diffusion_model):
        raise ValueError(
            f"{node}: the model input is a {type(model.model).__name__} "
            f"({type(diffusion_model).__name__}), {reason}. Connect a checkpoint of {UNETS}, or of "
            f"a flow transformer that these nodes know: {TITLES}."
        )


def _require_flow(model: ModelPatcher, node: str) -> None:
    sampling = model.get_model_object("model_sampling")
    if samples_by_flow(sampling):
        return
    raise ValueError(
        f"{node}: the model input is a {type(model.model).__name__}, which was trained by flow "
        f"matching, but its sampling is {type(sampling).__mro__[1].__name__}, set by a node such "
        "as ModelSamplingDiscrete. Remove that node."
    )
