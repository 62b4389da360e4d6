"""Phrases as a detector reads them."""

from __future__ import annotations

import pytest

from ale_edit.regions.phrases import (
    caption,
    clean_phrase,
    fallbacks,
    head_noun,
    head_span,
    singular,
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


@pytest.mark.parametrize(
    ("noun", "one"),
    [
        ("cats", "cat"),
        ("wolves", "wolf"),
        ("boxes", "box"),
        ("berries", "berry"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("horses", "horse"),
        ("people", "person"),
        ("gas", "gas"),
    ],
)
def test_a_plural_has_its_singular(noun: str, one: str) -> None:
    assert singular(noun) == one


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("paprika", ()),
        ("red-colored paprika", ("paprika",)),
        ("two red apples", ("apples", "apple")),
        ("apples", ("apple",)),
    ],
)
def test_fallbacks_get_shorter_and_never_repeat_the_phrase(
    phrase: str, words: tuple[str, ...]
) -> None:
    assert fallbacks(phrase) == words


def test_the_caption_ends_each_phrase_with_a_full_stop_and_says_where_it_stands() -> None:
    text, spans = caption(("a cat", "red paprika"))
    assert text == "a cat. red paprika."
    assert [text[first:behind] for first, behind in spans] == ["a cat", "red paprika"]
