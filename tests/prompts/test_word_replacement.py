"""Replacement and factors of words on made-up token ids, where numbers can be counted by hand."""

import pytest
import torch

from ale_edit.prompts.alignment import EncodedPrompt, Word
from ale_edit.prompts.spans import Token, Tokens
from ale_edit.prompts.word_replacement import (
    OWN,
    find_everywhere,
    parse_factors,
    replacement_shares,
    split_words,
)

START, END, LENGTH = 98, 99, 8
IDS = {"a": (1,), "cat": (2,), "dog": (3,), "chin": (4, 5), "gooseberry": (6, 7, 8), "on": (9,)}


def read_word(text: str) -> Word:
    return Word(text, IDS[text])


def encoded(*chunks: str) -> EncodedPrompt:
    rows: list[tuple[Token, ...]] = []
    ends = []
    for chunk in chunks:
        tokens = [token for word in chunk.split() for token in IDS[word]]
        ends.append(len(tokens) + 1)
        rows.append((START, *tokens, *[END] * (LENGTH - 1 - len(tokens))))
    return EncodedPrompt(" ".join(chunks), Tokens(tuple(rows), tuple(ends)), torch.zeros(0))


def taken(shares: torch.Tensor) -> list[dict[int, float]]:
    """What each target row takes of which source row."""
    return [
        {int(row): round(float(column[row]), 4) for row in column.nonzero().flatten()}
        for column in shares.T
    ]


def test_words_of_as_many_tokens_take_each_others_places():
    shares = replacement_shares(encoded("a cat on"), encoded("a dog on"), read_word)
    assert torch.equal(shares, torch.eye(LENGTH))


def test_a_longer_word_takes_equal_parts_and_what_is_behind_it_its_own_place():
    shares = replacement_shares(encoded("a cat on"), encoded("a chin on"), read_word)
    one = [{n: 1.0} for n in range(LENGTH)]
    assert taken(shares) == [one[0], one[1], {2: 0.5}, {2: 0.5}, one[3], one[4], one[5], one[6]]
    shares = replacement_shares(encoded("chin on"), encoded("gooseberry on"), read_word)
    third = {1: 0.3333, 2: 0.3333}
    assert taken(shares)[:6] == [one[0], third, third, third, one[3], one[4]]


def test_a_shorter_word_takes_all_of_the_longer_one():
    shares = replacement_shares(encoded("a chin on"), encoded("a cat on"), read_word)
    one = [{n: 1.0} for n in range(LENGTH)]
    assert taken(shares) == [one[0], one[1], {2: 1.0, 3: 1.0}, *one[4:], one[-1]]


def test_the_published_code_counts_rows_behind_the_last_new_word():
    one: list[dict[int, float]] = [{n: 1.0} for n in range(LENGTH)]
    cat, chin = encoded("a cat on"), encoded("a chin on")
    found = taken(replacement_shares(cat, chin, read_word, "published code"))
    assert found == [one[0], one[1], {2: 0.5}, {2: 0.5}, *one[4:]]
    found = taken(replacement_shares(chin, cat, read_word, "published code"))
    assert found == [one[0], one[1], {2: 1.0, 3: 1.0}, *one[3:-1], {}]


def test_words_are_paired_across_chunks_and_a_chunk_too_many_keeps_its_own_ends():
    source, target = encoded("a gooseberry"), encoded("a", "gooseberry")
    shares = replacement_shares(source, target, read_word)
    one = [{n: 1.0} for n in range(LENGTH)]
    assert shares.shape == (LENGTH, 2 * LENGTH)
    second = shares[:, LENGTH:]
    assert taken(second)[1:4] == one[2:5]
    assert bool((second[:, [0, *range(4, LENGTH)]] == OWN).all())
    assert taken(shares[:, :LENGTH])[:3] == [one[0], one[1], one[5]]


def test_other_numbers_of_words_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r'source prompt \("a cat"\) has 2 .*\("a cat on"\) 3'):
        replacement_shares(encoded("a cat"), encoded("a cat on"), read_word)


def test_words_stand_between_blanks_without_the_marks_of_weights():
    assert split_words("a (red  wolf:1.3), ((moon))") == ["a", "red", "wolf,", "moon"]
    assert split_words(r"a \(b\) embedding:x") == ["a", r"\(b\)", "embedding:x"]


def test_a_word_is_found_wherever_it_stands_but_not_inside_another():
    prompt = encoded("cat on", "a cat chin").tokens
    assert find_everywhere(prompt, read_word("cat")) == (1, LENGTH + 2)
    assert find_everywhere(prompt, read_word("chin")) == (LENGTH + 3, LENGTH + 4)
    assert find_everywhere(prompt, Word("part", (5,))) == (LENGTH + 4,)
    inner = Tokens(prompt.chunks, prompt.ends, frozenset({(1, 4)}))
    assert find_everywhere(inner, Word("part", (5,))) == ()
    assert find_everywhere(prompt, Word("nothing", ())) == ()


def test_factors_are_read_with_their_phrases():
    assert parse_factors(" brown goat: 2.0, ball:-.5\nhat: 1e1,") == [
        ("brown goat", 2.0),
        ("ball", -0.5),
        ("hat", 10.0),
    ]
    assert parse_factors(" , ") == []


def test_phrases_with_commas_are_read_whole():
    phrases = ["small, red ball", "red ball", "", "(old) hat, or cap"]
    text = "small, red ball: 8, red ball: 2,(old) hat, or cap:-5\nglasses: 1"
    assert parse_factors(text, "scales", phrases) == [
        ("small, red ball", 8.0),
        ("red ball", 2.0),
        ("(old) hat, or cap", -5.0),
        ("glasses", 1.0),
    ]


@pytest.mark.parametrize("text", ["goat", "goat: much", "goat: nan", ": 2", "goat 2"])
def test_what_is_no_factor_is_refused(text: str):
    with pytest.raises(ValueError, match="which is not a word with a factor"):
        parse_factors(f"ball: 1, {text}")
