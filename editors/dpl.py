"""Dynamic Prompt Learning: the embeddings of the nouns are learned step by step, until their
attention maps show their objects; then Prompt-to-Prompt edits with them.

Wang, Yang, Yang, Butt, van de Weijer: Dynamic Prompt Learning: Addressing Cross-Attention Leakage
for Text-Based Image Editing, NeurIPS 2023 (arXiv 2309.15664), with the numbers of its published
code; and LocInv (Tang, Wang, van de Weijer, arXiv 2405.01496), whose losses take the objects' masks
in place of clusters. Words that an edit replaces keep their own embeddings in the target prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..attention.control import Layer, Route, Step
from ..attention.word_maps import find_grid
from ..inversion.dynamic_words import PACES, LearningSettings, Pace
from ..inversion.stored import Schedule, TimeSteps
from ..prompts.alignment import Rows
from ..prompts.object_words import find_named_words, find_phrases, inside, words_of_phrase
from ..prompts.word_replacement import find_everywhere, split_words
from ..regions.grid import require_cells
from ..regions.phrases import clean_phrase, head_noun
from .editor import (
    ControlInputs,
    Editor,
    SamplingPlan,
    WordsToLearn,
    guidance_setting,
    setting,
    share_setting,
)
from .inverted import time_steps_setting
from .p2p import P2PControl, WordControlSettings, find_blends, find_mapper

Priors = Literal["clusters", "masks"]
PRIORS: tuple[str, ...] = get_args(Priors)
ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class DPLSettings(WordControlSettings):
    """The defaults are those of the paper and its published code, but for the schedule."""

    source_guidance: float = guidance_setting(7.5, "CFG scale of the source branch.")
    cross_share: float = share_setting(
        0.8, "Share of the steps, from the first, in which words keep their place in the image."
    )
    self_share: float = share_setting(
        0.4,
        "Share of the steps, from the first, that keep the source's structure. High for "
        "colours and materials, low for new shapes.",
    )
    time_steps: TimeSteps = time_steps_setting("DDIM")
    nouns: str = setting(
        "",
        "Words of the source prompt to learn, each the name of an object. Empty: the noun of each "
        "source phrase of the edits.",
    )
    priors: Priors = setting(
        "clusters",
        "What the maps of the nouns should follow. clusters: away from the background, which is "
        "found without masks, and from each other. masks: into the masks of the edits, as in "
        "LocInv.",
        choices=PRIORS,
    )
    updates: int = setting(
        21,
        "Most updates of the nouns a step. Each takes about three times as long as an evaluation "
        "of the model. 31 in LocInv; 0: null-text inversion.",
        min=0,
        max=200,
        step=1,
    )
    null_updates: int = setting(
        51,
        "Updates of the negative text a step, as in null-text inversion. 31 in LocInv.",
        min=0,
        max=200,
        step=1,
    )
    thresholds: float = setting(
        1.0,
        "Factor on the paper's losses at which the updates of a step end. Lower: more updates.",
        min=0.0,
        max=10.0,
        step=0.05,
    )
    adjective_binding: bool = setting(
        False,
        "Also draws each noun to the words before it in its source phrase, such as a colour, as in "
        "LocInv.",
    )
    schedule: Pace = setting(
        "cheap",
        "cheap: a quarter of the updates of the nouns, in every second step, and at most 10 of the "
        "negative text, until the image is followed well enough. Many times faster.",
        choices=PACES,
    )

    @property
    def learning(self) -> LearningSettings:
        return LearningSettings(self.updates, self.null_updates, self.thresholds, self.schedule)


# -- words -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noun:
    """A noun of the source prompt: its rows there, and the number of the phrase that it is in."""

    word: str
    rows: Rows
    phrase: int | None


def find_words(settings: DPLSettings, inputs: ControlInputs) -> WordsToLearn:
    """The nouns to learn, where they stand in the source prompt.

    Raises ValueError for a noun that is not there, stands beyond the first chunk or has no mask
    where masks are the priors, and for settings that could have no effect.
    """
    phrases = [phrase for phrase, _ in inputs.phrases]
    places = find_phrases("source", phrases, inputs.source, inputs.read_word)
    nouns = _find_named_nouns(settings, inputs, places) or _find_head_nouns(inputs, phrases, places)
    _require_first_chunk(nouns, inputs)
    words = WordsToLearn(tuple(noun.rows for noun in nouns), settings.learning)
    if settings.adjective_binding:
        adjectives = _find_adjectives(nouns, inputs, phrases, places)
        words = replace(words, adjectives=adjectives)
    if settings.priors == "masks":
        regions, objects = inputs.require_regions(), _find_objects(nouns, phrases)
        masks = [one.dilated[list(objects)] for one in regions.images]
        names, latent = [regions.names[k] for k in objects], inputs.latent
        require_cells(masks, names, find_grid(latent), latent, inputs.cell)
        words = replace(words, regions=regions, objects=objects, cell=inputs.cell)
    return words


def _find_named_nouns(
    settings: DPLSettings, inputs: ControlInputs, places: list[Rows]
) -> list[Noun]:
    """The words of the setting: one that is in several phrases is a noun of each."""
    found: list[Noun] = []
    chosen = find_named_words("nouns", settings.nouns, "source", inputs.source, inputs.read_word)
    for word, rows in chosen.items():
        parts = [(k, part) for k, place in enumerate(places) if (part := inside(rows, place))]
        found += [Noun(word, part, k) for k, part in parts] or [Noun(word, rows, None)]
    return found


def _find_head_nouns(inputs: ControlInputs, phrases: list[str], places: list[Rows]) -> list[Noun]:
    """The noun of each phrase."""
    found: list[Noun] = []
    for k, (phrase, place) in enumerate(zip(phrases, places, strict=True)):
        cleaned = clean_phrase(phrase)
        word = head_noun(cleaned) if cleaned else ""
        rows = find_everywhere(inputs.source.tokens, inputs.read_word(word)) if word else ()
        if not (own := inside(rows, place)):
            raise ValueError(
                f'the source phrase "{phrase}" has no noun that could be learned. Name an object '
                "in it, or write the words to learn into nouns."
            )
        found.append(Noun(word, own, k))
    return found


def _require_first_chunk(nouns: list[Noun], inputs: ControlInputs) -> None:
    length = len(inputs.source.tokens.chunks[0])
    for noun in nouns:
        if max(noun.rows) >= length:
            raise ValueError(
                f'the noun "{noun.word}" comes after the first {length - 2} tokens of the source '
                f'prompt ("{inputs.source.text}"); only those can be learned. Shorten the prompt, '
                "or move the noun to its beginning."
            )


def _find_adjectives(
    nouns: list[Noun], inputs: ControlInputs, phrases: list[str], places: list[Rows]
) -> tuple[Rows, ...]:
    """Of each noun, the rows of the words before it in its phrase, without articles."""
    found: list[Rows] = []
    for noun in nouns:
        before: set[int] = set()
        if noun.phrase is not None:
            words = (w for w in split_words(phrases[noun.phrase]) if w.lower() not in ARTICLES)
            each = words_of_phrase(
                " ".join(words), places[noun.phrase], inputs.source, inputs.read_word
            )
            before = {row for rows in each for row in rows if row < min(noun.rows)}
        found.append(tuple(sorted(before)))
    if not any(found):
        raise ValueError(
            f"adjective_binding finds no word before a noun in the source phrases "
            f"({', '.join(phrases)}). Write the objects' adjectives into them, or turn "
            "adjective_binding off."
        )
    return tuple(found)


def _find_objects(nouns: list[Noun], phrases: list[str]) -> tuple[int, ...]:
    """Of each noun, the number of its mask."""
    found: list[int] = []
    for noun in nouns:
        if noun.phrase is None:
            raise ValueError(
                f'the noun "{noun.word}" is in no source phrase of the edits '
                f"({', '.join(phrases)}), so it has no mask. Remove it from nouns, or set priors "
                'to "clusters".'
            )
        found.append(noun.phrase)
    return tuple(found)


# -- control ---------------------------------------------------------------------------------------


class DPLControl(P2PControl):
    """Prompt-to-Prompt's control, with the source's self-attention on coarser grids alone."""

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        return super().routes(layer, step, is_cond) if layer.is_quarter_or_coarser else {}


def dpl_control(settings: DPLSettings, inputs: ControlInputs) -> DPLControl:
    """The control of one run.

    Raises ValueError as `p2p_control`, and for a target that is the source.
    """
    if inputs.source.text.strip() == inputs.target.text.strip() and not settings.reweight.strip():
        raise ValueError(
            f'the target prompt is the source prompt ("{inputs.source.text}"), so nothing would '
            "change. Write what the objects become into the edits, or words with factors into "
            "reweight."
        )
    words = find_mapper(settings, inputs)
    return DPLControl(settings, words, *find_blends(settings, inputs))


def plan_learning(settings: DPLSettings) -> SamplingPlan:
    schedule = Schedule(settings.steps, settings.strength, settings.time_steps)
    return SamplingPlan("DPL", schedule, "source")


EDITOR = Editor(
    name="dpl",
    title="DPL",
    node_id="ALEDPL",
    description=(
        "Edits several objects without masks: first learns embeddings of their nouns whose "
        "attention stays on the objects, then edits by Prompt-to-Prompt. Takes minutes; the "
        "learned words can be saved. Dynamic Prompt Learning (NeurIPS 2023, arXiv 2309.15664) and "
        "LocInv (arXiv 2405.01496)."
    ),
    settings=DPLSettings,
    paper=DPLSettings(schedule="paper"),
    make_control=dpl_control,
    plan=plan_learning,
    learn=find_words,
    grow_regions=lambda settings: 0.0 if settings.priors == "masks" else None,
)
