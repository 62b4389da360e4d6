"""LEDITS++: several concepts added to or taken from an image at once, each where it acts, without a
source prompt.

Brack, Friedrich, Kornmeier, Tsaban, Schramowski, Kersting, Passos: LEDITS++: Limitless Image
Editing using Text-to-Image Models, CVPR 2024 (arXiv 2311.16711). The image is inverted to noise
maps by second-order steps (inversion/second_order.py) without a prompt. The edit takes the same
steps with the prediction

    D = D_u + sum_k w_k M_k (D_k - D_u),

D_u without a prompt and D_k under the target phrase of edit k alone. M_k is where the phrase has
its greatest cross-attention (M1) and where its guidance is the greatest (M2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.control import Call, Control, Layer, LayerKind, Reads, Step
from ..attention.word_maps import WordMaps, query_parts
from ..inversion.stored import Schedule
from ..prompts.word_replacement import parse_factors
from ..regions.grid import find_mask_cells
from ..regions.regions import Regions
from .editor import (
    BranchPlan,
    ControlInputs,
    EditBranch,
    Editor,
    SamplingPlan,
    Settings,
    guidance_setting,
    setting,
    share_setting,
    strength_setting,
)

Places = Literal["both", "attention", "guidance", "everywhere"]
RESULT = "target"


@dataclass(frozen=True)
class LEDITSSettings(Settings):
    """The defaults are the paper's."""

    unguided: ClassVar[float] = 1.0

    steps: int = setting(
        30, "Number of steps of the inversion and the edit.", min=2, max=999, step=1
    )
    strength: float = strength_setting(
        "How much noise the inversion reaches, as a share of the time steps. The paper skips "
        "0.15 of them: 0.85. Higher: the edit may change more.",
        0.85,
    )
    edit_guidance: float = guidance_setting(
        5.0, "How strongly each edit is guided towards its target phrase. 0 gives the image back."
    )
    scales: str = setting(
        "",
        'Target phrases with scales of their own, such as "red ball: 8, glasses: -5". Below 0, the '
        "phrase is removed instead of added.",
    )
    threshold: float = share_setting(
        0.9,
        "Share of the image in which an edit does not act. Lower: larger places.",
    )
    places: Places = setting(
        "both",
        "Where an edit acts. attention: where the model sees its phrase. guidance: where its "
        "guidance is the greatest. both: where both hold. everywhere: no mask, but that of the "
        "edit.",
        choices=get_args(Places),
    )


@dataclass(frozen=True, eq=False)
class Concept:
    """An edit: its branch, the rows of its phrase there, its scale, and the cells (1 or B, 1, h, w)
    that it may act in; None for all."""

    branch: str
    rows: tuple[int, ...]
    scale: float
    region: int | None


def greatest_places(values: Tensor, threshold: float) -> Tensor:
    """(B, 1, h, w) bool: the places of each image that reach the quantile `threshold` of its
    values (B, 1, h, w)."""
    quantile = torch.quantile(values.flatten(1).float(), threshold, dim=1)
    return values >= quantile.to(values)[:, None, None, None]


def smooth(maps: Tensor) -> Tensor:
    """Maps (B, 1, h, w) by the kernel of 3x3 cells that the published code has: exp(-d^2) at the
    distance d."""
    row = torch.exp(-torch.tensor([1.0, 0.0, 1.0], device=maps.device))
    kernel = torch.outer(row, row)
    kernel = (kernel / kernel.sum()).to(maps)[None, None]
    mode = "reflect" if min(maps.shape[-2:]) > 1 else "replicate"
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode=mode), kernel)


class LEDITSControl(Control):
    """The sum of the guidance of all edits, and their masks. cell: pixels along each side of a
    latent cell."""

    def __init__(
        self,
        settings: LEDITSSettings,
        concepts: Sequence[Concept],
        regions: Regions | None,
        cell: int,
    ) -> None:
        self._settings, self._concepts = settings, tuple(concepts)
        self._regions, self._cell = regions, cell
        self._maps = WordMaps()
        self._step = -1
        self._cells: dict[object, Tensor] = {}
        if settings.places in ("both", "attention"):
            self.kinds: frozenset[LayerKind] = frozenset(("cross",))
            self.reads: Reads = {concept.branch: frozenset() for concept in concepts}

    # -- M1 ----------------------------------------------------------------------------------------

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return is_cond and self._maps.takes(layer)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """Changes nothing, and keeps the maps of the phrases of this step."""
        if call.step.number != self._step:
            self._step = call.step.number
            self._maps.forget()
        rows = {concept.branch: list(concept.rows) for concept in self._concepts}
        maps: dict[str, Tensor] = {}
        for branch in [name for name in rows if name in call.running]:
            q, k = call.q[branch], call.k[branch]
            parts = query_parts(call, (branch,))
            maps[branch] = torch.cat([call.probs(q[:, p], k)[..., rows[branch]] for p in parts], 2)
        self._maps.add(call.layer, maps)
        return {}

    def _seen(self, concept: Concept, size: tuple[int, int]) -> Tensor:
        """M1, (B, 1, *size) bool."""
        together = self._maps.together(concept.branch)
        assert together is not None
        found = greatest_places(smooth(together), self._settings.threshold)
        return F.interpolate(found.float(), size) > 0

    # -- the guidance ------------------------------------------------------------------------------

    def blend(self, denoised: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """The guided prediction, for all branches: they go on from the same latents."""
        plain = denoised[RESULT]
        total = plain
        for concept in self._concepts:
            guidance = concept.scale * (denoised[concept.branch] - plain)
            if concept.region is not None:
                guidance = guidance * self._own_cells(concept.region, guidance)
            total = total + self._mask(concept, guidance) * guidance
        return dict.fromkeys(denoised, total)

    def _mask(self, concept: Concept, guidance: Tensor) -> Tensor:
        """M, (B, 1, h, w)."""
        places, size = self._settings.places, (guidance.shape[-2], guidance.shape[-1])
        mask = torch.ones_like(guidance[:, :1])
        if places in ("both", "attention"):
            mask = mask * self._seen(concept, size)
        if places in ("both", "guidance"):
            strength = guidance.abs().sum(1, keepdim=True)
            mask = mask * greatest_places(strength, self._settings.threshold)
        return mask

    def _own_cells(self, region: int, latent: Tensor) -> Tensor:
        """(1 or B, 1, h, w): the cells in which an edit's own mask has a pixel."""
        height, width = latent.shape[-2:]
        key = region, height, width, latent.device
        if key not in self._cells:
            assert self._regions is not None
            own = [one.dilated[region][None] for one in self._regions.images]
            is_touched = find_mask_cells(own, (height, width), self._cell, latent.device)
            self._cells[key] = is_touched.to(latent)
        return self._cells[key]


def ledits_control(settings: LEDITSSettings, inputs: ControlInputs) -> LEDITSControl:
    """The control of one run.

    Raises ValueError for scales of phrases that no edit has.
    """
    own = _read_scales(settings, inputs.edits)
    concepts = [
        Concept(
            edit.name,
            _rows_of(edit),
            own.get(edit.phrase.text, settings.edit_guidance),
            edit.region,
        )
        for edit in inputs.edits
    ]
    return LEDITSControl(settings, concepts, inputs.regions, inputs.cell)


def _read_scales(settings: LEDITSSettings, edits: Sequence[EditBranch]) -> dict[str, float]:
    """The scales by phrase."""
    phrases = [edit.phrase.text for edit in edits]
    found = dict(parse_factors(settings.scales, "scales", phrases))
    if unknown := [phrase for phrase in found if phrase not in phrases]:
        raise ValueError(
            f'scales names "{unknown[0]}", which is the target of no edit. Write one of '
            f"{', '.join(phrases)}, or leave it out."
        )
    return found


def _rows_of(edit: EditBranch) -> tuple[int, ...]:
    """The rows of all words of a phrase."""
    tokens = edit.phrase.tokens
    length = len(tokens.chunks[0])
    return tuple(c * length + row for c, end in enumerate(tokens.ends) for row in range(1, end))


EDITOR = Editor(
    name="ledits",
    title="LEDITS++",
    node_id="ALELEDITS",
    description=(
        "Adds or removes several things at once, each where it acts, without a source prompt and "
        "without masks: from an inversion to noise maps, guided by the target phrase of each edit. "
        "LEDITS++ (CVPR 2024, arXiv 2311.16711)."
    ),
    settings=LEDITSSettings,
    make_control=ledits_control,
    branches=lambda settings: (BranchPlan(RESULT, "negative", "unguided"),),
    has_edit_branches=True,
    plan=lambda settings: SamplingPlan(
        "second-order", Schedule(settings.steps, settings.strength, "LEDITS++"), "empty"
    ),
)
