"""Words of InfEdit's local blend, and what it refuses, on made-up tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ale_edit.editors.infedit import InfEditControl, InfEditSettings, make_infedit_control
from ale_edit.prompts.alignment import EncodedPrompt, Word
from ale_edit.prompts.blend_words import BlendRows, blend_words
from ale_edit.prompts.spans import Tokens

START, END, LENGTH = 49406, 49407, 12
WORDS = ("wolf", "goat", "moon", "ball", "on", "a", "house", "red")
VOCABULARY = {word: i for i, word in enumerate(WORDS)}
SOURCE, TARGET = "wolf on a house", "red goat on a house"


def tokens_of(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


def encoded(text: str) -> EncodedPrompt:
    ids = [START, *tokens_of(text), END]
    padded = tuple(ids + [END] * (LENGTH - len(ids)))
    embedding = torch.zeros(LENGTH, 12)
    for row, token in enumerate(padded):
        embedding[row, min(token, 10)] = 1
        embedding[row, 11] = 1 if token in (VOCABULARY["wolf"], VOCABULARY["goat"]) else 0
    return EncodedPrompt(text, Tokens((padded,), (len(ids) - 1,)), embedding)


def make_control(
    settings: InfEditSettings, source: str = SOURCE, target: str = TARGET
) -> InfEditControl:
    edited, kept = (
        [Word(w, (VOCABULARY.get(w, 99),)) for w in blend_words(blend)]
        for blend in (settings.target_blend, settings.source_blend)
    )
    return make_infedit_control(settings, encoded(source), encoded(target), edited, kept)


def rows_of(target_blend: str, source_blend: str = "") -> BlendRows:
    settings = InfEditSettings(target_blend=target_blend, source_blend=source_blend)
    return make_control(settings).rows


def test_blend_words_stand_between_blanks_or_commas():
    assert blend_words(" red goat,house ") == ["red", "goat", "house"]
    assert blend_words("") == []


def test_blend_words_are_rows_of_the_target_prompt():
    assert rows_of("goat") == BlendRows(edited=(2,))
    assert rows_of("goat red", "house a") == BlendRows(edited=(1, 2), kept=(4, 5))
    both = rows_of("goat house", "house on")
    assert both == BlendRows(edited=(2, 5), kept=(3, 5))
    assert (both.common_rows, both.fixed_rows) == ((5,), (3,))


def test_a_word_of_the_source_prompt_is_the_word_in_its_place():
    """Wolf and goat are alike here."""
    assert rows_of("wolf") == BlendRows(edited=(2,))


@pytest.mark.parametrize(
    ("blends", "message"),
    [
        (
            {"target_blend": "goat moon"},
            r'the target blend word "moon" does not occur in the target prompt \("red goat on a '
            r'house"\)\. Write it as in the prompt, or leave it out\.$',
        ),
        (
            {"source_blend": "wolf"},
            r'the source blend word "wolf" is not at the same place in the source prompt '
            r'\("wolf on a house"\) and in the target prompt \("red goat on a house"\)\.',
        ),
        ({"source_blend": "goat"}, r'the source blend word "goat" is not at the same'),
        (
            {"target_blend": "goat", "steps": 2},
            r"the local blend runs between the first and the last step, and 2 steps have none",
        ),
        (
            {"target_blend": "goat", "target_threshold": 1.0},
            r"the mask of the target blend is empty at target_threshold 1\.0, because no response",
        ),
        (
            {"source_blend": "house", "source_threshold": 1.0},
            r"the mask of the source blend is empty at source_threshold 1\.0, because no response",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_blends_that_cannot_be_are_refused_in_a_sentence(blends: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_control(InfEditSettings(**blends))


def test_thresholds_of_words_that_are_not_there_do_not_matter():
    make_control(InfEditSettings(target_threshold=1.0, source_threshold=1.0, steps=1))
    make_control(InfEditSettings(target_blend="goat", source_threshold=1.0, steps=3))


def test_prompts_that_align_nowhere_are_refused_where_their_words_are_needed():
    with pytest.raises(ValueError, match=r'no word of the target prompt \("red goat"\) can be al'):
        make_control(InfEditSettings(), "", "red goat")
    make_control(InfEditSettings(cross_share=0.0), "", "red goat")


def test_an_unknown_script_is_refused():
    with pytest.raises(
        ValueError, match=r'the script input is "web"\. Choose one of app, pie bench\.'
    ):
        InfEditSettings(script="web")  # type: ignore[arg-type]
