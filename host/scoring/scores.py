"""What Leakage Score and Preservation Score do: check what is connected, measure and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import comfy.model_management as mm
from torch import Tensor

from ...prompts.edits import Edits, require_choice
from ...regions.regions import Regions
from ...scoring import structure
from ...scoring.leakage import leakage
from ...scoring.lpips import background_lpips, pie_bench_lpips
from ...scoring.preservation import background_scores, pie_bench_scores
from ...scoring.similarity import Similarity, edit_similarity
from ...scoring.summary import (
    BACKGROUND,
    PIE_BENCH,
    EditScores,
    Summary,
    leakage_summary,
    mean,
    preservation_summary,
)
from .. import model_files
from ..messages import name_node, show
from ..model_files import DINO, LPIPS, ModelKind
from ..pictures import read_pictures
from .inputs import LEAKAGE, PRESERVATION, fit_raw_masks, sources_of
from .networks import load_installed, run_on_device
from .similarity import choose_similarity

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

DINO_BYTES = 2**30
LPIPS_BYTES_A_PIXEL = 4000


# -- Leakage Score ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeakageReport:
    """Means over the images of a batch; NaN where a score does not exist."""

    te: float
    ti: float
    source_te: float
    source_ti: float
    summary: Summary


def report_leakage(
    image: Tensor,
    regions: Regions,
    edits: Edits,
    source: Tensor | None = None,
    similarity: Similarity | None = None,
) -> LeakageReport:
    """TE and TI of edited images, and of their sources where they are connected. A removed object
    has no target; its place counts as background.

    Raises ValueError for inputs that do not fit together, and where no similarity model is.
    """
    edited = read_pictures(image, LEAKAGE)
    _require_same(regions, edits)
    kept = [i for i, target in enumerate(edits.targets) if target]
    targets = [edits.targets[i] for i in kept]
    if not targets:
        raise ValueError(
            f"{LEAKAGE}: the edits input removes every object, so there is no target phrase to "
            "look for. Add an edit with a target."
        )
    masks = [own[kept] for own in fit_raw_masks(regions, edited, LEAKAGE)]
    prompt = edits.prompt("target")
    size = (int(edited.shape[1]), int(edited.shape[2]))
    model = choose_similarity(similarity, (*targets, prompt), size, LEAKAGE)
    sources = edited[:0] if source is None else sources_of(source, edited, LEAKAGE)
    if source is not None and len(source) == len(regions.images) == 1:
        sources = sources[:1]
    found, before = (
        [
            _score_edit(model, picture, own, targets, prompt)
            for picture, own in zip(images, masks, strict=False)
        ]
        for images in (edited, sources)
    )
    notes = _leakage_notes(model, masks)
    summary = leakage_summary(targets, prompt, model.name, found, before, notes)
    show(summary.text)
    return LeakageReport(
        mean([s.leakage.te for s in found]),
        mean([s.leakage.ti for s in found]),
        mean([s.leakage.te for s in before]),
        mean([s.leakage.ti for s in before]),
        summary,
    )


def _score_edit(
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


def _require_same(regions: Regions, edits: Edits) -> None:
    if regions.names != edits.names:
        raise ValueError(
            f"{LEAKAGE}: the regions input is of {_list_names(regions.names)}, the edits input of "
            f"{_list_names(edits.names)}. Connect the same edits to Regions and to Leakage Score."
        )


def _list_names(names: Sequence[str]) -> str:
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


def report_preservation(
    image: Tensor, source: Tensor, regions: Regions, structure_input: structure.Scale
) -> PreservationReport:
    """How well edited images keep their source outside the undilated masks.

    Raises ValueError for inputs that do not fit together and for damaged weight files.
    """
    with name_node(PRESERVATION):
        require_choice("structure_input", structure_input, structure.SCALES)
    edited = read_pictures(image, PRESERVATION)
    sources = sources_of(source, edited, PRESERVATION)
    backgrounds = [1 - masks.amax(0) for masks in fit_raw_masks(regions, edited, PRESERVATION)]
    lpips, dino = load_installed(LPIPS), load_installed(DINO)
    pairs = list(zip(sources, edited, strict=True))
    found = [
        _measure_background(lpips, *pair, background)
        for pair, background in zip(pairs, backgrounds, strict=True)
    ]
    distances = [_measure_structure(dino, a, b, structure_input) for a, b in pairs]
    notes = _preservation_notes(backgrounds, lpips, dino, structure_input)
    summary = preservation_summary(found, distances, notes)
    show(summary.text)
    psnr, mse, ssim, perceptual = (
        mean([figures[BACKGROUND][k] for figures in found])
        for k in ("PSNR", "MSE", "SSIM", "LPIPS")
    )
    return PreservationReport(psnr, mse, ssim, perceptual, mean(distances), summary)


def _measure_background(
    lpips: ModelPatcher | None, source: Tensor, edited: Tensor, background: Tensor
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
            out[name]["LPIPS"] = run_on_device(
                lpips,
                LPIPS_BYTES_A_PIXEL * background.numel(),
                lambda net, d, distance=distance: distance(
                    net.network.features, net.heads, source.to(d), edited.to(d), background.to(d)
                ),
            )
    return out


def _measure_structure(
    dino: ModelPatcher | None, source: Tensor, edited: Tensor, scale: structure.Scale
) -> float:
    mm.throw_exception_if_processing_interrupted()
    if dino is None:
        return nan
    return run_on_device(
        dino, DINO_BYTES, lambda net, _: structure.structure_distance(net, source, edited, scale)
    )


def _preservation_notes(
    backgrounds: Sequence[Tensor], lpips: ModelPatcher | None, dino: ModelPatcher | None, scale: str
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
    lpips: ModelPatcher | None, dino: ModelPatcher | None
) -> list[tuple[ModelKind, ModelPatcher | None, str]]:
    return [(LPIPS, lpips, "LPIPS"), (DINO, dino, "Structure distance")]


def make_ui_output(summary: Summary) -> Mapping[str, tuple[str, ...]]:
    """What ComfyUI shows of an output node and keeps in its history."""
    return {"text": (summary.text,), "json": (summary.json,)}
