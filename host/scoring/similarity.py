"""Similarity models: a folder of CLIP, ComfyUI's own CLIP and CLIP_VISION, and models that are
offered where none is connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import comfy.sd1_clip
import torch
from torch import Tensor, nn

from ...scoring import clip as clip_model
from ...scoring.similarity import Similarity
from .. import model_files
from ..model_files import SIMILARITY
from ..segmenting.grounding import (
    GroundedSAMPart,
    Network,
    manage,
    name_errors,
    require_type,
    run_with_room,
)
from ..text.tokens import ENCODERS

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel
    from comfy.sd import CLIP

IMAGES_AT_ONCE = 16
BYTES_AN_IMAGE = 40 * 2**20
LONGEST = 77
SOCKETS_NODE = "CLIP Similarity from CLIP Vision"
CURE_OF_MEMORY = "Take a smaller CLIP (clip-vit-base-patch32), or start ComfyUI with --cpu."


class CLIPSimilarity(GroundedSAMPart):
    """Named in ComfyUI's log when it is loaded."""


class ClipFolder:
    """transformers' CLIP in ComfyUI's memory management."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name = name
        self._patcher = manage(model, CLIPSimilarity)
        self._tokenizer = comfy.sd1_clip.SDTokenizer().tokenizer

    def cosines(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosines (B, T) of images (B, H, W, 3) in [0, 1] and texts, on the CPU."""
        side = clip_model.side_of(self._patcher.model.network)
        vectors = [
            self._run(lambda model, part=part: clip_model.image_vectors(model, part).cpu())
            for part in clip_model.crop(images, side).split(IMAGES_AT_ONCE)
        ]
        tokens = [self._tokens(text) for text in texts]
        of_texts = self._run(lambda model: clip_model.text_vectors(model, tokens).cpu())
        return clip_model.cosines(torch.cat(vectors), of_texts)

    def _tokens(self, text: str) -> list[int]:
        return clip_model.cut_short(self._tokenizer(plain_words(text))["input_ids"], LONGEST)

    def _run(self, run: Callable[[Network], Tensor]) -> Tensor:
        need = BYTES_AN_IMAGE * IMAGES_AT_ONCE
        what = f"CLIP ({self.name})"
        return run_with_room(run, self._patcher, need, what, SIMILARITY.node, CURE_OF_MEMORY)


class ClipSockets:
    """ComfyUI's CLIP and CLIP_VISION, if they are two halves of one CLIP."""

    def __init__(self, clip: CLIP, vision: ClipVisionModel) -> None:
        self._clip, self._vision = clip, vision

    def cosines(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosines (B, T) of images (B, H, W, 3) in [0, 1] and texts, on the CPU."""
        of_texts = torch.cat([self._text_vector(text) for text in texts])
        pixels = clip_model.crop(images, self._vision.image_size).movedim(1, -1).float() / 255
        parts = [self._vision.encode_image(part) for part in pixels.split(IMAGES_AT_ONCE)]
        of_images = torch.cat([part["image_embeds"].float().cpu() for part in parts])
        return clip_model.cosines(of_images, of_texts)

    def _text_vector(self, text: str) -> Tensor:
        """(1, D): the projected state at end of text, of the last layer whatever clip skip says.

        ComfyUI itself projects the states of some of its text encoders only.
        """
        words = plain_words(text).replace("(", "\\(").replace(")", "\\)")
        tokens = self._clip.tokenize(words)
        unprojected: Any = "unprojected"  # ComfyUI's signature says bool
        _, pooled = self._clip.encode_from_tokens(tokens, return_pooled=unprojected)
        weight = _projection(self._clip)
        assert weight is not None
        return cast(Tensor, pooled).float().cpu() @ weight.detach().float().cpu().T


def plain_words(text: str) -> str:
    """A prompt without ComfyUI's weights: "(brown:1.2) goat" as "brown goat"."""
    escaped = comfy.sd1_clip.escape_important(text)
    pieces = [piece for piece, _ in comfy.sd1_clip.token_weights(escaped, 1.0)]
    return comfy.sd1_clip.unescape_important("".join(pieces))


# -- from a folder ---------------------------------------------------------------------------------


def load_clip_folder(name: str) -> Similarity:
    """The similarity model of an entry of the loader's list.

    Raises ValueError for folders that are missing, damaged, or of another model.
    """
    path = model_files.path_of(SIMILARITY, name)
    if not path.is_dir():
        raise ValueError(
            f"{SIMILARITY.node}: {name} is a single file, which holds one half of CLIP. Take "
            f"{SIMILARITY.published}."
        )
    require_type(SIMILARITY, path)
    weights = model_files.read_weights(SIMILARITY, path)
    model = name_errors(SIMILARITY, name, lambda: clip_model.load_clip(str(path), weights))
    return Similarity(f"CLIP ({name.rstrip('/')})", ClipFolder(model, name).cosines)


# -- from sockets ----------------------------------------------------------------------------------


def pair_sockets(clip: CLIP | None, vision: ClipVisionModel | None) -> Similarity:
    """The similarity model of a CLIP and a CLIP_VISION.

    Raises ValueError where they cannot be two halves of one CLIP.
    """
    text, width = _require_projection(clip)
    cosines = ClipSockets(text, _require_vision(vision, width)).cosines
    return Similarity(
        f"ComfyUI's CLIP and CLIP Vision ({width} wide)", cosines, _describe_doubt(cosines)
    )


PAIRS = (
    "Connect the two halves of one CLIP: clip_l.safetensors of SD 3 or Flux and a ViT-L/14 image "
    "encoder, the CLIP of an SD 2 checkpoint and ViT-H/14, or that of SDXL and ViT-bigG/14; or "
    "take CLIP Similarity Loader."
)


def _require_projection(clip: CLIP | None) -> tuple[CLIP, int]:
    """The width of the joint space; ValueError where the CLIP input does not lead into one."""
    if clip is None:
        raise ValueError(f"{SOCKETS_NODE}: the clip input is empty. {PAIRS}")
    encoders = tuple(sorted(clip.tokenize("")))
    weight = _projection(clip) if encoders in ENCODERS else None
    if weight is None:
        raise ValueError(
            f"{SOCKETS_NODE}: the clip input has the text encoders {', '.join(encoders)}, and no "
            f"CLIP among them whose text has a projection. {PAIRS}"
        )
    if clip.patcher.patches:
        raise ValueError(
            f"{SOCKETS_NODE}: the clip input carries a LoRA, which moves its vectors. Connect the "
            "CLIP from before the LoRA."
        )
    if not is_trained_projection(weight):
        raise ValueError(
            f"{SOCKETS_NODE}: the text projection of the clip input is missing (as in every SD 1.5 "
            f"checkpoint) or the identity, so its vectors fit no image's. {PAIRS}"
        )
    return clip, int(weight.shape[0])


def _projection(clip: CLIP) -> Tensor | None:
    """The weight (D, D) of the text projection that makes the pooled vector."""
    model = clip.cond_stage_model
    encoders = (getattr(model, f"clip_{name}", None) for name in ("g", "h", "l"))
    encoder = next((e for e in encoders if e is not None), None)
    layer = getattr(getattr(encoder, "transformer", None), "text_projection", None)
    return getattr(layer, "weight", None)


def is_trained_projection(weight: Tensor) -> bool:
    """Whether a text projection (D, D) can be CLIP's: a file without one leaves ComfyUI's layer as
    memory was, often zero."""
    weight = weight.detach().float().cpu()
    identity = torch.eye(*weight.shape)
    if not weight.isfinite().all() or torch.allclose(weight, identity, atol=1e-3):
        return False
    spread = float(weight.std())
    return 1e-4 < spread < 10 and float((weight == 0).float().mean()) < 0.5


def _require_vision(vision: ClipVisionModel | None, width: int) -> ClipVisionModel:
    projection = getattr(getattr(vision, "model", None), "visual_projection", None)
    if vision is None or not isinstance(projection, nn.Module):
        raise ValueError(
            f"{SOCKETS_NODE}: the clip_vision input is not an image encoder of CLIP: it has no "
            f"projection into a space of words. {PAIRS}"
        )
    other = int(projection.weight.shape[0])  # type: ignore[union-attr,index]
    if other != width:
        raise ValueError(
            f"{SOCKETS_NODE}: the clip input has vectors of {width} numbers, the clip_vision input "
            f"of {other}: they belong to different CLIPs. {PAIRS}"
        )
    return vision


PLAIN = {
    **{"red": (1.0, 0.0, 0.0), "green": (0.0, 0.6, 0.0), "blue": (0.0, 0.0, 1.0)},
    **{"yellow": (1.0, 1.0, 0.0), "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)},
}


def _describe_doubt(cosines: Callable[[Tensor, list[str]], Tensor]) -> str:
    """What to say where plain colours fit other colours' words as well as their own."""
    images = torch.tensor(list(PLAIN.values()))[:, None, None].expand(-1, 64, 64, -1)
    found = cosines(images, [f"a plain {name} picture" for name in PLAIN])
    centred = found - found.mean(0, keepdim=True)
    hits = int((centred.argmax(1) == torch.arange(len(PLAIN))).sum())
    if hits > len(PLAIN) // 2:
        return ""
    return (
        f"These two hardly belong together: of {len(PLAIN)} plain colours {hits} fit their own "
        "word best. Are both halves of one CLIP?"
    )


# -- which one -------------------------------------------------------------------------------------

_offered: dict[str, Similarity] = {}


def offer_similarity(model: Similarity) -> None:
    """Let Leakage Score take a model that needs no loader, where none is connected and this one
    does not refuse."""
    _offered[model.name] = model


def choose_similarity(
    connected: Similarity | None, texts: Sequence[str], size: tuple[int, int], node: str
) -> Similarity:
    """The connected model, or else one that is offered and knows these texts and pictures.

    size: (height, width) of the pictures. Raises ValueError that says why a model refuses, and
    which files are missing where.
    """
    refused = []
    for model in _offered.values() if connected is None else (connected,):
        why = model.refusal(texts, size)
        if not why:
            return model
        refused.append(f"{model.name} does not serve, because {why}")
    found = "not connected" if connected is None else "connected, but not to a model for this"
    raise ValueError(
        f"{node}: the similarity input is {found}{''.join(f'; {why}' for why in refused)}. Connect "
        f"{SIMILARITY.node}, with {SIMILARITY.published} in "
        f"{' or '.join(model_files.places(SIMILARITY))}, or {SOCKETS_NODE}."
    )
