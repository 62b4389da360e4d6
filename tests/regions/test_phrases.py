"""Phrases as a detector reads them."""

from __future__ import annotations

import pytest

from ale_edit.regions.phrases import (
    caption,
    clean_phrase,
    head_noun,
    head_span,
)


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("Wolf", "wolf"),
        ("  a  Red\nCAT. ", "a red cat"),
        ("St. Bernard dog", "st bernard dog"),
        ("what? dog", "what dog"),
        ("(wolf:1.2)", "wolf"),
        ("((grey) wolf:0.9)", "grey wolf"),
        (r"wolf \(statue\)", "wolf statue"),
        ("red-colored paprika", "red-colored paprika"),
        ("cat's hat", "cat's hat"),
        ("embedding:foo wolf", "wolf"),
        ("time 10:30 clock", "time 10:30 clock"),
        ("...", ""),
        (" ?! ", ""),
        ("狼", "狼"),
    ],
)
def test_a_phrase_is_cleaned(given: str, cleaned: str) -> None:
    assert clean_phrase(given) == cleaned


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("wolf", "wolf"),
        ("red-colored paprika", "paprika"),
        ("moon made of gold", "moon"),
        ("cup of coffee", "cup"),
        ("old man in a red hat", "man"),
        ("wolf standing on a rock", "wolf"),
        ("wooden building", "building"),
        ("under wear", "wear"),
        ("cat cat", "cat"),
        ("grey wolf -", "wolf"),
        ("wolf & moon", "moon"),
        ("- wolf", "wolf"),
    ],
)
def test_the_head_noun_and_where_it_stands(phrase: str, noun: str) -> None:
    first, behind = head_span(phrase)
    assert head_noun(phrase) == phrase[first:behind] == noun


def test_the_caption_ends_each_phrase_with_a_full_stop_and_says_where_it_stands() -> None:
    text, spans = caption(("a cat", "red paprika"))
    assert text == "a cat. red paprika."
    assert [text[first:behind] for first, behind in spans] == ["a cat", "red paprika"]
