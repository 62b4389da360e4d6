"""ORE on random rows, against Algorithm 1 written row by row, and its properties.

The same rows assembled from ComfyUI's own text encoder are in tests/host/test_text.py.
"""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from ale_edit.prompts.edits import END_OF_TEXT, MethodSettings
from ale_edit.prompts.ore import (
    BACKGROUND,
    ObjectRestrictedEmbeddings,
    Phrase,
    Prompt,
    restrict_embeddings,
)
from ale_edit.prompts.spans import Span
from ale_edit.tests.tiny import randn

ROWS, WIDTH = 77, 6
EMPTY = randn(ROWS, WIDTH, seed=99)


def phrase(seed: int, chunk: int, start: int, stop: int) -> Phrase:
    embedding = randn(ROWS, WIDTH, seed=seed)
    return Phrase(f"object {seed}", embedding, stop - start + 1, Span(chunk, start, stop))


def three_objects() -> tuple[Prompt, list[Phrase]]:
    """start, 2 words, and, 1 word, and, 3 words, end of text."""
    phrases = [phrase(1, 0, 1, 3), phrase(2, 0, 4, 5), phrase(3, 0, 6, 9)]
    return Prompt(randn(ROWS, WIDTH, seed=10), (9,)), phrases


def two_chunks() -> tuple[Prompt, list[Phrase]]:
    phrases = [phrase(1, 0, 1, 3), phrase(2, 0, 70, 76), phrase(3, 1, 2, 4)]
    return Prompt(randn(2 * ROWS, WIDTH, seed=10), (76, 5)), phrases


def build(prompt: Prompt, phrases: list[Phrase], **settings) -> ObjectRestrictedEmbeddings:
    return restrict_embeddings(prompt, phrases, EMPTY, MethodSettings(**settings))


def run_of(strategy: str, base: Tensor, alone: Phrase, row: int, base_end: int) -> Tensor:
    """Row `row` of an object's end-of-text run in a chunk whose run starts at base_end."""
    return {
        "ours": alone.embedding[alone.end + row - base_end],
        "naive": base[row],
        "zeros": torch.zeros(WIDTH),
        "bos": base[0],
        "empty string": EMPTY[1 + row - base_end],
    }[strategy]


def literal_values(prompt: Prompt, phrases: list[Phrase], variant: str, strategy: str) -> Tensor:
    """Algorithm 1 of ALE-Edit and methods.md A.3, one row at a time."""
    values = torch.empty(len(phrases) + 1, len(prompt.ends) * ROWS, WIDTH)
    for k in range(len(phrases) + 1):
        for chunk, end in enumerate(prompt.ends):
            base = prompt.embedding[chunk * ROWS : (chunk + 1) * ROWS]
            here = [i for i, p in enumerate(phrases) if p.span.chunk == chunk]
            for row in range(ROWS):
                owners = [i for i in here if phrases[i].span.start <= row < phrases[i].span.stop]
                value = base[row]
                if owners:
                    own = phrases[owners[0]]
                    shift = (
                        0 if variant == "published code" and k != owners[0] else own.span.start - 1
                    )
                    value = own.embedding[row - shift]
                if k < len(phrases):
                    is_word = 1 <= row < end
                    is_other = bool(owners) and owners[0] != k
                    is_and = is_word and not owners and variant == "published code"
                    if is_other or is_and:
                        value = torch.zeros(WIDTH)
                    if k in here and row >= end:
                        value = run_of(strategy, base, phrases[k], row, end)
                values[k, chunk * ROWS + row] = value
    return values


@pytest.mark.parametrize("strategy", END_OF_TEXT)
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_values_are_algorithm_1_row_by_row(variant: str, strategy: str):
    prompt, phrases = three_objects()
    ore = build(prompt, phrases, variant=variant, end_of_text=strategy)
    expected = literal_values(prompt, phrases, variant, strategy)
    torch.testing.assert_close(ore.values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", END_OF_TEXT)
def test_every_chunk_is_treated_alone(strategy: str):
    prompt, phrases = two_chunks()
    ore = build(prompt, phrases, end_of_text=strategy)
    expected = literal_values(prompt, phrases, "paper", strategy)
    torch.testing.assert_close(ore.values, expected, rtol=0, atol=0)


def test_the_strategies_and_variants_all_differ():
    prompt, phrases = three_objects()
    made = [build(prompt, phrases, end_of_text=s).values for s in END_OF_TEXT]
    made.append(build(prompt, phrases, variant="published code").values)
    assert not any(torch.equal(a, b) for a, b in permutations(made, 2))


def test_in_the_paper_variant_no_value_holds_a_row_of_another_object():
    prompt, phrases = three_objects()
    ore = build(prompt, phrases)
    for k in range(3):
        for other in (i for i in range(3) if i != k):
            assert not ore.values[k, ore.owner == other].any()
        own = phrases[k]
        torch.testing.assert_close(ore.values[k, ore.owner == k], own.embedding[1 : own.end])


def test_the_published_variant_also_zeroes_the_joining_words():
    prompt, phrases = three_objects()
    joining = [3, 5]
    assert not build(prompt, phrases, variant="published code").values[:3, joining].any()
    paper = build(prompt, phrases).values[:3, joining]
    torch.testing.assert_close(paper, prompt.embedding[joining].expand(3, -1, -1))


def test_the_published_variant_substitutes_the_phrase_at_the_prompts_own_rows():
    prompt, phrases = three_objects()
    base = build(prompt, phrases, variant="published code").base
    assert torch.equal(base[4:5], phrases[1].embedding[4:5])
    assert torch.equal(build(prompt, phrases).base[4:5], phrases[1].embedding[1:2])


def test_the_background_keeps_the_prompts_own_end_of_text_run():
    prompt, phrases = three_objects()
    for strategy in END_OF_TEXT:
        base = build(prompt, phrases, end_of_text=strategy).base
        assert torch.equal(base[9:], prompt.embedding[9:])


@pytest.mark.parametrize("strategy", END_OF_TEXT)
def test_the_strategy_reaches_the_background_only_on_request(strategy: str):
    prompt, phrases = three_objects()
    plain = build(prompt, phrases, end_of_text=strategy)
    asked = build(prompt, phrases, end_of_text=strategy, end_of_text_in_base=True)
    assert torch.equal(asked.values[:-1], plain.values[:-1])
    run = asked.base[9:]
    expected = {
        "zeros": torch.zeros_like(run),
        "bos": prompt.embedding[:1].expand_as(run),
        "empty string": EMPTY[1 : 1 + len(run)],
    }.get(strategy, prompt.embedding[9:])
    assert torch.equal(run, expected)


def test_without_ore_every_value_is_the_plain_encoding():
    prompt, phrases = three_objects()
    ore = build(prompt, phrases, ore=False)
    assert torch.equal(ore.values, prompt.embedding.expand(4, -1, -1))
    assert torch.equal(ore.owner, build(prompt, phrases).owner)


def test_keys_are_the_plain_encoding():
    for variant in ("paper", "published code"):
        prompt, phrases = three_objects()
        assert torch.equal(build(prompt, phrases, variant=variant).keys, prompt.embedding)


def test_each_word_is_owned_by_its_object_and_every_other_token_by_none():
    prompt, phrases = three_objects()
    owner = build(prompt, phrases).owner
    words = [BACKGROUND, 0, 0, BACKGROUND, 1, BACKGROUND, 2, 2, 2]
    assert owner.tolist() == words + [BACKGROUND] * (ROWS - len(words))
    prompt, phrases = two_chunks()
    owner = build(prompt, phrases).owner
    rows = [(owner == k).nonzero().flatten().tolist() for k in range(3)]
    assert rows == [[1, 2], list(range(70, 76)), [79, 80]]


@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_permuting_the_objects_permutes_their_values_and_owners(variant: str):
    prompt, phrases = three_objects()
    ore = build(prompt, phrases, variant=variant)
    for order in permutations(range(3)):
        other = build(prompt, [phrases[i] for i in order], variant=variant)
        assert torch.equal(other.values, ore.values[[*order, 3]])
        for place, i in enumerate(order):
            assert torch.equal(other.owner == place, ore.owner == i)
        assert other.phrases == tuple(ore.phrases[i] for i in order)


def test_the_inputs_are_left_as_they_were():
    prompt, phrases = three_objects()
    before = [prompt.embedding.clone(), *(p.embedding.clone() for p in phrases)]
    for variant in ("paper", "published code"):
        ore = build(prompt, phrases, variant=variant, end_of_text="zeros", end_of_text_in_base=True)
        ore.values.add_(1)
    after = [prompt.embedding, *(p.embedding for p in phrases)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_unknown_strategy_is_refused_by_name():
    with pytest.raises(ValueError, match='^the end_of_text input is "mean"'):
        MethodSettings(end_of_text="mean")  # type: ignore[arg-type]
