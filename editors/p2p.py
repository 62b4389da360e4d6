"""Prompt-to-Prompt: the edit attends to its words, and to itself, with the maps of the source.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or: Prompt-to-Prompt Image Editing with Cross
Attention Control, ICLR 2023 (arXiv 2208.01626). In the conditional half of guidance the target's
cross-attention maps become those of the source's words (replace, refine), times a factor for some
words (reweight), and its self-attention maps on coarse grids become the source's. A local blend
keeps the source outside the places of some words.

Numbers and order follow the published code with the numbers of PIE-Bench (Ju, Zeng, Bian, Liu, Xu,
ICLR 2024, arXiv 2310.01506).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..attention.control import Call, Control, Layer, Reads, Route, Step, first_step
from ..attention.word_maps import WordMaps, query_parts, refine, replace_words
from ..prompts.alignment import EncodedPrompt, Rows, Word, align, is_aligned
from ..prompts.blend_words import blend_words
from ..prompts.word_replacement import find_everywhere, parse_factors, replacement_shares
from .editor import ControlInputs, Editor, setting, share_setting
from .inverted import InvertedSettings, SampledSettings, plan_inversion

EditMode = Literal["refine", "replace"]
EDIT_MODES: tuple[str, ...] = get_args(EditMode)

BRANCHES = ("source", "target")


@dataclass(frozen=True)
class WordControlSettings(SampledSettings):
    """What the control acts by. The defaults are those of PIE-Bench's script, which also reweights
    the edited word by 2."""

    edit_mode: EditMode = setting(
        "refine",
        "refine: words in both prompts keep their place; words may be added or removed. "
        "replace: each word replaces the word at the same position in the source prompt.",
        choices=EDIT_MODES,
    )
    cross_share: float = share_setting(
        0.4,
        "Share of the steps, from the first, in which words keep their place in the image.",
    )
    self_share: float = share_setting(
        0.6,
        "Share of the steps, from the first, that keep the source's structure. High for "
        "colours and materials, low for new shapes.",
    )
    reweight: str = setting(
        "",
        'Words of the target prompt with factors, such as "goat: 2.0, ball: 1.5". Above 1, a '
        "word has more effect; below 1, less. Applies in the steps of cross_share.",
    )
    blend_words: str = setting(
        "",
        "Words of the source or target prompt. The image changes only where they are. Empty: "
        "it may change everywhere.",
    )
    subtract_words: str = setting(
        "",
        "Words of either prompt. The source is kept where they are, even if blend_words "
        "are there too.",
    )
    blend_threshold: float = share_setting(
        0.3,
        "How strongly a place must respond to blend_words or subtract_words to count, "
        "relative to the strongest response. Lower: larger areas.",
    )
    blend_start: float = share_setting(
        0.2,
        "Share of the steps, from the first, after which blend_words take effect.",
    )


@dataclass(frozen=True)
class P2PSettings(WordControlSettings, InvertedSettings):
    """The same, and what its own node has besides."""

    ets_prompt: str = setting(
        "",
        'End Token Substitution: the target prompt without its attributes, such as "goat and '
        'ball". Its end tokens replace those of the target prompt. Empty: off.',
    )


@dataclass(frozen=True)
class BlendRows:
    """Rows of some words in each prompt."""

    source: Rows = ()
    target: Rows = ()

    def __bool__(self) -> bool:
        return bool(self.source or self.target)


def p2p_control(settings: WordControlSettings, inputs: ControlInputs) -> P2PControl:
    """The control of one run.

    Raises ValueError when a prompt is empty, the prompts don't fit the edit mode, a word of the
    settings is in no prompt, or a setting could have no effect.
    """
    words = find_mapper(settings, inputs)
    return P2PControl(settings, words, *find_blends(settings, inputs))


def find_blends(
    settings: WordControlSettings, inputs: ControlInputs
) -> tuple[BlendRows, BlendRows]:
    """The words of the local blend, and those that are subtracted.

    Raises ValueError for a word that is in no prompt, and for a blend that could do nothing or all.
    """
    blended, kept = (
        _blend_rows(name, getattr(settings, name), inputs)
        for name in ("blend_words", "subtract_words")
    )
    _require_blend(settings, blended, kept)
    return blended, kept


def find_mapper(settings: WordControlSettings, inputs: ControlInputs) -> WordMapper:
    """What the source's maps become for the words of the target.

    Raises ValueError as `p2p_control`.
    """
    source, target = inputs.source, inputs.target
    for side, prompt in (("source", source), ("target", target)):
        if not prompt.tokens.words:
            raise ValueError(
                f"the {side} prompt is empty. Write what the image shows into both prompts, "
                "identical except for what the edit changes."
            )
    mapper = shares = None
    if settings.edit_mode == "replace":
        shares = replacement_shares(source, target, inputs.read_word, inputs.variant)
    else:
        alignment = align(source.tokens, target.tokens)
        if settings.cross_share > 0 and not is_aligned(alignment, target):
            inputs.advise(
                f'no word of the target prompt ("{target.text}") is also in the source prompt '
                f'("{source.text}"), so none keeps its place in the image. Describe the whole '
                "image in both prompts of the edits."
            )
        mapper = alignment.mapper
    return WordMapper(mapper, shares, _factors(settings, target, inputs.read_word))


def _factors(
    settings: WordControlSettings, target: EncodedPrompt, read_word: Callable[[str], Word]
) -> Tensor | None:
    """(N_target,), or None where no word is reweighted."""
    words = parse_factors(settings.reweight)
    if not words:
        return None
    if settings.cross_share == 0:
        raise ValueError(
            "reweight applies in the steps of cross_share, which is 0. Raise cross_share, or leave "
            "out reweight."
        )
    factors = torch.ones(len(target.tokens.chunks) * len(target.tokens.chunks[0]))
    for word, factor in words:
        rows = find_everywhere(target.tokens, read_word(word))
        if not rows:
            raise ValueError(
                f'the word "{word}" of reweight does not occur in the target prompt '
                f'("{target.text}"). Write it as in the prompt, or leave it out.'
            )
        factors[list(rows)] = factor
    return factors


def _blend_rows(setting_name: str, words: str, inputs: ControlInputs) -> BlendRows:
    found: dict[str, set[int]] = {side: set() for side in BRANCHES}
    for word in map(inputs.read_word, blend_words(words)):
        rows = {side: find_everywhere(getattr(inputs, side).tokens, word) for side in BRANCHES}
        if not any(rows.values()):
            raise ValueError(
                f'the word "{word.text}" of {setting_name} occurs neither in the source prompt '
                f'("{inputs.source.text}") nor in the target prompt ("{inputs.target.text}"). '
                "Write it as in the prompt, or leave it out."
            )
        for side in BRANCHES:
            found[side].update(rows[side])
    return BlendRows(*(tuple(sorted(found[side])) for side in BRANCHES))


def _require_blend(settings: WordControlSettings, blended: BlendRows, kept: BlendRows) -> None:
    """Raises ValueError when a local blend is asked for that could do nothing or all."""
    if kept and not blended:
        raise ValueError(
            "subtract_words takes places from those of blend_words, which is empty. Write words "
            "into blend_words, or leave out subtract_words."
        )
    if not blended:
        return
    if settings.blend_threshold >= 1:
        raise ValueError(
            f"the mask of blend_words is empty at blend_threshold {settings.blend_threshold:g}, "
            "because no place is clearer than the clearest. Lower blend_threshold, or leave out "
            "blend_words."
        )
    steps = first_step(settings.strength, settings.steps)
    start = first_step(settings.blend_start, steps)
    if start >= max(steps, 1):
        raise ValueError(
            f"blend_start {settings.blend_start:g} of {steps} steps is step {start} (counted from "
            f"0), but the last one is {steps - 1}. Lower blend_start, or leave out blend_words."
        )


class WordMapper:
    """What the source's cross-attention map becomes for the target.

    mapper: (N_target,), of refine. shares: (N_source, N_target), of replace. factors: (N_target,),
    of reweight.
    """

    def __init__(
        self, mapper: Tensor | None, shares: Tensor | None, factors: Tensor | None
    ) -> None:
        self._mapper, self._shares, self._factors = mapper, shares, factors

    def carry(self, source: Tensor, own: Tensor) -> Tensor:
        """(..., N_target) of the maps of source and target. Sums are not 1 in general; the
        published code leaves them so."""
        self._move_to(own.device)
        if self._shares is not None:
            carried = replace_words(source, own, self._shares)
        else:
            assert self._mapper is not None
            carried = refine(source, own, self._mapper)
        return carried if self._factors is None else carried * self._factors

    def _move_to(self, device: torch.device) -> None:
        self._mapper, self._shares, self._factors = (
            None if tensor is None else tensor.to(device)
            for tensor in (self._mapper, self._shares, self._factors)
        )


class P2PControl(Control):
    """Attention control and local blend of one run."""

    kinds = frozenset(("cross",))

    def __init__(
        self,
        settings: WordControlSettings,
        words: WordMapper,
        blended: BlendRows | None = None,
        kept: BlendRows | None = None,
    ) -> None:
        self._settings = settings
        self._words = words
        self._blended, self._kept = blended or BlendRows(), kept or BlendRows()
        self._maps = WordMaps()
        is_reading = settings.cross_share > 0 or settings.self_share > 0 or bool(self._blended)
        self.reads: Reads = {"target": frozenset(("source",))} if is_reading else {}

    # -- attention ---------------------------------------------------------------------------------

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        """The source's self-attention map with the target's values."""
        if is_cond and layer.is_half_or_coarser and is_self_step(self._settings, step):
            return {"target": Route("source", "source", "target")}
        return {}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return is_cond and (is_cross_step(self._settings, step) or self.keeps(layer))

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """Cross-attention with the source's map, seen by the target's words. Keeps the maps of the
        words of the local blend on the way."""
        if "target" not in call.running:
            return {}
        replaces, keeps = is_cross_step(self._settings, call.step), self.keeps(call.layer)
        q_s, q_t, v = call.q["source"], call.q["target"], call.v["target"]
        outputs: list[Tensor] = []
        maps: list[Mapping[str, Tensor]] = []
        for part in query_parts(call, BRANCHES):
            own = call.probs(q_t[:, part], call.k["target"])
            source = call.probs(q_s[:, part], call.k["source"])
            if replaces:
                own = self._words.carry(source, own)
                outputs.append(call.mix(own, v))
            if keeps:
                maps.append(self.maps_to_keep(source, own))
        if keeps:
            self.keep(
                call.layer, {name: torch.cat([part[name] for part in maps], 2) for name in maps[0]}
            )
        return {"target": torch.cat(outputs, 1)} if replaces else {}

    def keeps(self, layer: Layer) -> bool:
        """Whether the maps of a layer go into a local blend."""
        return bool(self._blended) and self._maps.takes(layer)

    def keep(self, layer: Layer, maps: Mapping[str, Tensor]) -> None:
        self._maps.add(layer, maps)

    def maps_to_keep(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The maps (B, heads, L, 1) that count for a local blend: of each prompt's words, summed
        over their tokens; the target's are those that it attends with."""
        chosen = {"blended": self._blended, "kept": self._kept}
        return {
            f"{name} {side}": own[..., list(getattr(rows, side))].sum(-1, keepdim=True)
            for name, rows in chosen.items()
            for side, own in (("source", source), ("target", target))
            if getattr(rows, side)
        }

    # -- local blend -------------------------------------------------------------------------------

    def blend_latents(self, latents: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """The target is the source outside the places of the blend words, and where the subtracted
        words are."""
        settings = self._settings
        if not self._blended or step.number < first_step(settings.blend_start, step.count):
            return latents
        source, target = latents["source"], latents["target"]
        size = (target.shape[-2], target.shape[-1])
        mask = self._mask("blended", self._blended, size)
        if self._kept:
            mask = mask & ~self._mask("kept", self._kept, size)
        return {**latents, "target": torch.where(mask, target, source)}

    def _mask(self, name: str, rows: BlendRows, size: tuple[int, int]) -> Tensor:
        """(B, 1, *size) bool: where words are in the source or in the target."""
        masks = [
            self._maps.mask(
                f"{name} {side}", (0,), size, self._settings.blend_threshold, name == "blended"
            )
            for side in BRANCHES
            if getattr(rows, side)
        ]
        return masks[0] | masks[-1]


def is_cross_step(settings: WordControlSettings, step: Step) -> bool:
    """Whether a step replaces cross-attention maps: i < floor(cross_share (n + 1))."""
    return step.number < first_step(settings.cross_share, step.count + 1)


def is_self_step(settings: WordControlSettings, step: Step) -> bool:
    """Whether a step replaces self-attention maps: i < floor(self_share n)."""
    return step.number < first_step(settings.self_share, step.count)


EDITOR = Editor(
    name="p2p",
    title="Prompt-to-Prompt",
    node_id="ALEP2P",
    description=(
        "Edits an image with a source and a target prompt, without masks, from an inversion "
        "of the image: words keep their place, may be replaced, added or reweighted, and the "
        "source's structure is kept. Prompt-to-Prompt (ICLR 2023, arXiv 2208.01626)."
    ),
    settings=P2PSettings,
    make_control=p2p_control,
    plan=plan_inversion,
    end_prompt=lambda settings: settings.ets_prompt,
)
