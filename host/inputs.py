"""A node's inputs, checked before its work.

ComfyUI checks types of links and ranges of numbers, but not what comes over a link from another
pack's node, a literal in the place of a link, NaN, or a text that no log can hold: such an error
must not end the thread that runs the graphs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..inversion.stored import Inversion
from ..prompts.edits import Edits
from ..regions.regions import ImageRegions, RegionsBatch
from .pictures import PICTURE, require_picture

SHOWN = 120
"""Characters of a quoted text that an error shows."""
QUOTED = re.compile(f'"([^"]{{{SHOWN}}})[^"]+"')
SURROGATE = re.compile("[\ud800-\udfff]")
NUMBERS = ("INT", "FLOAT")


def has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def is_text(value: Any) -> bool:
    """Whether this is a CONDITIONING."""
    return isinstance(value, list) and all(
        isinstance(entry, list | tuple)
        and len(entry) == 2
        and isinstance(entry[0], torch.Tensor)
        and isinstance(entry[1], dict)
        for entry in value
    )


def is_latent(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), torch.Tensor)


def is_clip(value: Any) -> bool:
    """Also of a checkpoint without one, of which the nodes say more."""
    return value is None or hasattr(value, "encode_from_tokens_scheduled")


SOCKETS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MODEL": (has("get_model_object", "clone"), "Connect the MODEL of Load Checkpoint."),
    "CLIP": (is_clip, "Connect the CLIP of the same checkpoint."),
    "VAE": (has("encode", "decode"), "Connect the VAE of the same checkpoint."),
    "CLIP_VISION": (has("encode_image"), "Connect Load CLIP Vision."),
    "CONDITIONING": (is_text, "Connect CLIP Text Encode, or Object-Restricted Embeddings."),
    "IMAGE": (lambda value: isinstance(value, torch.Tensor), PICTURE),
    "MASK": (lambda value: isinstance(value, torch.Tensor), "Connect the MASK of Load Image."),
    "LATENT": (is_latent, "Connect VAE Encode."),
    "ALE_EDITS": (lambda value: isinstance(value, Edits), "Connect Edit Object or Edit List."),
    "ALE_REGIONS": (
        lambda value: isinstance(value, ImageRegions | RegionsBatch),
        "Connect Regions.",
    ),
    "ALE_DETECTOR": (has("detect"), "Connect GroundingDINO Loader."),
    "ALE_SEGMENTER": (has("segment"), "Connect SAM Loader."),
    "ALE_SIMILARITY": (has("cosines", "refusal"), "Connect CLIP Similarity Loader."),
    "ALE_INVERSION": (
        lambda value: isinstance(value, Inversion),
        "Connect Invert Image or Load Inversion.",
    ),
    "ALE_COMPARISON": (lambda value: isinstance(value, tuple), "Connect another Compare."),
}
"""Of each type of socket what its values are known by, and the cure where one is none."""


def require_input(node: str, name: str, kind: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raises ValueError when the value of input `name` of `node` is none of its type.

    limits: min and max of a number.
    """
    if kind in SOCKETS:
        is_one, cure = SOCKETS[kind]
        if not is_one(value):
            raise ValueError(
                f"{node}: the {name} input holds {_describe(value)}, but needs {kind}. {cure}"
            )
    if kind == "IMAGE":
        require_picture(value, node, name)
    if kind == "CONDITIONING":
        _require_text(value, node, name)
    if kind == "MASK":
        _require_mask(value, node, name)
    if kind in NUMBERS and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{node}: the {name} input is {value}, which is not a number. Set it between "
            f"{limits.get('min')} and {limits.get('max')}."
        )
    if kind == "COMBO" and not isinstance(value, str):
        raise ValueError(f'{node}: the {name} input is "{value}". Choose one of its list.')
    if isinstance(value, str) and (found := SURROGATE.search(value)):
        raise ValueError(
            f"{node}: the {name} input holds half a character (U+{ord(found[0]):X}) at place "
            f"{found.start() + 1}, which no file can hold. Type the text again."
        )


def _require_text(text: Any, node: str, name: str) -> None:
    for tensor, _ in text:
        if tensor.ndim != 3 or 0 in tensor.shape:
            raise ValueError(
                f"{node}: the {name} input holds a text of the shape {tuple(tensor.shape)}, not "
                f"(texts, tokens, channels). {SOCKETS['CONDITIONING'][1]}"
            )


def _require_mask(mask: torch.Tensor, node: str, name: str) -> None:
    shape = tuple(mask.shape)
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(
            f"{node}: the {name} input has the shape {shape}, not (masks, height, width). Connect "
            "the MASK of Load Image."
        )
    if not bool(mask.isfinite().all()):
        raise ValueError(
            f"{node}: the {name} input holds numbers that are not finite. Connect a mask of "
            "numbers from 0 to 1."
        )


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'the text "{value}"'
    return f"a value of the type {type(value).__name__}"


def readable(text: str) -> str:
    """An error's text on one line that every log can hold, long quotes cut."""
    whole = " ".join(text.split())
    whole = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in whole)
    return QUOTED.sub(r'"\1..."', whole)
