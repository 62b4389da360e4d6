"""What the score nodes do: check what is connected, load what is installed, and report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any

import comfy.model_management as mm
from torch import Tensor, nn

from ...prompts.edits import Edits, base_prompt, require_choice
from ...regions.regions import AnyRegions, each_image, fit_masks
from ...scoring import comparison, structure
from ...scoring.comparison import Entry
from ...scoring.leakage import leakage
from ...scoring.lpips import background_lpips, pie_bench_lpips
from ...scoring.lpips_network import LpipsNetwork
from ...scoring.preservation import background_scores, pie_bench_scores
from ...scoring.similarity import Similarity, edit_similarity
from ...scoring.summary import (
    BACKGROUND,
    PIE_BENCH,
    EditScores,
    Summary,
    leakage_summary,
    mean,
    picture_lines,
    preservation_summary,
)
from .. import model_files
from ..messages import name_node, show
from ..model_files import DINO, LPIPS, Kind
from ..segmenting.grounding import GroundedSAMPart, managed, with_room
from .similarity import chosen_similarity

logger = logging.getLogger(__name__)

LEAKAGE, PRESERVATION, COMPARE = "Leakage Score", "Preservation Score", "Compare"
HEADS = "squeeze.pth"
DINO_BYTES = 2**30
LPIPS_BYTES_A_PIXEL = 4000
CURE_OF_MEMORY = "Scale the pictures down, or start ComfyUI with --cpu."


# -- pictures and masks ----------------------------------------------------------------------------


def pictures(image: Any, node: str, name: str = "image") -> Tensor:
    """(B, H, W, 3) in [0, 1] of an IMAGE, on the CPU, without its alpha channel.

    Raises ValueError for something that is no picture.
    """
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape:
        raise ValueError(
            f"{node}: the {name} input has the shape {shape}, not (images, height, width, "
            "channels) with 1, 3 or 4 channels. Connect the IMAGE of VAE Decode or Load Image."
        )
    image = image.detach().cpu().float()
    image = image.expand(-1, -1, -1, 3) if shape[-1] == 1 else image[..., :3]
    if not image.isfinite().all():
        raise ValueError(
            f"{node}: the {name} input holds numbers that are not finite. Use a VAE in fp32: one "
            "in fp16 makes such numbers of some pictures."
        )
    return image.clamp(0, 1).contiguous()


def sources_of(source: Any, edited: Tensor, node: str) -> Tensor:
    """The source images (B, H, W, 3) of the edited ones, without the strip of up to 7 pixels a side
    that a VAE crops.

    Raises ValueError when sizes or numbers do not fit.
    """
    source = pictures(source, node, "source")
    (count, height, width), sizes = edited.shape[:3], source.shape[1:3]
    if not (0 <= sizes[0] - height < 8 and 0 <= sizes[1] - width < 8):
        raise ValueError(
            f"{node}: the source input is {sizes[0]}x{sizes[1]} (height x width), the image input "
            f"{height}x{width}. Connect the image that was encoded for this edit, at its size."
        )
    if len(source) not in (1, count):
        raise ValueError(
            f"{node}: the image input holds {count} images, the source input {len(source)}. "
            "Connect one source image, or as many as edited ones."
        )
    top, left = (sizes[0] - height) // 2, (sizes[1] - width) // 2
    return source[:, top : top + height, left : left + width].expand(count, -1, -1, -1)


def raw_masks(regions: AnyRegions, edited: Tensor, node: str) -> list[Tensor]:
    """The undilated masks (K, H, W) of each edited image, at its size.

    Masks of another size but the same shape are resized, which is logged. Raises ValueError when
    the shapes differ, or the regions are of another number of images.
    """
    height, width = edited.shape[1:3]
    with name_node(node):
        each = each_image(regions, len(edited))
    size = tuple(each[0].raw.shape[1:])
    try:
        masks = [fit_masks(one.raw, height, width) for one in regions.images]
    except ValueError as error:
        raise ValueError(
            f"{node}: the masks of the regions input are {size[0]}x{size[1]} (height x width), the "
            f"image input is {height}x{width}: their shapes differ. Connect the regions of the "
            "image that was edited."
        ) from error
    if max(abs(size[0] - height), abs(size[1] - width)) > 7:
        logger.warning(
            "%s: the masks are %dx%d and were resized to %dx%d (height x width).",
            *(node, *size, height, width),
        )
    return masks * len(each) if len(masks) == 1 else masks


# -- Leakage Score ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeakageReport:
    """Means over the images of a batch; NaN where a score does not exist."""

    te: float
    ti: float
    source_te: float
    source_ti: float
    summary: Summary


def leakage_report(
    image: Any,
    regions: AnyRegions,
    edits: Edits,
    source: Any = None,
    similarity: Similarity | None = None,
) -> LeakageReport:
    """TE and TI of edited images, and of their sources where they are connected.

    Raises ValueError for inputs that do not fit together, and where no similarity model is.
    """
    edited = pictures(image, LEAKAGE)
    _require_same(regions, edits)
    masks = raw_masks(regions, edited, LEAKAGE)
    prompt = edits.target_prompt or base_prompt(edits.targets)
    size = (int(edited.shape[1]), int(edited.shape[2]))
    model = chosen_similarity(similarity, (*edits.targets, prompt), size, LEAKAGE)
    sources = edited[:0] if source is None else sources_of(source, edited, LEAKAGE)
    if source is not None and len(source) == len(regions.images) == 1:
        sources = sources[:1]
    found, before = (
        [
            _edit_scores(model, picture, own, edits.targets, prompt)
            for picture, own in zip(images, masks, strict=False)
        ]
        for images in (edited, sources)
    )
    notes = _leakage_notes(model, masks)
    summary = leakage_summary(edits.targets, prompt, model.name, found, before, notes)
    show(summary.text)
    return LeakageReport(
        mean([s.leakage.te for s in found]),
        mean([s.leakage.ti for s in found]),
        mean([s.leakage.te for s in before]),
        mean([s.leakage.ti for s in before]),
        summary,
    )


def _edit_scores(
    model: Similarity, image: Tensor, masks: Tensor, targets: Sequence[str], prompt: str
) -> EditScores:
    mm.throw_exception_if_processing_interrupted()
    found = leakage(model.cosines, image, masks, targets)
    return EditScores(found, edit_similarity(model.cosines, image, masks, prompt, found))


def _leakage_notes(model: Similarity, masks: Sequence[Tensor]) -> list[str]:
    notes = [model.note] if model.note else []
    if len(masks[0]) < 2:
        notes.append("TI is n/a: one object has no other to leak onto.")
    if any(bool((own > 0.5).any(0).all()) for own in masks):
        notes.append("TE is n/a: the masks leave no background.")
    return notes


def _require_same(regions: AnyRegions, edits: Edits) -> None:
    if regions.names != edits.sources:
        raise ValueError(
            f"{LEAKAGE}: the regions input is of {_listed(regions.names)}, the edits input of "
            f"{_listed(edits.sources)}. Connect the same edits to Regions and to Leakage Score."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "no object"


# -- Preservation Score ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PreservationReport:
    """Means over the images of a batch, of background pixels alone (structure distance: of whole
    images); NaN where a score does not exist."""

    psnr: float
    mse: float
    ssim: float
    lpips: float
    structure: float
    summary: Summary


def preservation_report(
    image: Any, source: Any, regions: AnyRegions, structure_input: str
) -> PreservationReport:
    """How well edited images keep their source outside the undilated masks.

    Raises ValueError for inputs that do not fit together and for damaged weight files.
    """
    with name_node(PRESERVATION):
        require_choice("structure_input", structure_input, structure.SCALES)
    edited = pictures(image, PRESERVATION)
    sources = sources_of(source, edited, PRESERVATION)
    backgrounds = [1 - masks.amax(0) for masks in raw_masks(regions, edited, PRESERVATION)]
    lpips, dino = installed(LPIPS), installed(DINO)
    pairs = list(zip(sources, edited, strict=True))
    found = [
        _background_figures(lpips, *pair, background)
        for pair, background in zip(pairs, backgrounds, strict=True)
    ]
    distances = [_structure(dino, a, b, structure_input) for a, b in pairs]
    notes = _preservation_notes(backgrounds, lpips, dino, structure_input)
    summary = preservation_summary(found, distances, notes)
    show(summary.text)
    psnr, mse, ssim, perceptual = (
        mean([figures[BACKGROUND][k] for figures in found])
        for k in ("PSNR", "MSE", "SSIM", "LPIPS")
    )
    return PreservationReport(psnr, mse, ssim, perceptual, mean(distances), summary)


def _background_figures(
    lpips: nn.Module | None, source: Tensor, edited: Tensor, background: Tensor
) -> dict[str, dict[str, float]]:
    mm.throw_exception_if_processing_interrupted()
    out = {}
    for name, scores, distance in (
        (BACKGROUND, background_scores, background_lpips),
        (PIE_BENCH, pie_bench_scores, pie_bench_lpips),
    ):
        found = scores(source, edited, background)
        out[name] = {"PSNR": found.psnr, "MSE": found.mse, "SSIM": found.ssim, "LPIPS": nan}
        if lpips is not None:
            out[name]["LPIPS"] = _on_device(
                lpips,
                LPIPS_BYTES_A_PIXEL * background.numel(),
                lambda net, d, distance=distance: distance(
                    net.network.features, net.heads, source.to(d), edited.to(d), background.to(d)
                ),
            )
    return out


def _structure(dino: nn.Module | None, source: Tensor, edited: Tensor, scale: Any) -> float:
    mm.throw_exception_if_processing_interrupted()
    if dino is None:
        return nan
    return _on_device(
        dino, DINO_BYTES, lambda net, _: structure.structure_distance(net, source, edited, scale)
    )


def _preservation_notes(
    backgrounds: Sequence[Tensor], lpips: nn.Module | None, dino: nn.Module | None, scale: str
) -> list[str]:
    notes = []
    if not all(bool((background > 0.5).any()) for background in backgrounds):
        notes.append("The masks leave no background: its scores are n/a.")
    missing = [(k, name) for k, net, name in _networks(lpips, dino) if net is None]
    notes += [
        f"{name} is n/a: put {kind.published} into {' or '.join(model_files.places(kind))}."
        for kind, name in missing
    ]
    if dino is not None:
        notes.append(f"The input of the structure distance is {scale}.")
    return notes


def _networks(
    lpips: nn.Module | None, dino: nn.Module | None
) -> list[tuple[Kind, nn.Module | None, str]]:
    return [(LPIPS, lpips, "LPIPS"), (DINO, dino, "Structure distance")]


# -- installed networks ----------------------------------------------------------------------------


class ScoreNetwork(GroundedSAMPart):
    """Named in ComfyUI's log when it is loaded."""


class LpipsModule(nn.Module):
    """LPIPS with its heads, so that they move together."""

    def __init__(self, network: LpipsNetwork) -> None:
        super().__init__()
        self.network, self.slices = network, network.slices
        for k, head in enumerate(network.heads):
            self.register_buffer(f"head{k}", head)

    @property
    def heads(self) -> list[Tensor]:
        return [getattr(self, f"head{k}") for k in range(len(self.network.heads))]


def _on_device(patcher: Any, need: int, run: Any) -> float:
    """What `run` makes of the loaded network and its device."""
    what = type(patcher.model.network).__name__
    return with_room(
        lambda net: run(net, next(net.parameters()).device),
        *(patcher, need, what, PRESERVATION, CURE_OF_MEMORY),
    )


def installed(kind: Kind) -> Any:
    """The network of the first fitting file, under ComfyUI's memory management; None without one.
    It is read anew for each report, so that nothing of it stays behind.

    Raises ValueError for a file that is damaged.
    """
    for path, _ in _weight_files(kind):
        network = (_lpips if kind is LPIPS else _dino)(path)
        if network is not None:
            return network
    return None


def weights_stamp() -> str:
    """Another one when a weight file of Preservation Score came, went or changed."""
    return str([stamp for kind in (LPIPS, DINO) for _, stamp in _weight_files(kind)])


def _weight_files(kind: Kind) -> list[tuple[Path, tuple]]:
    """Each fitting file or folder, and a stamp that changes with whatever is read for it."""
    names = [name for name in model_files.listed(kind) if name != model_files.NOTHING]
    if kind is LPIPS:
        names = [name for name in names if Path(name).name.startswith("squeezenet1_1")]
    found = []
    for path in (model_files.path_of(kind, name) for name in names):
        files = [path] if path.is_file() else sorted(path.iterdir())
        heads = heads_file(path) if kind is LPIPS else None
        stats = [(str(f), f.stat()) for f in (*files, *([heads] if heads else []))]
        found.append((path, tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats)))
    return found


def _lpips(path: Path) -> Any:
    heads = heads_file(path)
    if heads is None:
        return None
    weights = [model_files.read_weights(LPIPS, file) for file in (path, heads)]
    try:
        network = LpipsNetwork.build(*weights)
    except ValueError as error:
        raise ValueError(
            f"{PRESERVATION}: {path} and {heads} make no LPIPS: {error}. Put there "
            f"{LPIPS.published}."
        ) from error
    return managed(LpipsModule(network), ScoreNetwork)


def heads_file(backbone: Path) -> Path | None:
    """The linear heads beside the backbone, else those of an installed package that has them."""
    places = [backbone.with_name(HEADS)]
    for package, inner in (
        ("torchmetrics", ("functional", "image", "lpips_models")),
        ("lpips", ("weights", "v0.1")),
    ):
        spec = find_spec(package)
        if spec is not None and spec.origin:
            places.append(Path(spec.origin).parent.joinpath(*inner, HEADS))
    return next((place for place in places if place.is_file()), None)


def _dino(path: Path) -> Any:
    """None for a ViT that is not the metric's."""
    weights = model_files.read_weights(DINO, path)
    try:
        network = structure.load_dino(weights)
    except ValueError as error:
        raise ValueError(
            f"{PRESERVATION}: {path} makes no DINO: {error}. Put there {DINO.published}."
        ) from error
    if network.sizes != structure.VIT_B8:
        logger.warning("%s: %s is not DINO's ViT-B/8 and is left out.", PRESERVATION, path)
        return None
    return managed(network, ScoreNetwork)


# -- Compare ---------------------------------------------------------------------------------------


def compared(
    images: Sequence[Any],
    labels: str,
    scores: Sequence[Sequence[str]] = (),
    previous: Sequence[Entry] = (),
) -> tuple[Entry, ...]:
    """One entry for each picture of a list of IMAGE batches, behind those of an earlier Compare.

    labels: one a line. scores: for each kind of score, JSON of its nodes, together with one entry
    for each picture.
    Raises ValueError where the numbers do not fit, or a text is no JSON of a score.
    """
    flat = [picture for batch in images for picture in pictures(batch, COMPARE, "images")]
    names = [line.strip() for line in labels.splitlines()]
    if len(names) > len(flat):
        raise ValueError(
            f"{COMPARE}: the labels input has {len(names)} lines, the images input {len(flat)} "
            "pictures. Write one label a line for each picture, in their order."
        )
    names += [""] * (len(flat) - len(names))
    below = _score_lines(scores, len(flat))
    return (*previous, *(Entry(*parts) for parts in zip(flat, names, below, strict=True)))


def _score_lines(scores: Sequence[Sequence[str]], count: int) -> list[str]:
    """Of each picture the figures of all scores."""
    columns: list[Sequence[str]] = []
    for texts in scores:
        try:
            lines = [line for text in texts for line in picture_lines(text)]
        except ValueError as error:
            raise ValueError(
                f"{COMPARE}: the scores input cannot be used, {error}. Connect the json output of "
                "Leakage Score or Preservation Score."
            ) from error
        if len(lines) != count:
            raise ValueError(
                f"{COMPARE}: the scores input speaks of {len(lines)} pictures, the images input "
                f"holds {count}. Connect the scores of these pictures."
            )
        columns.append(lines)
    return ["  ".join(lines) for lines in zip(*columns, strict=True)] or [""] * count


def comparison_sheet(entries: Sequence[Entry], columns: int, height: int) -> Tensor:
    """The sheet as an IMAGE (1, H, W, 3). Raises ValueError when it gets too large."""
    try:
        return comparison.sheet(entries, columns, height)[None]
    except ValueError as error:
        raise ValueError(
            f"{COMPARE}: {error}. Set columns or cell_height to smaller numbers."
        ) from error


def shown(summary: Summary) -> Mapping[str, tuple[str, ...]]:
    """What ComfyUI shows of an output node and keeps in its history."""
    return {"text": (summary.text,), "json": (summary.json,)}
