"""CPAM: the target reads the source's background outside the object, and the prompt inside it.

Context-Preserving Adaptive Manipulation ("Rethinking Attentions in Zero-Shot Real Image Editing",
under review), and the code of its predecessor (vdkhoi20/thesis), which has what the paper leaves
out. In self-attention, the background of the target attends to the source's background, and the
object to itself or to the source's object; in cross-attention, the object attends to the prompt and
the rest to the empty text. A strategy says what the masks of source and target are. The image is
inverted without text; so no source prompt is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..attention.control import Call, Control, Layer, Reads, Step, first_layer, first_step
from ..attention.mask_guided import ALL, Part, attend_in_parts, positions, positions_or_all
from ..attention.refined_mask import RefinedMask
from ..prompts.alignment import Rows
from ..prompts.edits import Variant
from ..prompts.word_replacement import find_everywhere
from ..regions.grid import coverage
from ..regions.regions import fit_masks, grow_by_area
from .editor import SOURCE, TARGET, ControlInputs, Editor, Settings, Start, setting, share_setting
from .inverted import InvertedSettings, inversion_setting, plan_inversion
from .object_texts import ObjectTexts, OwnTexts, object_texts_setting

StrategyName: TypeAlias = Literal[
    "add", "replace", "replace (refined)", "pose / view", "background", "remove"
]

BY_STRATEGY = -1.0
LEAST_SHARE = 0.01
"""The published code mixes object and background in every position with at least this share."""


@dataclass(frozen=True)
class Strategy:
    """One way to set the masks. expansion: by how much the mask grows, as a share of the side of a
    square of its area. is_refined: whether the target's mask follows the words after the first
    step. keeps_object: whether the object reads the source's object."""

    expansion: float
    is_refined: bool = False
    keeps_object: bool = False


STRATEGIES: Mapping[StrategyName, Strategy] = {
    "add": Strategy(0.10),
    "replace": Strategy(0.07),
    "replace (refined)": Strategy(0.10, is_refined=True),
    "pose / view": Strategy(0.10, is_refined=True, keeps_object=True),
    "background": Strategy(0.0),
    "remove": Strategy(0.0),
}


@dataclass(frozen=True)
class ChoosesStrategy(Settings):
    """The first setting."""

    strategy: StrategyName = setting(
        "replace",
        "What to do where the masks are. replace: another object. replace (refined): the same, and "
        "the mask follows the new shape. add: a new object on the background. pose / view: the "
        "same object in another pose, view or action. background: keeps the objects and changes "
        "the rest. remove: fills the masks with the background; the prompt is not used.",
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


@dataclass(frozen=True, eq=False)
class Masks:
    """Of one image, (H, W) in {0, 1}: the objects, and the objects grown."""

    objects: Tensor
    grown: Tensor


Cells: TypeAlias = tuple[Tensor, Tensor]
"""M_s and M_t of one image on a layer's grid: (L,) bool."""


class CPAMControl(Control):
    """Preservation adaptation and localized extraction of one run.

    images: the masks of each image, or of one for all. cell: pixels along each side of a latent
        cell. rows: those of the target phrases in the target prompt, for a mask that is refined.
        seed: of the plain layers; image j has seed + j. texts: those of the objects, where each has
        its own. The source has the empty text.
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
        self._drawn: dict[tuple[object, ...], list[Cells]] = {}
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
        if self._strategy.is_refined:
            self._maps.look(call, self._rows)
        if self._texts is not None:
            cells = self._find_cells(call.layer)
            return {"target": self._texts.attend(call, [target for _, target in cells])}
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
        masks = [target for _, target in self._find_cells(call.layer)]
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
        """What `make` makes of M_s and M_t of each image, or of one for all."""
        layer, device = call.layer, call.q["target"].device
        key = make, given, layer.grid, layer.latent, device
        if key not in self._parts:
            self._parts[key] = [
                make(source.to(device), target.to(device), *given)
                for source, target in self._find_cells(layer)
            ]
        return self._parts[key]

    def _find_cells(self, layer: Layer) -> list[Cells]:
        key = layer.grid, layer.latent
        if key not in self._drawn:
            self._drawn[key] = [self._draw_cells(masks, layer) for masks in self._images]
        drawn = self._drawn[key]
        if self._refined is None:
            return drawn
        images = drawn * len(self._refined) if len(drawn) == 1 else drawn
        refined = (self._bring_to_grid(mask, layer) for mask in self._refined)
        return [(source, own) for (source, _), own in zip(images, refined, strict=True)]

    def _draw_cells(self, masks: Masks, layer: Layer) -> Cells:
        """M_s and M_t by the strategy."""
        height, width = (self._cell * n for n in layer.latent)
        both = torch.stack([masks.objects, masks.grown])
        objects, grown = (
            self._bring_to_grid(mask, layer) for mask in fit_masks(both, height, width, self._cell)
        )
        if self._settings.strategy == "background":
            return ~grown, ~grown
        if self._settings.strategy == "remove":
            return grown, torch.zeros_like(grown)
        return objects, grown

    def _bring_to_grid(self, mask: Tensor, layer: Layer) -> Tensor:
        return coverage(mask[None], *layer.grid, self._variant).flatten()


# -- what reads what -------------------------------------------------------------------------------

Read: TypeAlias = tuple[Tensor | slice, str]
"""Positions of a branch."""


def adapt(source: Tensor, target: Tensor, keeps: bool) -> list[Part]:
    """Self-attention. keeps: whether the object reads the source's object instead of the edit."""
    return _split(target, _object(target, keeps), _rest(source))


def extract(source: Tensor, target: Tensor) -> list[Part]:
    """Cross-attention, eq. 4: the object attends to the prompt, the rest to the empty text, which
    is the source's."""
    return _split(target, (ALL, "target"), (ALL, "source"))


def object_everywhere(source: Tensor, target: Tensor, keeps: bool) -> list[Part]:
    return [Part(ALL, *_object(target, keeps))]


def rest_everywhere(source: Tensor, target: Tensor) -> list[Part]:
    return [Part(ALL, *_rest(source))]


def _object(target: Tensor, keeps: bool) -> Read:
    return (positions_or_all(target), "source") if keeps else (ALL, "target")


def _rest(source: Tensor) -> Read:
    return positions_or_all(~source), "source"


def _split(target: Tensor, of_object: Read, of_rest: Read) -> list[Part]:
    sides = (target, of_object), (~target, of_rest)
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

    Raises ValueError for masks that leave nothing to do, that no cell of the latent sees, and for a
    target phrase that is not in the target prompt where the mask follows it.
    """
    objects = [one.raw for one in inputs.require_regions().images]
    images = [_masks_of(raw, settings) for raw in objects]
    for masks in images:
        _require_masks(masks, settings, inputs)
    rows = _find_rows(inputs) if STRATEGIES[settings.strategy].is_refined else ()
    texts = OwnTexts(objects, inputs.cell) if has_own_texts(settings) else None
    return CPAMControl(settings, images, inputs.cell, inputs.variant, rows, inputs.seed, texts)


def has_own_texts(settings: CPAMSettings) -> bool:
    """Whether each object reads its own phrase."""
    is_used = settings.strategy not in ("background", "remove")
    return is_used and settings.object_texts == "each its own"


def _masks_of(raw: Tensor, settings: CPAMSettings) -> Masks:
    """raw: (K, H, W), those of the objects."""
    is_set = settings.expansion >= 0
    share = settings.expansion if is_set else STRATEGIES[settings.strategy].expansion
    objects = raw.amax(0)
    return Masks(objects, grow_by_area(objects, share))


def _require_masks(masks: Masks, settings: CPAMSettings, inputs: ControlInputs) -> None:
    if settings.strategy in ("background", "remove") and bool(masks.grown.all()):
        use = "change" if settings.strategy == "background" else "fill them with"
        raise ValueError(
            f"the masks cover the whole image, so there is no background to {use}. Paint the "
            "object alone, or invert the mask."
        )
    height, width = inputs.latent
    objects = fit_masks(masks.objects[None], inputs.cell * height, inputs.cell * width, inputs.cell)
    if not coverage(objects, height, width, inputs.variant).any():
        raise ValueError(
            f"the mask of the object covers no cell of the {height}x{width} of the latent, since "
            "the published code reads the top left pixel of each. Paint a larger mask, or choose "
            "the variant paper."
        )


def _find_rows(inputs: ControlInputs) -> Rows:
    """The rows of all target phrases in the target prompt."""
    rows: set[int] = set()
    for _, phrase in inputs.phrases:
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
)
