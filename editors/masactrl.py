"""MasaCtrl: the target attends with its own queries over the source's keys and values, so that a
changed pose or view keeps the look of the source.

Cao, Wang, Qi, Shan, Qie, Zheng: MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent
Image Synthesis and Editing, ICCV 2023 (arXiv 2304.08465). It acts from a step and from a layer on,
in both halves of guidance, and leaves cross-attention alone. With masks, the foreground reads the
source's foreground and the background its background; the masks are drawn, or come from the
cross-attention maps of words. The paper inverts the image by DDIM; here it runs on virtual
inversion (inversion/update_rule.py) as well, by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..attention.control import (
    Call,
    Control,
    Layer,
    LayerKind,
    Reads,
    Route,
    Step,
    first_layer,
    first_step,
)
from ..attention.mask_guided import WHOLE, Part, attend_in_parts, split_positions
from ..attention.word_maps import WordMaps, query_parts
from ..inversion.stored import TimeSteps
from ..prompts.alignment import EncodedPrompt, Rows
from ..prompts.blend_words import blend_words
from ..prompts.edits import Variant
from ..prompts.word_replacement import find_everywhere
from ..regions.grid import coverage
from ..regions.regions import Regions, fit_masks
from .editor import (
    SOURCE,
    TARGET,
    ControlInputs,
    Editor,
    Settings,
    Start,
    guidance_setting,
    setting,
    share_setting,
    steps_setting,
    strength_setting,
    target_guidance_setting,
)
from .inverted import (
    SourcePrompt,
    inversion_setting,
    plan_inversion,
    source_prompt_setting,
    source_text,
    time_steps_setting,
)

Keys: TypeAlias = Literal["source", "union"]

BY_SHARE = -1
BRANCHES = ("source", "target")
MASKS = ("source_mask", "target_mask")
WORDS = ("source_words", "target_words")


@dataclass(frozen=True)
class MasaCtrlSettings(Settings):
    """The shares are the paper's numbers for SD 1.5, layer 10 of 16 and step 4 of 50. Steps and
    guidance are those of latent consistency models, with which ALE-Edit's paper compares; PAPER has
    MasaCtrl's own."""

    steps: int = steps_setting("Number of steps.")
    source_guidance: float = guidance_setting(
        1.0,
        "CFG scale of the source branch. 1 turns guidance off, which preserves the image best.",
    )
    target_guidance: float = target_guidance_setting()
    start_step_share: float = share_setting(
        4 / 50,
        "Share of the steps, from the first, in which the edit is free to find its layout. After "
        "that, it takes its look from the source.",
        step=0.01,
    )
    start_layer_share: float = share_setting(
        10 / 16,
        "Share of the self-attention layers, from the first, that are left unchanged. The others "
        "take the look of the source.",
        step=0.005,
    )
    start_layer: int = setting(
        BY_SHARE,
        "The first self-attention layer, counted from 0, that takes the look of the source. -1: "
        "use start_layer_share.",
        min=BY_SHARE,
        max=1000,
        step=1,
    )
    strength: float = strength_setting()
    source_prompt: SourcePrompt = source_prompt_setting()
    inversion_method: Start = inversion_setting("virtual", later=True)
    time_steps: TimeSteps = time_steps_setting("LCM", later=True)
    keys: Keys = setting(
        "source",
        "Where the edit takes its look from: the source alone, as in the paper, or source and "
        "edit together (union), which changes more.",
        choices=get_args(Keys),
        later=True,
    )
    source_words: str = setting(
        "",
        "Words of the source prompt for the foreground, such as cat. The foreground of the edit "
        "takes its look from where they are, the background from the rest. Needs target_words, and "
        "edits in source_prompt. Empty: no masks from words.",
        later=True,
    )
    target_words: str = setting(
        "",
        "Words of the target prompt for the foreground of the edit. Needs source_words.",
        later=True,
    )
    mask_threshold: float = share_setting(
        0.1,
        "How strongly a place must respond to source_words or target_words to belong to the "
        "foreground, from 0 (weakest response) to 1 (strongest). Lower: larger foreground.",
        step=0.01,
        later=True,
    )


PAPER = MasaCtrlSettings(
    steps=50,
    source_guidance=7.5,
    target_guidance=7.5,
    inversion_method="DDIM",
    time_steps="DDIM",
)


class MasaCtrlControl(Control):
    """Mutual self-attention control of one run."""

    reads: Reads = {"target": frozenset(("source",))}

    def __init__(self, settings: MasaCtrlSettings) -> None:
        self._settings = settings
        if settings.keys == "union":
            self.kinds: frozenset[LayerKind] = frozenset(("self",))

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        if self._settings.keys == "union" or not self._is_mutual(layer, step):
            return {}
        return {"target": Route("target", "source", "source")}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return self._is_mutual(layer, step)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """The union: the target's queries over the keys and values of both."""
        keys, values = (torch.cat([t["source"], t["target"]], dim=1) for t in (call.k, call.v))
        return {"target": call.attend(call.q["target"], keys, values)}

    def _is_mutual(self, layer: Layer, step: Step) -> bool:
        settings = self._settings
        is_late = step.number >= first_step(settings.start_step_share, step.count)
        return is_late and layer.ordinal >= start_layer(settings, layer.count)


class MaskedControl(MasaCtrlControl):
    """Mask-guided mutual self-attention; a subclass finds the parts of each layer."""

    kinds = frozenset(("self",))

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        return {}

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        return {"target": attend_in_parts(call, self.parts(call), "target")}

    def parts(self, call: Call) -> Sequence[Sequence[Part]]:
        """Foreground and background of each image, or of one for all."""
        raise NotImplementedError


class DrawnMaskControl(MaskedControl):
    """By masks of the source and of the target. regions: both, of each image or of one for all.
    cell: pixels along each side of a latent cell."""

    def __init__(
        self, settings: MasaCtrlSettings, regions: Regions, cell: int, variant: Variant
    ) -> None:
        super().__init__(settings)
        self._cell, self._variant = cell, variant
        places = [regions.names.index(name) for name in MASKS]
        self._images = [one.raw[places] for one in regions.images]
        self._parts: dict[tuple[object, ...], list[tuple[Part, ...]]] = {}

    def parts(self, call: Call) -> Sequence[Sequence[Part]]:
        layer, device = call.layer, call.q["target"].device
        key = layer.grid, layer.latent, device
        if key not in self._parts:
            self._parts[key] = [self._split(masks, layer, device) for masks in self._images]
        return self._parts[key]

    def _split(self, masks: Tensor, layer: Layer, device: torch.device) -> tuple[Part, ...]:
        height, width = (self._cell * n for n in layer.latent)
        fitted = fit_masks(masks, height, width, self._cell)
        source, target = (
            coverage(mask[None], *layer.grid, self._variant).flatten().to(device) for mask in fitted
        )
        return split_positions(target, source)


class WordMaskControl(MaskedControl):
    """By masks from the cross-attention maps of words, those of each step up to a layer. rows: of
    the words in the source prompt and in the target prompt."""

    kinds = frozenset(("self", "cross"))
    cond_first = True

    def __init__(self, settings: MasaCtrlSettings, rows: Mapping[str, Rows]) -> None:
        super().__init__(settings)
        self._rows = rows
        self._maps = WordMaps()
        self._step = 0
        self._parts: dict[tuple[object, ...], list[tuple[Part, ...]]] = {}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        if layer.kind == "cross":
            return is_cond and self._maps.takes(layer)
        return super().acts(layer, step, is_cond)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        if call.step.number != self._step:
            self._step = call.step.number
            self._maps.forget()
            self._parts.clear()
        if call.layer.kind == "self":
            return super().outputs(call)
        self._maps.add(call.layer, {branch: self._map(call, branch) for branch in BRANCHES})
        return {}

    def _map(self, call: Call, branch: str) -> Tensor:
        """The maps (B, heads, L, words' rows) of a branch."""
        q, k, rows = call.q[branch], call.k[branch], list(self._rows[branch])
        parts = query_parts(call, (branch,))
        return torch.cat([call.probs(q[:, part], k)[..., rows] for part in parts], 2)

    def parts(self, call: Call) -> Sequence[Sequence[Part]]:
        """Those of the conditional half, for both halves."""
        key = call.layer.block
        if key not in self._parts:
            self._parts[key] = self._split(call)
        return self._parts[key]

    def _split(self, call: Call) -> list[tuple[Part, ...]]:
        # which grid counts is not known before the encoder has run once
        is_early = call.step.number == 0 and call.layer.block[0] == "input"
        masks = [
            None
            if is_early
            else self._maps.foreground(branch, call.layer.grid, self._settings.mask_threshold)
            for branch in BRANCHES
        ]
        if masks[0] is None or masks[1] is None:
            return [(WHOLE,)]
        source, target = (mask.flatten(1) for mask in masks if mask is not None)
        return [split_positions(*pair) for pair in zip(target, source, strict=True)]


def start_layer(settings: MasaCtrlSettings, layers: int) -> int:
    """The first of a model's self-attention layers that the control acts on.

    Raises ValueError when a layer was typed that the model does not have.
    """
    if settings.start_layer == BY_SHARE:
        return first_layer(settings.start_layer_share, layers)
    if not 0 <= settings.start_layer < layers:
        raise ValueError(
            f"start_layer is {settings.start_layer}, but the model has {layers} self-attention "
            f"layers, 0 to {layers - 1}. Type one of them, or {BY_SHARE} to go by "
            "start_layer_share."
        )
    return settings.start_layer


def masactrl_control(settings: MasaCtrlSettings, inputs: ControlInputs) -> MasaCtrlControl:
    """The control of one run.

    Raises ValueError for a layer that the model does not have, one mask or one list of words of
    two, and words that are not in their prompt.
    """
    start_layer(settings, inputs.self_layers)
    words = [blend_words(getattr(settings, name)) for name in WORDS]
    if inputs.regions is None and not any(words):
        return MasaCtrlControl(settings)
    if settings.keys != "source":
        raise ValueError(
            f"masks do not go with keys {settings.keys}. Set keys to source, or leave out the "
            "masks."
        )
    if inputs.regions is None:
        return WordMaskControl(settings, _find_rows(settings, words, inputs))
    if missing := [name for name in MASKS if name not in inputs.regions.names]:
        raise ValueError(
            f"{inputs.regions.names[0]} is connected, but {missing[0]} is not. Connect a mask of "
            "the foreground to both, or to neither."
        )
    if any(words):
        raise ValueError(
            f"{MASKS[0]} and {MASKS[1]} are connected, and {WORDS[0]} and {WORDS[1]} ask for masks "
            "from words. Use one of both: disconnect the masks, or empty the words."
        )
    return DrawnMaskControl(settings, inputs.regions, inputs.cell, inputs.variant)


def _find_rows(
    settings: MasaCtrlSettings, words: Sequence[Sequence[str]], inputs: ControlInputs
) -> dict[str, Rows]:
    """The rows of the words by branch."""
    for name, other, of_other in ((*WORDS, words[1]), (WORDS[1], WORDS[0], words[0])):
        if not of_other:
            raise ValueError(
                f'{name} is "{getattr(settings, name)}", but {other} is empty. Write words for the '
                "foreground into both, or into neither."
            )
    if settings.source_prompt == "empty":
        raise ValueError(
            f'{WORDS[0]} is "{settings.source_words}", but source_prompt is empty, which has no '
            f"words. Set source_prompt to edits, or empty {WORDS[0]} and {WORDS[1]}."
        )
    prompts: tuple[EncodedPrompt, EncodedPrompt] = inputs.source, inputs.target
    rows: dict[str, Rows] = {}
    for branch, name, own, prompt in zip(BRANCHES, WORDS, words, prompts, strict=True):
        found = [find_everywhere(prompt.tokens, inputs.read_word(word)) for word in own]
        for word, places in zip(own, found, strict=True):
            if not places:
                raise ValueError(
                    f'the word "{word}" of {name} does not occur in the {branch} prompt '
                    f'("{prompt.text}"). Write it as in the prompt, or leave it out.'
                )
        rows[branch] = tuple(sorted({row for places in found for row in places}))
    return rows


EDITOR = Editor(
    name="masactrl",
    title="MasaCtrl",
    node_id="ALEMasaCtrl",
    description=(
        "Changes the pose, view or action in an image and keeps its look, without masks or with "
        "masks of the foreground: from a given step and layer on, the edit attends to the source's "
        "keys and values. MasaCtrl (ICCV 2023, arXiv 2304.08465), on virtual inversion or on the "
        "paper's DDIM inversion."
    ),
    settings=MasaCtrlSettings,
    make_control=masactrl_control,
    branches=lambda settings: (replace(SOURCE, text=source_text(settings)), TARGET),
    plan=lambda settings: plan_inversion(settings, source_text(settings)),
    masks=(
        (
            MASKS[0],
            "The foreground of the source. The foreground of the edit takes its look from there, "
            "the background from the rest. A mask, or one for each image. Needs target_mask.",
        ),
        (
            MASKS[1],
            "Where the foreground of the edit is to be. A mask, or one for each image. Needs "
            "source_mask.",
        ),
    ),
    paper=PAPER,
)
