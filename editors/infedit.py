"""InfEdit: virtual inversion (DDCM) with unified attention control (UAC) over three branches.

Xu, Huang, Pan, Ma, Chai: Inversion-Free Image Editing with Natural Language, CVPR 2024 (arXiv
2312.04965). The branches: "source"; "target"; and "layout", which has the source prompt and the
target's layout. Self-attention is exchanged by routes, cross-attention maps go through the word
alignment of the two prompts (prompts/alignment.py), and the local blend keeps the edit to the words
that it is about. The update is DDCM (inversion/update_rule.py), for the layout branch as for the
target.

The authors' two scripts differ in numbers and in one line: `script` follows either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, where

from ..attention.control import Call, Control, Layer, Reads, Route, Step, running_order
from ..attention.word_maps import WordMaps, refine
from ..prompts.alignment import (
    Alignment,
    EncodedPrompt,
    Word,
    align_by_likeness,
    require_aligned,
)
from ..prompts.blend_words import BlendRows, blend_rows, blend_words
from ..prompts.edits import Variant
from .editor import (
    SOURCE,
    TARGET,
    BranchPlan,
    ControlInputs,
    Editor,
    Settings,
    guidance_setting,
    setting,
    share_setting,
    steps_setting,
    strength_setting,
    target_guidance_setting,
)

Script = Literal["app", "pie bench"]
SCRIPTS: tuple[Script, ...] = get_args(Script)

BRANCHES = ("source", "target", "layout")
TEMPERATURE = 0.15
"""Least threshold of the target words' mask at no noise; it grows with the noise level."""


@dataclass(frozen=True)
class InfEditSettings(Settings):
    """The defaults are those of the authors' app_infedit.py."""

    steps: int = steps_setting("Number of LCM steps. More steps make the edit stronger.")
    source_guidance: float = guidance_setting(
        1.0,
        "CFG scale of the source and layout branches. 1 turns guidance off, which preserves the "
        "image best.",
    )
    target_guidance: float = target_guidance_setting()
    cross_share: float = share_setting(
        0.7,
        "Share of the steps in which words in both prompts keep their place in the image.",
    )
    self_share: float = share_setting(
        0.3,
        "Share of the steps that keep the source's structure. High for colours and materials, low "
        "for new shapes, 0 for new poses and for adding or removing things.",
    )
    target_blend: str = setting(
        "",
        "Words of the target prompt. The image only changes where they are. Empty: it may change "
        "everywhere.",
    )
    source_blend: str = setting(
        "",
        "Words in both prompts. The source is kept where they are. A word that is also in "
        "target_blend keeps its look and may change its pose.",
    )
    target_threshold: float = share_setting(
        0.6,
        "How strongly a place must respond to target_blend to change, relative to the strongest "
        "response. Lower: more changes.",
    )
    source_threshold: float = share_setting(
        0.6,
        "How strongly a place must respond to source_blend to be kept, relative to the strongest "
        "response. Lower: more is kept.",
    )
    strength: float = strength_setting()
    script: Script = setting(
        "app",
        "Which of the authors' two scripts to follow: the edit takes its cross-attention from the "
        "source branch (app) or from the layout branch (pie bench).",
        choices=SCRIPTS,
    )

    @property
    def run_steps(self) -> int:
        """The steps that run: a strength below 1 leaves out the first ones."""
        return int(self.steps * self.strength)


def make_infedit_control(
    settings: InfEditSettings,
    source: EncodedPrompt,
    target: EncodedPrompt,
    target_words: Sequence[Word],
    source_words: Sequence[Word],
    variant: Variant = "paper",
) -> InfEditControl:
    """The control of one run. target_words, source_words: those of the settings' blends
    (`blend_words`), each in tokens. variant: see `align_by_likeness`.

    Raises ValueError when the prompts align nowhere, a blend word is not in its prompt, or the
    local blend would be empty at every step.
    """
    alignment = align_by_likeness(source, target, variant)
    if settings.cross_share > 0:
        require_aligned(alignment, source, target)
    rows = blend_rows(target_words, source_words, alignment, source, target)
    require_blend(settings, rows)
    return InfEditControl(settings, alignment, rows)


def require_blend(settings: InfEditSettings, rows: BlendRows) -> None:
    """Raises ValueError when there are blend words and yet the local blend would be empty at every
    step."""
    if (rows.edited or rows.kept) and settings.run_steps < 3:
        raise ValueError(
            f"the local blend runs between the first and the last step, and {settings.run_steps} "
            "steps have none there. Set at least 3 steps, or leave out the blend words."
        )
    for side, words, threshold in (
        ("target", rows.edited, settings.target_threshold),
        ("source", rows.fixed_rows, settings.source_threshold),
    ):
        if words and threshold >= 1:
            raise ValueError(
                f"the mask of the {side} blend is empty at {side}_threshold {threshold}, because "
                "no response is stronger than the strongest. Lower "
                f"{side}_threshold, or leave out the {side} blend words."
            )


def edit_threshold(settings: InfEditSettings, sigma: float) -> float:
    """Of the target words' mask after a step at noise level sigma. Above 1 the mask is empty: while
    the noise is large the target takes the layout branch everywhere."""
    return max(TEMPERATURE * (1 + sigma**2) ** 0.5, settings.target_threshold)


class InfEditControl(Control):
    """UAC and the local blend of one run."""

    kinds = frozenset(("cross",))

    def __init__(
        self, settings: InfEditSettings, alignment: Alignment, rows: BlendRows | None = None
    ) -> None:
        self.rows = rows or BlendRows()
        self._settings = settings
        self._has_blend = bool(self.rows.edited or self.rows.kept)
        self.reads = _reads(settings, self._has_blend)
        self._mapper = alignment.mapper
        self._maps = WordMaps()
        self._last = (running_order(BRANCHES, self.reads) or BRANCHES)[-1]

    # -- attention ---------------------------------------------------------------------------------

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        """UAC's self-attention part, in every layer and in both halves of guidance."""
        if is_self_step(self._settings, step):
            return {
                "target": Route("source", "source", "target"),
                "layout": Route("source", "source", "source"),
            }
        return {"layout": Route("target", "source", "source")}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return is_cond and (is_cross_step(self._settings, step) or self._takes(layer, step))

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """UAC's cross-attention part: the target attends with another branch's map, seen by its own
        words. Keeps the maps of the blend words on the way."""
        replaces = is_cross_step(self._settings, call.step) and "target" in call.running
        keeps = self._takes(call.layer, call.step) and self._last in call.running
        if not (replaces or keeps):
            return {}
        q, v = call.q["target"], call.v["target"]
        self._mapper = self._mapper.to(q.device)
        own = call.probs(q, call.k["target"])
        giver = "source" if self._settings.script == "app" else "layout"
        read = {giver} if replaces else set[str]()
        refined = {
            branch: refine(call.probs(call.q[branch], call.k[branch]), own, self._mapper)
            for branch in (read | {"source", "layout"} if keeps else read)
        }
        if keeps:
            maps = {
                "source": refined["source"][..., list(self.rows.fixed_rows)],
                "layout": refined["layout"][..., list(self.rows.edited)],
            }
            self._maps.add(call.layer, maps)
        if not replaces:
            return {}
        return {"target": call.mix(refined[giver], v)}

    def _takes(self, layer: Layer, step: Step) -> bool:
        """Whether the maps of a layer go into a local blend after this step."""
        return self._has_blend and step.number < step.count - 1 and self._maps.takes(layer)

    # -- local blend -------------------------------------------------------------------------------

    def blend(self, denoised: Mapping[str, Tensor], step: Step) -> dict[str, Tensor]:
        """The denoised predictions (B, C, h, w) by branch, the target's blended.

        Outside the target words the target is the layout branch, and on the source words the
        source; on words of both it is the layout branch in the last step but one. The published
        code blends the next noisy latents, which with eta 1 is the same; neither the first step
        nor the prediction that the last one returns is blended.
        """
        out = dict(denoised)
        if not (self._has_blend and 0 < step.number < step.count - 1):
            return out
        source, target, layout = (denoised[branch] for branch in BRANCHES)
        settings, edited = self._settings, self.rows.edited
        size = (target.shape[-2], target.shape[-1])
        if edited:
            threshold = edit_threshold(settings, step.sigma)
            is_edited = self._maps.mask("layout", range(len(edited)), size, threshold)
            target = where(is_edited, target, layout)
        columns = range(len(self.rows.fixed_rows))
        is_kept = self._maps.mask("source", columns, size, settings.source_threshold)
        target = where(is_kept, source, target)
        if step.number == step.count - 2:
            columns = [edited.index(row) for row in self.rows.common_rows]
            is_reshaped = self._maps.mask("layout", columns, size, settings.target_threshold)
            target = where(is_reshaped, layout, target)
        out["target"] = target
        return out


def is_self_step(settings: InfEditSettings, step: Step) -> bool:
    """Whether a step takes the source's self-attention map: (i + 1) / n < self_share."""
    return _place(settings, step) < settings.self_share * settings.steps - 1e-9


def is_cross_step(settings: InfEditSettings, step: Step) -> bool:
    """Whether a step replaces the target's cross-attention maps: (i + 1) / n <= cross_share."""
    return _place(settings, step) <= settings.cross_share * settings.steps + 1e-9


def _place(settings: InfEditSettings, step: Step) -> int:
    """The 1-based number of a step among all, those that a strength below 1 leaves out too."""
    return step.number + settings.steps - step.count + 1


def _reads(settings: InfEditSettings, has_blend: bool) -> Reads:
    """What each branch reads in any step; a local blend needs the maps of all three at once."""
    steps = [Step(i, settings.steps, 0.0) for i in range(settings.steps)]
    target: set[str] = set()
    layout = {"source"}
    for step in steps[settings.steps - settings.run_steps :]:
        if is_self_step(settings, step):
            target.add("source")
        else:
            layout.add("target")
        if is_cross_step(settings, step):
            target.add("source" if settings.script == "app" else "layout")
    if has_blend:
        layout.add("target")
    return {"target": frozenset(target), "layout": frozenset(layout)}


def _make_control(settings: InfEditSettings, inputs: ControlInputs) -> InfEditControl:
    edited, kept = (
        [inputs.read_word(word) for word in blend_words(blend)]
        for blend in (settings.target_blend, settings.source_blend)
    )
    return make_infedit_control(
        settings, inputs.source, inputs.target, edited, kept, inputs.variant
    )


EDITOR = Editor(
    name="infedit",
    title="InfEdit",
    node_id="ALEInfEdit",
    description=(
        "Edits an image with a source and a target prompt, without masks: words in both prompts "
        "keep their place, and a third branch carries the look of the source into the layout of "
        "the edit. InfEdit (CVPR 2024, arXiv 2312.04965)."
    ),
    settings=InfEditSettings,
    make_control=_make_control,
    branches=lambda settings: (SOURCE, TARGET, BranchPlan("layout", "source", "source_guidance")),
)
