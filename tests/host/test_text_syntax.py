"""How the words of phrases are found in a prompt, and all that may be written there: weights,
brackets, textual inversions, capitals, punctuation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ale_edit.tests.host.text_by_hand import FAMILIES, G, L, by_hand, clip_of, ids, stock
from ale_edit.tests.host.texts import embed, owned, rows, sources
from ale_edit.tests.tiny import WIDTH, edits_of, randn

FILLER = " ".join(["word"] * 60)

every_family = pytest.mark.parametrize("family", FAMILIES)


def same(made: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(made, expected, rtol=0, atol=0)


def words_of(clip: Any, phrase: str) -> list[int]:
    """Token ids of a phrase, as the tokenizer itself gives them."""
    return clip.tokenizer.clip_l.tokenizer(phrase)["input_ids"][1:-1]


# -- where phrases stand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phrases",
    [
        ("wolf", "moon"),
        ("cat", "cat"),
        ("dog", "hot dog"),
        ("hot dog", "dog"),
        ("firetruck", "truck"),
        ("truck", "firetruck"),
        ("brown-colored goat", "Soccer Ball!", "café crème"),
        ("a", "a b", "b a", "b"),
        ("a", "b", "a and b"),
        ("cat", "and", "and cat"),
        ("wolf",),
        ("...", "!", ","),
        tuple(f"cat {n}" for n in range(16)),
    ],
)
def test_each_phrase_of_a_joined_prompt_owns_its_own_tokens(clip, phrases):
    ore = embed(clip, sources(*phrases))
    assert owned(clip, ore, " and ".join(phrases)) == [words_of(clip, p) for p in phrases]
    starts = [rows(ore, i)[0] for i in range(len(phrases))]
    assert starts == sorted(starts) and starts[0] == 1
    joiners = sum(len(words_of(clip, "and")) for _ in phrases[1:])
    assert starts[-1] == 1 + sum(len(words_of(clip, p)) for p in phrases[:-1]) + joiners


@every_family
@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a moon over a wolf", ("wolf", "moon")),
        ("one hot dog beside a dog", ("dog", "hot dog")),
        ("one dog beside a hot dog", ("dog", "hot dog")),
        ("a cat, a dog and another cat", ("cat", "cat")),
        ("wolf, moon", ("wolf", "moon")),
        ("the wolf's moon.", ("wolf", "moon")),
        ("a moonlit night, the (moon:1.2)...", ("moon",)),
        ("A Photo of a WOLF under a Moon", ("wolf", "MOON")),
        ("a\nphoto  of a\twolf", ("photo of", "wolf")),
        ("two cats and a cat", ("cat",)),
        ("a firetruck and a truck", ("truck", "firetruck")),
        ("a blackcat, a black cat", ("black cat",)),
        ("a red-haired wolf", ("red-haired wolf",)),
    ],
)
def test_phrases_stand_anywhere_in_a_full_prompt(family, prompt, phrases):
    clip = clip_of(family)
    ore = embed(clip, sources(*phrases, prompt=prompt))
    (encoder, *_) = FAMILIES[family].channels
    assert owned(clip, ore, prompt, encoder) == [words_of(clip_of("SD 1.5"), p) for p in phrases]
    own = [set(rows(ore, i)) for i in range(len(phrases))]
    assert all(a.isdisjoint(b) for a in own for b in own if a is not b)


def test_the_dog_of_a_hot_dog_is_not_the_dog(clip):
    ore = embed(clip, sources("dog", "hot dog", prompt="a hot dog, a dog"))
    assert rows(ore, 1) == [2, 3] and rows(ore, 0) == [6]


@every_family
@pytest.mark.parametrize(
    ("prompt", "phrase", "row"),
    [
        ("a firetruck beside a truck", "truck", 6),  # a fire|truck beside a truck
        ("a dollhouse in a house", "house", 6),
        ("some cats beside a cat", "cat", 5),
    ],
)
def test_the_end_of_a_longer_word_is_not_the_word(family, prompt, phrase, row):
    ore = embed(clip_of(family), sources(phrase, prompt=prompt))
    assert rows(ore, 0) == [row]


def test_a_word_that_a_chunk_border_cuts_does_not_begin_again_in_the_next_chunk(clip):
    """75 tokens: 74 words and "fire"; "truck" is the first token of the second chunk."""
    prompt = " ".join(["word"] * 74) + " firetruck beside a truck"
    assert ids(clip, prompt, "l")[1][1] == words_of(clip, "truck")[0]
    assert rows(embed(clip, sources("truck", prompt=prompt)), 0) == [77 + 4]


def test_the_published_variant_takes_the_first_occurrence(clip):
    ore = embed(clip, sources("hot dog", "dog", variant="published code"))
    assert rows(ore, 1) == [2]  # inside "hot dog"
    assert rows(embed(clip, sources("hot dog", "dog")), 1) == [4]
    ore = embed(clip, sources("truck", prompt="a firetruck, a truck", variant="published code"))
    assert rows(ore, 0) == [3]


@every_family
def test_phrases_of_a_prompt_of_two_chunks_are_found_in_theirs(family):
    clip = clip_of(family)
    ore = embed(clip, sources("wolf", "moon", prompt=f"a wolf, {FILLER} {FILLER} under a moon"))
    assert rows(ore, 0) == [2]
    assert rows(ore, 1) == [77 + 3 + 120 - 75 + 3]


@pytest.mark.parametrize("phrase", ["brown goat number", "big red wooden house number"])
def test_no_phrase_of_a_joined_prompt_is_cut(clip, phrase):
    phrases = [f"{phrase} {n}" for n in range(16)]
    ore = embed(clip, sources(*phrases))
    lengths = [len(rows(ore, i)) for i in range(16)]
    assert lengths == [len(words_of(clip, phrase)) for phrase in phrases]


# -- weights and brackets --------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_weights_of_a_phrase_act_on_its_own_words(family, variant):
    clip = clip_of(family)
    phrases = ("(gold goat:1.3)", "a (very (big:1.2)) wolf", "((moon))")
    ore = embed(clip, sources(*phrases, variant=variant))
    same(ore.values, by_hand(clip, family, phrases, [" and ".join(phrases)], variant))
    light = embed(clip, sources("gold goat", "a very big wolf", "moon", variant=variant))
    assert [rows(ore, i) for i in range(3)] == [rows(light, i) for i in range(3)]
    assert not torch.allclose(ore.values[0, 1], light.values[0, 1])


@every_family
def test_a_weight_of_the_full_prompt_acts_without_one_in_the_phrase(family):
    clip = clip_of(family)
    prompt = "a photo of a (wolf:1.5) under a moon"
    ore = embed(clip, sources("wolf", "moon", prompt=prompt))
    same(ore.values, by_hand(clip, family, ("(wolf:1.5)", "moon"), [prompt]))
    same(ore.keys, stock(clip, prompt)[0])
    plain = embed(clip, sources("wolf", "moon", prompt="a photo of a wolf under a moon"))
    assert not torch.allclose(ore.values[0, 5], plain.values[0, 5])
    assert rows(ore, 0) == rows(plain, 0) == [5]


@every_family
def test_a_weight_over_part_of_a_phrase_and_more_is_kept_token_by_token(family):
    clip = clip_of(family)
    prompt = "a (photo of a big:1.4) wolf (under:0.5) a moon"
    ore = embed(clip, sources("big wolf", "moon", prompt=prompt))
    same(ore.values, by_hand(clip, family, ("(big:1.4) wolf", "moon"), [prompt]))


@every_family
def test_a_weight_in_the_phrase_alone_gives_way_to_the_full_prompt_and_is_logged(family, caplog):
    clip = clip_of(family)
    prompt = "a photo of a wolf under a moon"
    with caplog.at_level(logging.WARNING):
        plain = embed(clip, sources("wolf", "moon", prompt=prompt))
        assert not caplog.records
        ore = embed(clip, sources("(wolf:1.5)", "moon", prompt=prompt))
    same(ore.values, plain.values)
    (record,) = caplog.records
    for part in ('source phrase "(wolf:1.5)"', "not used", "source_prompt of Full Prompts"):
        assert part in record.getMessage()


def test_a_weight_in_both_places_is_that_of_the_full_prompt(clip, caplog):
    prompt = "a (wolf:1.5) under a moon"
    expected = embed(clip, sources("wolf", prompt=prompt)).values
    with caplog.at_level(logging.WARNING):
        same(embed(clip, sources("(wolf:1.5)", prompt=prompt)).values, expected)
        assert not caplog.records
        same(embed(clip, sources("(wolf:1.2)", prompt=prompt)).values, expected)
    assert len(caplog.records) == 1


@every_family
def test_escaped_brackets_are_words(family):
    clip = clip_of(family)
    phrases = (r"wolf \(dark\)", "moon")
    joined = embed(clip, sources(*phrases))
    assert len(rows(joined, 0)) == 4 and rows(joined, 1) == [6]
    prompt = r"a photo of a wolf \(dark\) and a moon"
    ore = embed(clip, sources(*phrases, prompt=prompt))
    assert rows(ore, 0) == [5, 6, 7, 8]
    same(ore.values, by_hand(clip, family, phrases, [prompt]))


@every_family
def test_unescaped_brackets_are_a_weight(family):
    clip = clip_of(family)
    ore = embed(clip, sources("(wolf)", "moon"))
    same(ore.values, by_hand(clip, family, ("(wolf:1.1)", "moon"), ["(wolf:1.1) and moon"]))


# -- textual inversions ----------------------------------------------------------------------------

SIZES = {
    "SD 1.5": {"emb_params": WIDTH},
    "SD 2": {"emb_params": WIDTH},
    "SDXL": {"clip_l": L, "clip_g": G},
    "SDXL refiner": {"clip_l": L, "clip_g": G},
}


def clip_with_embedding(family: str, folder: Path, count: int = 2) -> Any:
    """A CLIP that knows `embedding:fur`."""
    vectors = {
        key: randn(count, size, seed=i) for i, (key, size) in enumerate(SIZES[family].items())
    }
    safetensors.torch.save_file(vectors, folder / "fur.safetensors")
    return FAMILIES[family].build(embedding_directory=str(folder))


@every_family
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_textual_inversion_inside_a_phrase_is_found_by_its_vectors(family, count, tmp_path):
    clip = clip_with_embedding(family, tmp_path, count)
    phrases = ("moon", "wolf embedding:fur", "cat")
    ore = embed(clip, sources(*phrases))
    assert rows(ore, 1) == list(range(3, 4 + count)) and rows(ore, 2) == [5 + count]
    prompt = "a moon above a wolf embedding:fur, a cat"
    full = embed(clip, sources(*phrases, prompt=prompt))
    assert rows(full, 1) == list(range(5, 6 + count)) and rows(full, 2) == [8 + count]
    plain = embed(clip, sources("moon", "wolf", "cat"))
    assert not torch.allclose(full.values[1, 6], plain.values[1, 4])
    alone, _ = stock(clip, "wolf embedding:fur")
    same(full.values[1, rows(full, 1)], alone[1 : 2 + count])
    same(full.keys, stock(clip, prompt)[0])
    end = 9 + count
    same(full.values[1, end:], alone[2 + count : 2 + count + 77 - end])


@every_family
def test_a_weighted_textual_inversion_has_its_weight(family, tmp_path):
    clip = clip_with_embedding(family, tmp_path)
    phrase = "wolf (embedding:fur:1.3)"
    ore = embed(clip, sources(phrase, "moon"))
    alone, _ = stock(clip, phrase)
    same(ore.values[0, 1:4], alone[1:4])
    light, _ = stock(clip, "wolf embedding:fur")
    assert not torch.allclose(alone[2:4], light[2:4])


@every_family
def test_a_missing_embedding_file_moves_no_words(family, tmp_path, caplog):
    """ComfyUI logs it and leaves it out, in the phrase and in the prompt alike."""
    clip = clip_with_embedding(family, tmp_path)
    with caplog.at_level(logging.WARNING):
        made = embed(clip, sources("wolf embedding:nosuch", "moon"))
    assert "embedding:nosuch" in caplog.text
    same(made.values, embed(clip, sources("wolf", "moon")).values)
    assert [rows(made, i) for i in range(2)] == [[1], [3]]
    prompt = "a embedding:nosuch photo of a wolf embedding:nosuch under a moon"
    full = embed(clip, sources("wolf", "moon", prompt=prompt))
    assert [rows(full, i) for i in range(2)] == [[5], [8]]
    same(full.values, by_hand(clip, family, ("wolf", "moon"), [prompt]))


# -- nothing else happens --------------------------------------------------------------------------


@every_family
def test_nothing_is_logged_for_a_good_prompt(family, caplog):
    with caplog.at_level(logging.WARNING):
        embed(clip_of(family), edits_of(), "target")
    assert not caplog.records


@every_family
def test_a_prompt_of_punctuation_is_a_prompt(family):
    clip = clip_of(family)
    phrases = ("!!!", "...", ",")
    ore = embed(clip, sources(*phrases))
    same(ore.values, by_hand(clip, family, phrases, ["!!! and ... and ,"]))
    assert torch.isfinite(ore.values).all()
