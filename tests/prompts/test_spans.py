"""Spans on made-up token ids; the real tokenizer's are in tests/host/test_text.py."""

from dataclasses import replace

import torch

from ale_edit.prompts.spans import (
    Span,
    Token,
    Tokens,
    find_first_spans,
    find_spans_anywhere,
    find_spans_in_order,
)

START, END = 49406, 49407
CAT, DOG, HOT, AND, A = 10, 20, 30, 40, 50


def tokens(*chunks: list[Token], length: int = 12) -> Tokens:
    rows = [[START, *chunk, END] for chunk in chunks]
    padded = tuple((*row, *[END] * (length - len(row))) for row in rows)
    return Tokens(padded, tuple(len(chunk) + 1 for chunk in chunks))


def test_words_are_what_lies_between_start_and_end_of_text_in_every_chunk():
    assert tokens([CAT, AND], [DOG]).words == (CAT, AND, DOG)


def test_a_repeated_phrase_takes_one_occurrence_each():
    prompt = tokens([CAT, AND, CAT])
    expected = [Span(0, 1, 2), Span(0, 3, 4)]
    assert find_spans_in_order(prompt, [[CAT], [CAT]]) == expected
    assert find_spans_anywhere(prompt, [[CAT], [CAT]]) == expected


def test_the_published_search_gives_a_repeated_phrase_the_first_occurrence_twice():
    assert find_first_spans(tokens([CAT, AND, CAT]), [[CAT], [CAT]]) == [Span(0, 1, 2)] * 2


def test_a_phrase_inside_a_later_phrase_keeps_its_own_place():
    prompt = tokens([DOG, AND, HOT, DOG])
    assert find_spans_in_order(prompt, [[DOG], [HOT, DOG]]) == [Span(0, 1, 2), Span(0, 3, 5)]
    assert find_spans_anywhere(prompt, [[DOG], [HOT, DOG]]) == [Span(0, 1, 2), Span(0, 3, 5)]


def test_a_phrase_inside_an_earlier_phrase_keeps_its_own_place():
    prompt = tokens([HOT, DOG, AND, DOG])
    assert find_spans_in_order(prompt, [[HOT, DOG], [DOG]]) == [Span(0, 1, 3), Span(0, 4, 5)]
    assert find_spans_anywhere(prompt, [[DOG], [HOT, DOG]]) == [Span(0, 4, 5), Span(0, 1, 3)]


def test_the_published_search_takes_the_dog_of_hot_dog():
    prompt = tokens([HOT, DOG, AND, DOG])
    assert find_first_spans(prompt, [[HOT, DOG], [DOG]]) == [Span(0, 1, 3), Span(0, 2, 3)]


def test_a_prompt_in_another_order_than_the_phrases_is_searched_as_a_whole():
    prompt = tokens([A, DOG, AND, A, CAT])
    assert find_spans_anywhere(prompt, [[CAT], [DOG]]) == [Span(0, 5, 6), Span(0, 2, 3)]
    assert find_spans_in_order(prompt, [[CAT], [DOG]]) == [Span(0, 5, 6), None]


def test_a_missing_phrase_or_a_missing_second_occurrence_has_no_span():
    prompt = tokens([A, CAT])
    for search in (find_spans_in_order, find_spans_anywhere):
        assert search(prompt, [[DOG]]) == [None]
        assert search(prompt, [[CAT], [CAT]]) == [Span(0, 2, 3), None]
    assert find_first_spans(prompt, [[DOG]]) == [None]


def test_a_phrase_in_a_later_chunk_is_found_there():
    prompt = tokens([CAT, AND], [DOG, AND, CAT])
    assert find_spans_in_order(prompt, [[CAT], [DOG], [CAT]]) == [
        Span(0, 1, 2),
        Span(1, 1, 2),
        Span(1, 3, 4),
    ]


def test_a_phrase_never_spans_a_chunk_border_nor_the_end_of_text():
    assert find_spans_in_order(tokens([A, HOT], [DOG]), [[HOT, DOG]]) == [None]
    assert find_spans_anywhere(tokens([A, DOG]), [[DOG, END]]) == [None]


def test_a_textual_inversion_is_compared_by_value():
    concept, copy, other = torch.ones(4), torch.ones(4), torch.zeros(4)
    prompt = tokens([A, other, concept, CAT])
    assert find_spans_anywhere(prompt, [[copy, CAT]]) == [Span(0, 3, 5)]
    assert find_spans_anywhere(prompt, [[A, concept]]) == [None]


def test_a_phrase_begins_with_a_word_and_not_inside_one():
    """FIRE and TRUCK are one word here, then the truck stands alone."""
    fire, truck = 60, 61
    chunk = tokens([A, fire, truck, AND, A, truck])
    prompt = replace(chunk, inner=frozenset({(0, 3)}))
    for search in (find_spans_in_order, find_spans_anywhere):
        assert search(prompt, [[truck]]) == [Span(0, 6, 7)]
        assert search(prompt, [[fire, truck]]) == [Span(0, 2, 4)]
        assert search(prompt, [[truck], [truck]]) == [Span(0, 6, 7), None]
    assert find_first_spans(prompt, [[truck]]) == [Span(0, 3, 4)]  # as published


def test_a_word_may_begin_in_another_chunk_at_an_inner_row_of_this_one():
    prompt = replace(tokens([A, CAT], [A, CAT]), inner=frozenset({(0, 2)}))
    assert find_spans_anywhere(prompt, [[CAT]]) == [Span(1, 2, 3)]


def test_spans_overlap_when_they_share_a_row_of_one_chunk():
    assert Span(0, 1, 3).overlaps(Span(0, 2, 4))
    assert not Span(0, 1, 3).overlaps(Span(0, 3, 4))
    assert not Span(0, 1, 3).overlaps(Span(1, 1, 3))
