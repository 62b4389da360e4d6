"""Alignment on made-up token ids; with the real tokenizer in tests/oracle/test_infedit_parts.py."""

from itertools import product

import pytest
import torch
from torch import Tensor

from ale_edit.prompts.alignment import (
    EncodedPrompt,
    Word,
    align,
    align_by_likeness,
    find_words,
    require_aligned,
)
from ale_edit.prompts.spans import Token, Tokens
from ale_edit.tests.tiny import generator, randn

START, END = 49406, 49407
A, CAT, DOG, HAT, ON, RED = 10, 20, 30, 40, 50, 60
LENGTH = 12


def tokens(*chunks: list[Token]) -> Tokens:
    rows = [[START, *chunk, END] for chunk in chunks]
    padded = tuple((*row, *[END] * (LENGTH - len(row))) for row in rows)
    return Tokens(padded, tuple(len(chunk) + 1 for chunk in chunks))


def encoded(prompt: Tokens, seed: int = 0) -> EncodedPrompt:
    return EncodedPrompt("words", prompt, randn(len(prompt.chunks) * LENGTH, 8, seed=seed))


def mapper(source: list[Token], target: list[Token]) -> list[int]:
    """Of the target's start, words and end."""
    return align(tokens(source), tokens(target)).mapper[: len(target) + 2].tolist()


def common(source: tuple[int, ...], target: tuple[int, ...]) -> int:
    """The longest common subsequence, by trying every part of the source."""
    parts = (
        [token for token, kept in zip(source, flags, strict=True) if kept]
        for flags in product((False, True), repeat=len(source))
    )
    return max(len(part) for part in parts if _is_part(part, target))


def _is_part(part: list[int], whole: tuple[int, ...]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


def test_equal_words_are_paired_in_order_and_others_stay_alone():
    assert mapper([A, CAT], [A, RED, DOG]) == [0, 1, -1, -1, 3]
    assert mapper([A, CAT, ON, A, HAT], [A, DOG, ON, A, HAT]) == [0, 1, -1, 3, 4, 5, 6]
    assert mapper([A, RED, CAT], [A, CAT]) == [0, 1, 3, 4]
    assert mapper([], [CAT]) == [0, -1, 1]
    assert mapper([CAT], []) == [0, 2]


def test_of_equally_good_alignments_the_target_gap_that_comes_last_is_taken():
    """Read from the end: a target gap before a source gap before a pair."""
    assert mapper([CAT], [CAT, CAT]) == [0, 1, -1, 2]
    assert mapper([CAT, CAT], [CAT]) == [0, 1, 3]
    assert mapper([CAT, DOG], [DOG, CAT]) == [0, 2, -1, 3]


def test_the_padding_is_mapped_row_by_row():
    found = align(tokens([A, CAT]), tokens([A, RED, DOG])).mapper.tolist()
    assert found[5:] == list(range(5, LENGTH))


@pytest.mark.parametrize("seed", range(40))
def test_the_pairs_are_equal_rising_and_as_many_as_can_be(seed: int):
    draws = generator(seed)
    source, target = (
        tuple(torch.randint(3, (int(n),), generator=draws).tolist())
        for n in torch.randint(1, 9, (2,), generator=draws)
    )
    rows = mapper(list(source), list(target))[1:-1]
    pairs = [(s - 1, t) for t, s in enumerate(rows) if s >= 0]
    assert all(source[s] == target[t] for s, t in pairs)
    assert pairs == sorted(pairs) and len({s for s, _ in pairs}) == len(pairs)
    assert len(pairs) == common(source, target)


def test_every_chunk_is_aligned_alone():
    source, target = tokens([CAT], [A, DOG]), tokens([CAT], [RED, DOG], [HAT])
    found = align(source, target)
    assert found.mapper[:LENGTH].tolist() == list(range(LENGTH))
    assert found.mapper[LENGTH : LENGTH + 4].tolist() == [LENGTH, -1, LENGTH + 2, LENGTH + 3]
    assert found.mapper[LENGTH + 4 : 2 * LENGTH].tolist() == list(range(LENGTH + 4, 2 * LENGTH))
    assert (found.mapper[2 * LENGTH :] == -1).all()  # the source has no third chunk
    assert align(target, source).mapper[:LENGTH].tolist() == list(range(LENGTH))


def test_textual_inversions_are_compared_by_value():
    vector = torch.ones(4)
    assert mapper([vector, CAT], [vector.clone(), DOG]) == [0, 1, -1, 3]
    assert mapper([vector], [2 * vector]) == [0, -1, 2]


def likeness_prompts(source_rows: dict[int, Tensor], target_rows: dict[int, Tensor]):
    """A CAT ON | A RED DOG HAT ON, whose gaps are source row 2 and target rows 2, 3, 4; other rows
    all alike."""
    prompts = []
    texts: list[list[Token]] = [[A, CAT, ON], [A, RED, DOG, HAT, ON]]
    for words, rows in zip(texts, (source_rows, target_rows), strict=True):
        embedding = torch.zeros(LENGTH, 4)
        embedding[:, 3] = 1
        for row, value in rows.items():
            embedding[row] = value
        prompts.append(EncodedPrompt("words", tokens(words), embedding))
    return prompts


X, Y = torch.eye(4)[:2]


def test_the_most_alike_word_of_a_gap_is_paired():
    source, target = likeness_prompts({2: X}, {2: Y, 3: 5 * X + Y, 4: X - Y})
    found = align_by_likeness(source, target, "paper")
    assert found.mapper[:7].tolist() == [0, 1, -1, 2, -1, 3, 4]
    assert found.is_filled.nonzero().flatten().tolist() == [3]


def test_the_published_code_compares_other_rows():
    """The source's embedding at a target's row, 2, 3 or 4, with the target's at the source's, 2."""
    source, target = likeness_prompts({2: X, 3: -Y, 4: Y}, {2: Y, 3: X, 4: X})
    assert align_by_likeness(source, target, "published code").mapper[2:5].tolist() == [-1, -1, 2]
    assert align_by_likeness(source, target, "paper").mapper[2:5].tolist() == [-1, 2, -1]


def test_a_gap_with_nothing_opposite_stays_unaligned():
    source, target = encoded(tokens([A, CAT])), encoded(tokens([A, RED, CAT]))
    assert align_by_likeness(source, target, "paper").mapper[:5].tolist() == [0, 1, -1, 2, 3]


def test_gaps_are_filled_chunk_by_chunk():
    source, target = encoded(tokens([CAT], [DOG])), encoded(tokens([CAT], [HAT], [RED]))
    for variant in ("paper", "published code"):
        found = align_by_likeness(source, target, variant).mapper
        assert found[LENGTH + 1] == LENGTH + 1
        assert (found[2 * LENGTH :] == -1).all()


def test_prompts_that_align_nowhere_are_refused_in_a_sentence():
    words = EncodedPrompt("a cat", tokens([A, CAT]), randn(LENGTH, 8))
    nothing = EncodedPrompt("", tokens([]), randn(LENGTH, 8))
    require_aligned(align_by_likeness(words, words, "paper"), words, words)
    message = r'no word of the target prompt \("a cat"\) can be aligned with .* prompt \(""\)\. '
    with pytest.raises(ValueError, match=message):
        require_aligned(align_by_likeness(nothing, words, "paper"), nothing, words)


def rows_of(prompt: Tokens, *words: tuple[Token, ...]) -> list[tuple[int, ...]]:
    return find_words(prompt, [Word("word", word) for word in words])


def test_a_word_has_the_rows_of_all_its_tokens():
    prompt = tokens([A, RED, CAT], [DOG, HAT])
    assert rows_of(prompt, (RED, CAT), (HAT,)) == [(2, 3), (LENGTH + 2,)]


def test_a_repeated_word_is_searched_behind_the_word_before_it():
    prompt = tokens([A, CAT, ON, A, HAT])
    assert rows_of(prompt, (A,), (A,), (HAT,)) == [(1,), (4,), (5,)]
    assert rows_of(prompt, (ON,), (A,)) == [(3,), (4,)]


def test_words_in_another_order_are_found_and_missing_ones_have_no_rows():
    prompt = tokens([A, CAT, ON, A, HAT])
    assert rows_of(prompt, (HAT,), (CAT,), (DOG,), ()) == [(5,), (2,), (), ()]


def test_only_rows_that_are_accepted_count():
    prompt = tokens([CAT, ON, CAT])
    assert find_words(prompt, [Word("cat", (CAT,))], lambda rows: rows[0] > 1) == [(3,)]
