"""MAG-Edit: before each step of the first half, the latents of the edit move to where the new words
get more of the attention inside their object's mask.

Mao, Chen, Zhang, Gu, Wang, Luo, Zhu, Shou: MAG-Edit: Localized Image Editing in Complex Scenarios
via Mask-Based Attention-Adjusted Guidance (arXiv 2312.11396). It runs Prompt-to-Prompt's
refinement from null-text inversion, with its maps in force while the latents are optimised; the
last steps keep the source outside the masks. Of several objects, each has its own words and its own
mask; their losses are summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..attention.control import Call, Control, Evaluate, Layer, Step, first_step
from ..attention.descent import find_gradient, require_finite
from ..attention.map_losses import (
    WordLoss,
    mean_loss,
    move_down,
    spatial_ratio_loss,
    token_ratio_loss,
)
from ..attention.word_maps import LayerMaps, find_grid, query_parts
from ..prompts.alignment import Rows, align
from ..prompts.object_words import (
    find_named_words,
    find_phrases,
    inside,
    share_among,
    words_of_phrase,
)
from ..regions.grid import require_cells, sample_masks
from ..regions.regions import Regions
from .editor import ControlInputs, Editor, Start, setting, share_setting
from .inverted import InvertedSettings, inversion_setting, plan_inversion
from .p2p import P2PControl, P2PSettings, WordMapper, find_mapper, is_cross_step

Constraint = Literal["token ratio", "spatial ratio"]
CONSTRAINTS: tuple[str, ...] = get_args(Constraint)
LOSSES: dict[str, WordLoss] = {
    "token ratio": token_ratio_loss,
    "spatial ratio": spatial_ratio_loss,
}
TOKEN_RATIO_STOPS = ((0.2, 0.95), (0.4, 0.96), (1.0, 0.97))
"""Of the early stop: shares of the steps, and the loss that is small enough up to there."""
SPATIAL_RATIO_STOP = 2.0
LOSS_SCALE = 256.0
"""Gradients of the loss are computed this much larger, so that half precision holds them."""


@dataclass(frozen=True)
class MagEditSettings(InvertedSettings):
    """The defaults are the paper's, with the numbers of the published code."""

    inversion_method: Start = inversion_setting("null-text", papers="null-text")
    constraint: Constraint = setting(
        "token ratio",
        "What the new words gain. token ratio: a larger share of the attention inside the mask. "
        "spatial ratio: the mask gains a larger share of the attention to these words.",
        choices=CONSTRAINTS,
    )
    scale: float = setting(
        2.5,
        "How far each update goes. Higher: a stronger edit, but more artifacts.",
        min=0.0,
        max=100.0,
        step=0.1,
    )
    iterations: int = setting(
        15,
        "Most updates a step. Each takes about as long as a step of sampling. 0: Prompt-to-Prompt.",
        min=0,
        max=200,
        step=1,
    )
    optimise_share: float = share_setting(
        0.5,
        "Share of the steps, from the first, before which the edit is optimised.",
    )
    early_stop: bool = setting(
        False,
        "Ends the updates of a step once the words have gained enough, as in the code before its "
        "release. Faster and weaker.",
    )
    edit_words: str = setting(
        "",
        "Words of the target phrases to optimise. Empty: each word that the source prompt does not "
        "have.",
    )
    negative_words: str = setting(
        "",
        "Words of the source prompt that the edit should lose inside the masks, such as a colour. "
        "Each update then takes twice as long.",
    )
    negative_scale: float = setting(
        2.5,
        "How far each update goes away from negative_words.",
        min=0.0,
        max=100.0,
        step=0.1,
    )
    cross_share: float = share_setting(
        0.8,
        "Share of the steps, from the first, in which words keep their place in the image.",
    )
    self_share: float = share_setting(
        0.5,
        "Share of the steps, from the first, that keep the source's structure. High for "
        "colours and materials, low for new shapes.",
    )
    blend_share: float = share_setting(
        0.3,
        "Share of the steps, at the end, in which the source is kept outside the masks. 0: never.",
    )


@dataclass(frozen=True)
class ObjectWords:
    """The words of one object, each by the rows of its tokens. name: its target phrase. new: in the
    target prompt. negative: in the source prompt."""

    name: str
    new: tuple[Rows, ...]
    negative: tuple[Rows, ...] = ()


def find_objects(settings: MagEditSettings, inputs: ControlInputs) -> list[ObjectWords]:
    """The words of each edit.

    Raises ValueError for a word of the settings that is in no prompt or in no phrase, and for an
    edit without a word that could be optimised.
    """
    sources, targets = ([pair[i] for pair in inputs.phrases] for i in range(2))
    source, target, read_word = inputs.source, inputs.target, inputs.read_word
    own = find_phrases("target", targets, target, read_word)
    theirs: Sequence[Rows] = [()] * len(sources)
    if settings.negative_words.strip():
        theirs = find_phrases("source", sources, source, read_word)
    unaligned = tuple((align(source.tokens, target.tokens).mapper < 0).nonzero().flatten().tolist())
    chosen = find_named_words("edit_words", settings.edit_words, "target", target, read_word)
    for word, rows in chosen.items():
        if not any(inside(rows, phrase) for phrase in own):
            raise ValueError(
                f'the word "{word}" of edit_words is in no target phrase of the edits '
                f"({', '.join(targets)}). Choose a word of a target phrase."
            )
        if settings.cross_share > 0 and not inside(rows, unaligned):
            raise ValueError(
                f'the word "{word}" of edit_words is in both prompts, so it keeps its place by '
                "cross_share and cannot be optimised. Choose a word that only the target prompt "
                "has, or set cross_share to 0."
            )
    unwanted = find_named_words(
        "negative_words", settings.negative_words, "source", source, read_word
    )
    found = []
    for phrase, rows, negative in zip(targets, own, share_among(unwanted, theirs), strict=True):
        named = [part for word in chosen.values() if (part := inside(word, rows))]
        if settings.cross_share > 0 or not named:  # tokens in both prompts have the source's maps
            each = named or words_of_phrase(phrase, rows, target, read_word)
            named = [part for word in each if (part := inside(word, unaligned))]
        if not named:
            raise ValueError(
                f'the target phrase "{phrase}" has no word that the source prompt '
                f'("{source.text}") does not have, so there is nothing to optimise. Write what the '
                "object becomes into the edit, or remove the edit."
            )
        found.append(ObjectWords(phrase, tuple(named), negative))
    return found


# -- control ---------------------------------------------------------------------------------------


class MagEditControl(P2PControl):
    """Prompt-to-Prompt's control of one run, and the optimisation before its steps.

    regions: a mask for each object, of each image or of one for all. cell: pixels along each side
    of a latent cell.
    """

    def __init__(
        self,
        settings: MagEditSettings,
        words: WordMapper,
        objects: Sequence[ObjectWords],
        regions: Regions,
        cell: int,
    ) -> None:
        super().__init__(_as_p2p(settings), words)
        self._mag = settings
        self._objects = objects
        self._images = regions.images
        self._cell = cell
        self._cells: dict[tuple[object, ...], Tensor] = {}
        self._layers = LayerMaps()
        self._is_optimising = self._is_looking = False
        self._is_avoiding = settings.negative_scale > 0 and any(one.negative for one in objects)
        if self._is_optimised():
            self.reads = {"target": frozenset(("source",))}
            if self._is_avoiding:
                self.reads = {**self.reads, "source": frozenset()}

    # -- attention ---------------------------------------------------------------------------------

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        # in every layer, so that a block computed again for its gradients is the same
        return is_cond and (self._is_optimising or is_cross_step(self._settings, step))

    def keeps(self, layer: Layer) -> bool:
        """Whether the maps of a layer go into the loss."""
        return self._is_looking and self._layers.takes(layer)

    def keep(self, layer: Layer, maps: Mapping[str, Tensor]) -> None:
        self._layers.add(layer, maps)

    def maps_to_keep(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"target": target}

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        if "target" in call.running or not (self._is_optimising and self._is_avoiding):
            return super().outputs(call)
        q, k = call.q["source"], call.k["source"]
        parts = [call.probs(q[:, part], k) for part in query_parts(call, ("source",))]
        if self.keeps(call.layer):
            self.keep(call.layer, {"source": torch.cat(parts, 2)})
        return {}

    # -- optimisation ------------------------------------------------------------------------------

    def optimises(self, step: Step) -> bool:
        is_early = step.number < first_step(self._mag.optimise_share, step.count)
        return is_early and self._is_optimised()

    def _is_optimised(self) -> bool:
        return self._mag.iterations > 0 and self._mag.optimise_share > 0

    def optimise(
        self, latents: Mapping[str, Tensor], step: Step, evaluate: Evaluate
    ) -> Mapping[str, Tensor]:
        settings, x = self._mag, latents["target"]
        size = (x.shape[-2], x.shape[-1])
        where = self._regions(size, size, x.device).any(1, keepdim=True).to(x)
        is_moving = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._is_optimising = True
        try:
            evaluate("source", latents["source"])  # once: it stays as it is
            for _ in range(settings.iterations):
                x = x.detach().requires_grad_()
                losses = self._losses("target", x, evaluate)
                loss = settings.scale * losses.sum(1)
                require_finite(f"loss is {loss.tolist()}", loss, step, "scale")
                is_moving = is_moving & (losses.detach() > stop_below(settings, step)).any(1)
                if not bool(is_moving.any()):
                    break
                gradient = find_gradient(loss, x, step, "scale", LOSS_SCALE)
                if self._is_avoiding:  # once the graph of the first evaluation is gone
                    away = settings.negative_scale * self._losses("source", x, evaluate).sum(1)
                    require_finite(f"loss is {away.tolist()}", away, step, "scale")
                    gradient = gradient - find_gradient(away, x, step, "scale", LOSS_SCALE)
                moved = move_down(x.detach(), gradient, where, step.sigma).to(x)
                x = torch.where(is_moving[:, None, None, None], moved, x.detach())
        finally:
            self._is_optimising = False
            self._layers.forget()
        return {**latents, "target": x.detach()}

    def _losses(self, branch: str, x: Tensor, evaluate: Evaluate) -> Tensor:
        """(B, K): the loss of each object, of its new words in the target, of its negative words in
        the source's text."""
        self._is_looking = True
        try:
            evaluate(branch, x)
        finally:
            self._is_looking = False
        layers = self._layers.take(branch)
        grid = self._layers.grid
        regions = self._regions(grid, (x.shape[-2], x.shape[-1]), x.device).flatten(2).float()
        loss = LOSSES[self._mag.constraint]
        found = []
        for k, one in enumerate(self._objects):
            words = one.new if branch == "target" else one.negative
            found.append(
                mean_loss(loss, layers, regions[:, k], words)
                if words
                else torch.zeros(len(x), device=x.device)
            )
        return torch.stack(found, 1)

    def _regions(
        self, grid: tuple[int, int], latent: tuple[int, int], device: torch.device
    ) -> Tensor:
        """(1 or B, K, *grid) bool: where the objects are."""
        key = grid, device
        if key not in self._cells:
            names = [one.name for one in self._objects]
            each = (sample_masks(one.dilated, names, grid, latent, self._cell)
                    for one in self._images)  # fmt: skip
            self._cells[key] = torch.stack([*each]).to(device)
        return self._cells[key]

    # -- blending ----------------------------------------------------------------------------------

    def blend_latents(self, latents: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """In the last steps, the target is the source outside the masks grown by a cell."""
        if step.number < step.count - first_step(self._mag.blend_share, step.count):
            return latents
        source, target = latents["source"], latents["target"]
        size = (target.shape[-2], target.shape[-1])
        where = self._regions(size, size, target.device).any(1, keepdim=True).float()
        is_inside = max_pool2d(where, 3, stride=1, padding=1) > 0
        return {**latents, "target": torch.where(is_inside, target, source)}


def stop_below(settings: MagEditSettings, step: Step) -> float:
    """The loss at which the updates of a step end."""
    if not settings.early_stop:
        return -math.inf
    if settings.constraint == "spatial ratio":
        return SPATIAL_RATIO_STOP
    return next(
        loss
        for share, loss in TOKEN_RATIO_STOPS
        if step.number < first_step(share, step.count) or share == 1
    )


def _as_p2p(settings: MagEditSettings) -> P2PSettings:
    return P2PSettings(
        steps=settings.steps,
        strength=settings.strength,
        cross_share=settings.cross_share,
        self_share=settings.self_share,
    )


def mag_edit_control(settings: MagEditSettings, inputs: ControlInputs) -> Control:
    """The control of one run.

    Raises ValueError as `find_objects` and `find_mapper`, and for a mask that is smaller than a
    cell of the maps.
    """
    words = find_mapper(_as_p2p(settings), inputs)
    regions = inputs.require_regions()
    objects = [ObjectWords(target, ()) for _, target in inputs.phrases]
    is_optimised = settings.iterations > 0 and settings.optimise_share > 0
    if is_optimised:
        objects = find_objects(settings, inputs)
    names, latent = [each.name for each in objects], inputs.latent
    masks = [one.dilated for one in regions.images]
    if is_optimised:
        require_cells(masks, names, find_grid(latent), latent, inputs.cell)
    if is_optimised or settings.blend_share > 0:
        require_cells(masks, names, latent, latent, inputs.cell)
    return MagEditControl(settings, words, objects, regions, inputs.cell)


EDITOR = Editor(
    name="mag-edit",
    title="MAG-Edit",
    node_id="ALEMAGEdit",
    description=(
        "Edits objects inside their masks: before the first half of the steps, the edit is "
        "optimised until the new words get more attention there. For small objects in busy images; "
        "takes minutes. MAG-Edit (arXiv 2312.11396), on Prompt-to-Prompt and null-text inversion."
    ),
    settings=MagEditSettings,
    make_control=mag_edit_control,
    plan=plan_inversion,
    grow_regions=lambda settings: 0.0,
)
