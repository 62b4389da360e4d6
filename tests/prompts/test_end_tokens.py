"""End-token substitution, row by row."""

import pytest
import torch

from ale_edit.prompts.alignment import EncodedPrompt
from ale_edit.prompts.end_tokens import substitute_end_tokens
from ale_edit.prompts.spans import Tokens

LENGTH = 6


def encoded(*words: int, seed: int = 0) -> EncodedPrompt:
    """words: how many each chunk has."""
    chunks = tuple((98, *[1] * count, *[99] * (LENGTH - 1 - count)) for count in words)
    embedding = torch.randn(len(words) * LENGTH, 4, generator=torch.Generator().manual_seed(seed))
    tokens = Tokens(chunks, tuple(count + 1 for count in words))
    return EncodedPrompt("some words", tokens, embedding)


def test_rows_behind_the_words_are_the_others_and_no_other_row_is():
    prompt, plain = encoded(3), encoded(2, seed=1)
    found = substitute_end_tokens(prompt, plain)
    assert torch.equal(found[:4], prompt.embedding[:4])
    assert torch.equal(found[4:], plain.embedding[4:])


def test_each_chunk_takes_those_of_the_same_chunk_or_of_the_last():
    prompt = encoded(3, 2, 2)
    plain = encoded(1, 2, seed=1)
    found = substitute_end_tokens(prompt, plain)
    for chunk, other, end in ((0, 0, 4), (1, 1, 3), (2, 1, 3)):
        own = found[chunk * LENGTH : (chunk + 1) * LENGTH]
        kept = prompt.embedding[chunk * LENGTH : (chunk + 1) * LENGTH]
        assert torch.equal(own[:end], kept[:end])
        assert torch.equal(own[end:], plain.embedding[other * LENGTH + end : (other + 1) * LENGTH])


def test_a_prompt_gives_its_own_rows_back_from_itself():
    prompt = encoded(3)
    assert torch.equal(substitute_end_tokens(prompt, prompt), prompt.embedding)


def test_words_of_the_other_prompt_are_never_taken_for_ends():
    with pytest.raises(ValueError, match=r"3 tokens, not at most 2\. Name its objects alone"):
        substitute_end_tokens(encoded(2), encoded(3))
