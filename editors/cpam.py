"""CPAM: the target reads the source's background outside the object, and the prompt inside it.

Context-Preserving Adaptive Manipulation ("Rethinking Attentions in Zero-Shot Real Image Editing",
under review), and the code of its predecessor (vdkhoi20/thesis), which has what the paper leaves
out. In self-attention, the background of the target attends to the source's background, and the
object to itself or to the source's object; in cross-attention, the object attends to the prompt and
the rest to the empty text. A strategy says what the masks of source and target are
(cpam_masks.py). The image is inverted without text; so no source prompt is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, get_args

import torch
from torch import Tensor

from ..attention.control import Call, Control, Layer, Reads, Step, first_layer, first_step
from ..attention.mask_guided import ALL, Part, attend_in_parts, positions, positions_or_all
from ..attention.refined_mask import RefinedMask
from ..prompts.alignment import Rows
from ..prompts.edits import Variant
from ..prompts.word_replacement import find_everywhere
from ..regions.grid import coverage
from ..regions.regions import fit_masks
from .cpam_masks import (
    BY_STRATEGY,
    STRATEGIES,
    Masks,
    StrategyName,
    Task,
    find_tasks,
    make_masks,
    unite,
)
from .editor import SOURCE, TARGET, ControlInputs, Editor, Settings, Start, setting, share_setting
from .inverted import InvertedSettings, inversion_setting, plan_inversion
from .object_texts import ObjectTexts, OwnTexts, object_texts_setting

LEAST_SHARE = 0.01
"""The published code mixes object and background in every position with at least this share."""


@dataclass(frozen=True)
class ChoosesStrategy(Settings):
    """The first setting."""

    strategy: StrategyName = setting(
        "replace",
        "What to do where the masks are. replace: another object. replace (refined): the same, and "
        "the mask follows the new shape. add: a new object on the background. pose / view: the "
        "same object in another pose, view or action. background: keeps the objects and changes "
        "the rest. remove: fills the masks with the background; the prompt is not used. Beside all "
        "but the last two, an edit without a target removes its object, and one without a source "
        "adds it.",
        choices=get_args(StrategyName),
    )


@dataclass(frozen=True)
class CPAMSettings(InvertedSettings, ChoosesStrategy):
    """The defaults are the paper's. The shares are its numbers for SD 1.5, step 3 of 50 and layer 8
    of 16."""

    inversion_method: Start = inversion_setting("direct")
    expansion: float = setting(
        BY_STRATEGY,
        "How far each mask grows, as a share of the side of a square of its area. -1: as the "
        "strategy has it, 0.10 for add, replace (refined) and pose / view, 0.07 for replace, else "
        "0.",
        min=BY_STRATEGY,
        max=1.0,
        step=0.01,
    )
    plain_share: float = share_setting(
        0.1,
        "Share of the self-attention layers, drawn by the seed for each step, that attend as "
        "usual, which joins object and background. 0: none. The published code has none.",
        step=0.01,
    )
    start_step_share: float = share_setting(
        3 / 50,
        "For pose / view: share of the steps, from the first, in which the object is free to find "
        "its shape. After that, it takes its look from the source.",
        step=0.01,
    )
    start_layer_share: float = share_setting(
        8 / 16,
        "For pose / view: share of the self-attention layers, from the first, in which the object "
        "does not take its look from the source.",
        step=0.005,
    )
    mask_threshold: float = share_setting(
        0.25,
        "For replace (refined) and pose / view: how strongly a place must respond to the target "
        "phrases to belong to the object. Lower: larger object.",
        step=0.01,
    )
    object_texts: ObjectTexts = object_texts_setting(
        "What each object reads. whole prompt: all of it, as in the paper. each its own: its own "
        "phrase alone, as in ALE Edit. Not used by background and remove.",
    )


class CPAMControl(Control):
    """Preservation adaptation and localized extraction of one run.

    images: the masks on the pixels of each image, or of one for all. cell: pixels along each side
        of a latent cell. rows: those of the target phrases in the target prompt, for a mask that is
        refined. seed: of the plain layers; image j has seed + j. texts: those of the objects, where
        each has its own. The source has the empty text.
    """

    reads: Reads = {"target": frozenset(("source",))}
    kinds = frozenset(("self", "cross"))

    def __init__(
        self,
        settings: CPAMSettings,
        images: Sequence[Masks],
        cell: int,
        variant: Variant = "paper",
        rows: Rows = (),
        seed: int = 0,
        texts: OwnTexts | None = None,
    ) -> None:
        self._settings, self._strategy = settings, STRATEGIES[settings.strategy]
        self._texts, self.replaces_text = texts, texts is not None
        self._images, self._cell, self._variant = images, cell, variant
        self._rows, self._seed = rows, seed
        self._maps = RefinedMask()
        self._refined: Tensor | None = None  # (B, h, w) in {0, 1}
        self._step = 0
        self._drawn: dict[tuple[object, ...], list[Masks]] = {}
        self._parts: dict[tuple[object, ...], list[list[Part]]] = {}
        self._draws: dict[int, Tensor] = {}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return layer.kind == "self" or is_cond

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        if call.step.number != self._step:
            self._step = call.step.number
            mask = self._maps.mask(self._settings.mask_threshold)
            if mask is not None:
                self._refined = mask.float().cpu()
                self._parts.clear()
        if call.layer.kind == "self":
            return self._adapt(call)
        if self._rows:
            self._maps.look(call, self._rows)
        if self._texts is not None:
            places = [cells.target for cells in self._find_cells(call.layer)]
            return {"target": self._texts.attend(call, places)}
        return attend(call, self._find_parts(call, extract))

    # -- self-attention ----------------------------------------------------------------------------

    def _adapt(self, call: Call) -> Mapping[str, Tensor]:
        """Preservation adaptation, eq. 1 to 3."""
        is_plain = self._draw_plain(call)
        if is_plain.all():
            return {}
        if self._variant == "published code":
            return {"target": self._mix(call)}
        parts = self._find_parts(call, adapt, self._keeps_object(call.layer, call.step))
        out = attend(call, parts)
        if not out or not is_plain.any():
            return out
        rows = is_plain.to(out["target"].device)[:, None, None]
        return {"target": torch.where(rows, call.plain("target"), out["target"])}

    def _keeps_object(self, layer: Layer, step: Step) -> bool:
        settings = self._settings
        return (
            self._strategy.keeps_object
            and step.number >= first_step(settings.start_step_share, step.count)
            and layer.ordinal >= first_layer(settings.start_layer_share, layer.count)
        )

    def _mix(self, call: Call) -> Tensor:
        """The published code: object and background in every position, mixed by the mask, which is
        nowhere 0 or 1."""
        keeps = self._keeps_object(call.layer, call.step)
        whole = self._find_parts(call, object_everywhere, keeps)
        of_object = attend_in_parts(call, whole, "target")
        of_rest = attend_in_parts(call, self._find_parts(call, rest_everywhere), "target")
        masks = [cells.target for cells in self._find_cells(call.layer)]
        shares = torch.stack(masks).to(of_rest).clamp(LEAST_SHARE, 1 - LEAST_SHARE)[..., None]
        return of_object * shares + of_rest * (1 - shares)

    def _draw_plain(self, call: Call) -> Tensor:
        """(B,) bool: whether this layer attends as usual in this step."""
        images, share = len(call.q["target"]), self._settings.plain_share
        if share == 0 or self._variant == "published code":
            return torch.zeros(images, dtype=torch.bool)
        step, layer = call.step, call.layer
        for j in range(images):
            if j not in self._draws:
                draws = torch.Generator().manual_seed((self._seed + j) % 2**64)
                self._draws[j] = torch.rand(step.count, layer.count, generator=draws) < share
        return torch.stack([self._draws[j][step.number, layer.ordinal] for j in range(images)])

    # -- masks -------------------------------------------------------------------------------------

    def _find_parts(
        self, call: Call, make: Callable[..., list[Part]], *given: bool
    ) -> list[list[Part]]:
        """What `make` makes of the cells of each image, or of one for all."""
        layer, device = call.layer, call.q["target"].device
        key = make, given, layer.grid, layer.latent, device
        if key not in self._parts:
            self._parts[key] = [
                make(Masks(*(mask.to(device) for mask in cells)), *given)
                for cells in self._find_cells(layer)
            ]
        return self._parts[key]

    def _find_cells(self, layer: Layer) -> list[Masks]:
        """The masks on a layer's grid."""
        key = layer.grid, layer.latent
        if key not in self._drawn:
            self._drawn[key] = [self._draw_cells(masks, layer) for masks in self._images]
        drawn = self._drawn[key]
        if self._refined is None:
            return drawn
        images = drawn * len(self._refined) if len(drawn) == 1 else drawn
        refined = (self._bring_to_grid(mask, layer) for mask in self._refined)
        return [
            one._replace(target=(own & ~one.removed) | one.added)
            for one, own in zip(images, refined, strict=True)
        ]

    def _draw_cells(self, masks: Masks, layer: Layer) -> Masks:
        height, width = (self._cell * n for n in layer.latent)
        fitted = fit_masks(torch.stack(masks), height, width, self._cell)
        cells = Masks(*(self._bring_to_grid(mask, layer) for mask in fitted))
        if self._settings.strategy == "background":
            return cells._replace(source=~cells.source, target=~cells.target)
        return cells

    def _bring_to_grid(self, mask: Tensor, layer: Layer) -> Tensor:
        return coverage(mask[None], *layer.grid, self._variant).flatten()


# -- what reads what -------------------------------------------------------------------------------

Read: TypeAlias = tuple[Tensor | slice, str]
"""Positions of a branch."""


def adapt(cells: Masks, keeps: bool) -> list[Part]:
    """Self-attention. keeps: whether the object reads the source's object instead of the edit."""
    return _split(*_objects(cells.target, cells, keeps), (~cells.target, _rest(cells.source)))


def extract(cells: Masks) -> list[Part]:
    """Cross-attention, eq. 4: the object attends to the prompt, the rest to the empty text, which
    is the source's."""
    return _split((cells.target, (ALL, "target")), (~cells.target, (ALL, "source")))


def object_everywhere(cells: Masks, keeps: bool) -> list[Part]:
    return _split(*_objects(torch.ones_like(cells.target), cells, keeps))


def rest_everywhere(cells: Masks) -> list[Part]:
    return [Part(ALL, *_rest(cells.source))]


def _objects(readers: Tensor, cells: Masks, keeps: bool) -> list[tuple[Tensor, Read]]:
    """An object that is added has none in the source to read."""
    added = cells.added if keeps else torch.zeros_like(cells.added)
    kept = cells.target & ~added
    return [(readers & ~added, _object(kept, keeps)), (readers & added, _object(kept, False))]


def _object(target: Tensor, keeps: bool) -> Read:
    return (positions_or_all(target), "source") if keeps else (ALL, "target")


def _rest(source: Tensor) -> Read:
    return positions_or_all(~source), "source"


def _split(*sides: tuple[Tensor, Read]) -> list[Part]:
    """What the cells of some masks (L,) bool read."""
    return [Part(positions(mask), *read) for mask, read in sides if mask.any()]


def attend(call: Call, images: Sequence[Sequence[Part]]) -> Mapping[str, Tensor]:
    """The target's output by parts; nothing where that is plain attention in all images."""
    parts = [part for image in images for part in image]
    if all(p.readers is ALL and p.read is ALL and p.branch == "target" for p in parts):
        return {}
    return {"target": attend_in_parts(call, images, "target")}


# -- the control of one run ------------------------------------------------------------------------


def cpam_control(settings: CPAMSettings, inputs: ControlInputs) -> CPAMControl:
    """The control of one run.

    Raises ValueError for masks that leave nothing to do, that no cell of the latent sees, for an
    edit that the strategy leaves no choice, and for a target phrase that is not in the target
    prompt where the mask follows it.
    """
    strategy = settings.strategy
    tasks = find_tasks(strategy, inputs.phrases)
    images, drawn = [], []
    for one in inputs.require_regions().images:
        _require_cells(one.raw, tasks, inputs)
        images.append(make_masks(one.raw, tasks, strategy, settings.expansion))
        _require_rest(images[-1], tasks, strategy)
        drawn.append(one.raw[[k for k, task in enumerate(tasks) if task != "remove"]])
    rows = _find_rows(inputs, tasks) if STRATEGIES[strategy].is_refined else ()
    has_texts = has_own_texts(settings) and len(drawn[0]) > 0
    texts = OwnTexts(drawn, inputs.cell) if has_texts else None
    return CPAMControl(settings, images, inputs.cell, inputs.variant, rows, inputs.seed, texts)


def has_own_texts(settings: CPAMSettings) -> bool:
    """Whether each object reads its own phrase."""
    return settings.object_texts == "each its own" and not STRATEGIES[settings.strategy].of_all


def _require_rest(masks: Masks, tasks: Sequence[Task], strategy: StrategyName) -> None:
    left = {
        "no background to change": strategy == "background",
        "no background to fill them with": "remove" in tasks,
    }
    for what, is_needed in left.items():
        if is_needed and bool(masks.source.all()):
            raise ValueError(
                f"the masks cover the whole image, so there is {what}. Paint the object alone, or "
                "invert the mask."
            )


def _require_cells(raw: Tensor, tasks: Sequence[Task], inputs: ControlInputs) -> None:
    height, width = inputs.latent
    fitted = fit_masks(raw, inputs.cell * height, inputs.cell * width, inputs.cell)
    for task in dict.fromkeys(tasks):
        own = unite(fitted, tasks, task)
        if not coverage(own[None], height, width, inputs.variant).any():
            raise ValueError(
                f"the mask of the object covers no cell of the {height}x{width} of the latent, "
                "since the published code reads the top left pixel of each. Paint a larger mask, "
                "or choose the variant paper."
            )


def _find_rows(inputs: ControlInputs, tasks: Sequence[Task]) -> Rows:
    """The rows in the target prompt of the target phrases of all objects that are changed."""
    rows: set[int] = set()
    for (_, phrase), task in zip(inputs.phrases, tasks, strict=True):
        if task != "change":
            continue
        found = find_everywhere(inputs.target.tokens, inputs.read_word(phrase))
        if not found:
            raise ValueError(
                f'the target phrase "{phrase}" does not occur in the target prompt '
                f'("{inputs.target.text}"), so the mask cannot follow it. Write it into the target '
                "prompt, or choose the strategy replace."
            )
        rows.update(found)
    return tuple(sorted(rows))


EDITOR = Editor(
    name="cpam",
    title="CPAM",
    node_id="ALECPAM",
    description=(
        "Replaces, adds, removes or reshapes objects in masks, or changes the background around "
        "them, and keeps the rest, without a source prompt: outside the masks, the edit attends to "
        "the source and to no text. CPAM, on DDIM inversion."
    ),
    settings=CPAMSettings,
    make_control=cpam_control,
    branches=lambda settings: (replace(SOURCE, text="empty"), TARGET),
    plan=lambda settings: plan_inversion(settings, "empty"),
    has_object_texts=has_own_texts,
    grow_regions=lambda settings: 0.0,
    abilities=frozenset(("add", "remove")),
)
