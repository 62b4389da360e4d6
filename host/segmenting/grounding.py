"""Detectors and segmenters in ComfyUI's memory management; each remembers its last results."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...prompts.edits import require_choice
from ...regions import bert_tokens, grounding_dino, sam
from ...regions.checkpoints import Network, UnfitFile
from ...regions.detection import Detections, concatenate
from .. import model_files
from ..messages import NodeName, name_node
from ..model_files import DETECTOR, SEGMENTER

logger = logging.getLogger(__name__)

NODE = NodeName("Grounded-SAM Masks")
PRECISIONS = ("auto", "fp32", "fp16")
KEPT = 4
DETECTION_BYTES = 2600  # of working memory, for each pixel that the model sees
EMBEDDING_BYTES = 3000
MASKS_BYTES = 60 * 2**20  # for each box
BOXES_AT_ONCE = 16
CURE_OF_MEMORY = (
    "Choose a smaller model in its loader (groundingdino_swint_ogc, sam_vit_b), precision fp16, or "
    "start ComfyUI with --cpu."
)
SAID_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

Result = TypeVar("Result")


class ResultCache:
    """The last few results, by what they were made of."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._results: OrderedDict[tuple, object] = OrderedDict()

    def get(self, key: tuple, make: Callable[[], Result]) -> Result:
        """The result of an earlier call with the same key, else a new one."""
        if key not in self._results:
            self._results[key] = make()
        self._results.move_to_end(key)
        while len(self._results) > self._kept:
            self._results.popitem(last=False)
        return cast(Result, self._results[key])


def image_key(image: Tensor) -> tuple:
    """Equal for equal images only."""
    data = image.contiguous().cpu()
    return tuple(data.shape), hashlib.sha256(data.numpy().data).hexdigest()


class GroundedSAMPart(nn.Module):
    """Holds a model of transformers, whose own `device` cannot be set as ComfyUI does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def manage(
    network: nn.Module, part: type[GroundedSAMPart] = GroundedSAMPart
) -> comfy.model_patcher.ModelPatcher:
    """The model under ComfyUI's memory management, waiting where models wait. part: the class whose
    name ComfyUI's log says."""
    offload = mm.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(
        part(network.to(offload)),
        load_device=mm.get_torch_device(),
        offload_device=offload,
    )


class GroundingDinoDetector:
    """GroundingDINO as a Detector of the whole pack."""

    def __init__(self, model: nn.Module, tokenizer: bert_tokens.BertTokenizer, name: str) -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._patcher = manage(model)
        self._limit = int(model.config.max_text_len)  # type: ignore[union-attr]
        self._last = ResultCache()

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Detections:
        """image: (H, W, 3) in [0, 1]. phrases: cleaned, each once. As many passes as the text
        needs; the answer is on the CPU."""
        key = (image_key(image), phrases)
        return self._last.get(key, lambda: self._detect(image, phrases))

    def _detect(self, image: Tensor, phrases: tuple[str, ...]) -> Detections:
        pixels = grounding_dino.prepare(image)
        with name_node(NODE):
            chunks = bert_tokens.split_into_chunks(self._tokenizer, phrases, self._limit)
        return concatenate([self._detect_chunk(image, pixels, chunk) for chunk in chunks])

    def _detect_chunk(self, image: Tensor, pixels: Tensor, phrases: tuple[str, ...]) -> Detections:
        mm.throw_exception_if_processing_interrupted()
        tokens = bert_tokens.tokenize_phrases(self._tokenizer, phrases)
        return run_with_room(
            lambda model: grounding_dino.detect(model, tokens, image, pixels),
            self._patcher,
            DETECTION_BYTES * pixels.shape[-1] * pixels.shape[-2],
            f"GroundingDINO ({self.name})",
        )


class SamSegmenter:
    """SAM or SAM 2 as a Segmenter of the whole pack."""

    def __init__(self, model: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> None:
        self.name = name
        model.vision_encoder.to(dtype)  # type: ignore[operator]
        self._patcher = manage(model)
        self._features, self._masks = ResultCache(1), ResultCache()

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        """image: (H, W, 3) in [0, 1], boxes: (n, 4) in pixels; masks (n, H, W), bool, on the
        CPU."""
        picture = image_key(image)
        key = (picture, tuple(map(tuple, boxes.tolist())))
        logits = self._masks.get(key, lambda: self._compute_logits(image, picture, boxes))
        model = self._patcher.model.network
        return torch.stack([sam.full_mask(model, mask, *image.shape[:2]) for mask in logits])

    def _compute_logits(self, image: Tensor, picture: tuple, boxes: Tensor) -> Tensor:
        what = f"Segment Anything ({self.name})"
        network = self._patcher.model.network
        need = EMBEDDING_BYTES * sam.side(network) ** 2
        features = self._features.get(
            (picture,),
            lambda: run_with_room(partial(self._embed, image), self._patcher, need, what),
        )
        return run_in_batches(
            lambda part, model: sam.predict_masks(model, features, part)[0].cpu(),
            sam.scale_boxes(network, boxes, *image.shape[:2]),
            self._patcher,
            what,
        )

    def _embed(self, image: Tensor, model: Network) -> list[Tensor]:
        """The image's features on the CPU; in fp32 where half precision overflows."""
        pixels = sam.prepare(model, image)
        features = sam.embed(model, pixels)
        if not all(bool(feature.isfinite().all()) for feature in features):
            logger.warning("%s: %s overflows in fp16; fp32 is used.", NODE, self.name)
            model.vision_encoder.float()
            self._patcher.size = 0  # so that ComfyUI counts it again
            features = sam.embed(model, pixels)
        return [feature.cpu() for feature in features]


def load_whole(patcher: comfy.model_patcher.ModelPatcher, need: int) -> Network:
    """The whole model on its device, with so many bytes free beside it; ComfyUI can leave parts of
    a model on the CPU only where they are of its own classes."""
    mm.load_models_gpu([patcher], memory_required=need, force_full_load=True)
    return patcher.model.network


def run_with_room(
    run: Callable[[Network], Result],
    patcher: comfy.model_patcher.ModelPatcher,
    need: int,
    what: str,
    node: str = NODE,
    cure: str = CURE_OF_MEMORY,
) -> Result:
    """What `run` makes of the loaded model, beside which it needs so many bytes; tried once more
    with all other models unloaded when memory runs out.

    Raises ValueError, which names the node and the cure, when it still does not fit.
    """
    try:
        return run(load_whole(patcher, need))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    mm.unload_all_models()
    mm.soft_empty_cache(force=True)
    try:
        return run(load_whole(patcher, need))
    except Exception as error:
        if is_out_of_memory(error):
            raise ValueError(
                f"{node}: {what}: out of memory, also with all other models unloaded. {cure}"
            ) from error
        raise


def run_in_batches(
    run: Callable[[Tensor, Network], Tensor],
    boxes: Tensor,
    patcher: comfy.model_patcher.ModelPatcher,
    what: str,
) -> Tensor:
    """What `run` makes of the boxes and the loaded model; in ever smaller batches where memory runs
    out, in the end one box at a time with all other models unloaded.

    Raises ValueError when not even one box fits.
    """
    size = min(BOXES_AT_ONCE, len(boxes))
    parts: list[Tensor] = []
    done = 0
    while done < len(boxes):
        mm.throw_exception_if_processing_interrupted()
        batch = partial(run, boxes[done : done + size])
        if size == 1:
            made = run_with_room(batch, patcher, MASKS_BYTES, what)
        else:
            made = _where_it_fits(batch, patcher, MASKS_BYTES * size)
        if made is None:
            size //= 2
            mm.soft_empty_cache(force=True)
            continue
        parts.append(made)
        done += len(made)
    return torch.cat(parts)


def _where_it_fits(
    run: Callable[[Network], Tensor], patcher: comfy.model_patcher.ModelPatcher, need: int
) -> Tensor | None:
    """What `run` makes of the loaded model; None when memory runs out."""
    try:
        return run(load_whole(patcher, need))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the CPU, had no memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in words for said in SAID_OF_MEMORY)


def load_detector(name: str) -> GroundingDinoDetector:
    """The detector of an entry of the list.

    Raises ValueError for files that are missing, damaged, or of another kind.
    """
    path = model_files.path_of(DETECTOR, name)
    weights = model_files.read_weights(DETECTOR, path)
    if path.is_dir():
        require_type(DETECTOR, path)
        tokenizer = name_errors(DETECTOR, name, lambda: bert_tokens.load_tokenizer(path))
        model = name_errors(
            DETECTOR, name, lambda: grounding_dino.load_folder(str(path), weights, name)
        )
        return GroundingDinoDetector(model, tokenizer, name)
    if not grounding_dino.is_original(weights):
        raise model_files.explain_wrong_kind(DETECTOR, name, weights)
    model = name_errors(DETECTOR, name, lambda: grounding_dino.load_original(weights, name))
    return GroundingDinoDetector(model, bert_tokens.load_tokenizer(), name)


def load_segmenter(name: str, precision: str) -> SamSegmenter:
    """The segmenter of an entry of the list. precision: of the image encoder, one of PRECISIONS.

    Raises ValueError as load_detector does.
    """
    path = model_files.path_of(SEGMENTER, name)
    weights = model_files.read_weights(SEGMENTER, path)
    if path.is_dir():
        kind = require_type(SEGMENTER, path)
        model = name_errors(
            SEGMENTER, name, lambda: sam.load_folder(str(path), kind, weights, name)
        )
    elif sam.is_original(weights):
        model = name_errors(SEGMENTER, name, lambda: sam.load_original(weights, name))
    else:
        raise model_files.explain_wrong_kind(SEGMENTER, name, weights)
    return SamSegmenter(model, name, dtype_of(precision))


def dtype_of(precision: str) -> torch.dtype:
    """The type of a precision; "auto" is fp16 where ComfyUI would use it for a model."""
    with name_node(SEGMENTER.node):
        require_choice("precision", precision, PRECISIONS)
    if precision == "auto":
        half = mm.should_use_fp16(mm.get_torch_device(), prioritize_performance=True)
        return torch.float16 if half else torch.float32
    return torch.float16 if precision == "fp16" else torch.float32


def require_type(kind: model_files.ModelKind, folder: Path) -> str:
    """The model_type of a folder; ValueError where it is none of the kind's."""
    found = model_files.read_config(folder).get("model_type")
    if found in kind.model_types:
        return str(found)
    raise ValueError(
        f"{kind.node}: {folder / 'config.json'} is damaged or of another model (model_type "
        f"{found!r}, not {' or '.join(kind.model_types)}). Take {kind.published}."
    )


def name_errors(kind: model_files.ModelKind, file: str, load: Callable[[], Result]) -> Result:
    """What `load` makes of a file or folder, with the node's name before what it says is wrong.

    An ImportError says that transformers is too old; another error, that classes were given sizes
    or settings that no model has.
    """
    try:
        return load()
    except ImportError as error:
        raise ValueError(
            f"{kind.node}: the installed transformers cannot load this model ({error}). SAM 2 "
            "needs 4.56 or newer: python -m pip install -U transformers, or take a sam_vit_*.pth."
        ) from error
    except UnfitFile as error:
        raise ValueError(f"{kind.node}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ValueError(
            f"{kind.node}: {file} does not hold the tensors of its model, or its config.json is "
            f"damaged: no model can be built from it ({reason}). Take {kind.published}."
        ) from error
