"""Spans and embeddings with the real tokenizer and ComfyUI's own text encoder classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import comfy.sdxl_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor

from ale_edit.host.conditioning import ORE_KEY, make_conditioning
from ale_edit.host.text import Side, embed_side, encode, tokenize
from ale_edit.prompts.edits import END_OF_TEXT, Edits
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.tests.tiny import WIDTH, edits_of, randn, tiny_clip

FILLER = " ".join(["word"] * 60)


def ids(clip: Any, text: str) -> list[list[int]]:
    return [[token for token, _ in chunk] for chunk in clip.tokenize(text)["l"]]


def words_of(clip: Any, phrase: str) -> list[int]:
    """Token ids of a phrase, as the tokenizer itself gives them."""
    return clip.tokenizer.clip_l.tokenizer(phrase)["input_ids"][1:-1]


def owned(clip: Any, ore: ObjectRestrictedEmbeddings, prompt: str) -> list[list[int]]:
    """The token ids that each object owns in a prompt."""
    flat = torch.tensor(ids(clip, prompt)).flatten()
    return [flat[ore.owner == i].tolist() for i in range(len(ore.phrases))]


def rows(ore: ObjectRestrictedEmbeddings, i: int) -> list[int]:
    return (ore.owner == i).nonzero().flatten().tolist()


def sources(*phrases: str, prompt: str | None = None, **settings: Any) -> Edits:
    return edits_of([(phrase, "x") for phrase in phrases], source_prompt=prompt, **settings)


# -- spans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phrases",
    [
        ("wolf", "moon"),
        ("cat", "cat"),
        ("dog", "hot dog"),
        ("hot dog", "dog"),
        ("a red ball", "red", "a red ball"),
        ("brown-colored goat", "Soccer Ball!", "café crème"),
        ("a", "a b", "b a", "b"),
        ("(red:1.3) ball", "ball"),
        ("wolf",),
        tuple(f"cat {n}" for n in range(16)),
    ],
)
def test_each_phrase_of_a_joined_prompt_owns_its_own_tokens(clip, phrases):
    ore, _ = embed_side(clip, sources(*phrases), "source")
    prompt = " and ".join(phrases)
    plain = [phrase.replace("(", "").replace(":1.3)", "") for phrase in phrases]
    assert owned(clip, ore, prompt) == [words_of(clip, phrase) for phrase in plain]
    starts = [rows(ore, i)[0] for i in range(len(phrases))]
    assert starts == sorted(starts) and starts[0] == 1
    joiners = sum(len(words_of(clip, "and")) for _ in phrases[1:])
    assert starts[-1] == 1 + sum(len(words_of(clip, p)) for p in plain[:-1]) + joiners


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a moon over a wolf", ("wolf", "moon")),
        ("one hot dog beside a dog", ("dog", "hot dog")),
        ("one dog beside a hot dog", ("dog", "hot dog")),
        ("a cat, a dog and another cat", ("cat", "cat")),
    ],
)
def test_phrases_stand_anywhere_in_a_full_prompt(clip, prompt, phrases):
    ore, _ = embed_side(clip, sources(*phrases, prompt=prompt), "source")
    assert owned(clip, ore, prompt) == [words_of(clip, phrase) for phrase in phrases]
    own = [set(rows(ore, i)) for i in range(len(phrases))]
    assert all(a.isdisjoint(b) for a in own for b in own if a is not b)


def test_the_dog_of_a_hot_dog_is_not_the_dog(clip):
    ore, _ = embed_side(clip, sources("dog", "hot dog", prompt="a hot dog, a dog"), "source")
    assert rows(ore, 1) == [2, 3] and rows(ore, 0) == [6]


def test_the_published_variant_takes_the_first_occurrence(clip):
    edits = sources("hot dog", "dog", variant="published code")
    ore, _ = embed_side(clip, edits, "source")
    assert rows(ore, 1) == [2]  # inside "hot dog"
    paper, _ = embed_side(clip, sources("hot dog", "dog"), "source")
    assert rows(paper, 1) == [4]


def test_phrases_of_a_prompt_of_two_chunks_are_found_in_theirs(clip):
    prompt = f"a wolf, {FILLER} {FILLER} under a moon"
    ore, _ = embed_side(clip, sources("wolf", "moon", prompt=prompt), "source")
    assert ore.keys.shape == (154, WIDTH)
    assert owned(clip, ore, prompt) == [words_of(clip, "wolf"), words_of(clip, "moon")]
    assert rows(ore, 0)[0] < 77 <= rows(ore, 1)[0]


def test_many_edits_fill_several_chunks(clip):
    phrases = [f"big red wooden house number {n}" for n in range(14)]
    prompt = " and ".join(phrases)
    split = [i for i, phrase in enumerate(phrases) if is_split(clip, prompt, phrases, i)]
    whole = [phrase for i, phrase in enumerate(phrases) if i not in split]
    ore, _ = embed_side(clip, sources(*whole, prompt=prompt), "source")
    assert len(split) == 1
    assert owned(clip, ore, prompt) == [words_of(clip, phrase) for phrase in whole]


def is_split(clip: Any, prompt: str, phrases: list[str], i: int) -> bool:
    """Whether phrase i of a joined prompt is cut by a border between chunks of 75 tokens."""
    before = len(words_of(clip, " and ".join([*phrases[:i], ""]))) if i else 0
    length = len(words_of(clip, phrases[i]))
    return before // 75 != (before + length - 1) // 75


def test_a_phrase_of_a_full_prompt_cut_by_a_chunk_border_is_refused_with_that_cause(clip):
    phrases = [f"big red wooden house number {n}" for n in range(14)]
    prompt = " and ".join(phrases)
    (cut,) = [i for i in range(14) if is_split(clip, prompt, phrases, i)]
    with pytest.raises(ValueError, match=phrases[cut]) as error:
        embed_side(clip, sources(phrases[cut], prompt=prompt), "source")
    assert "75" in str(error.value)


@pytest.mark.parametrize("phrase", ["brown goat number", "big red wooden house number"])
def test_sixteen_edits_of_several_words_fit_a_joined_prompt(clip, phrase):
    """The prompt is ours here, so no phrase of it may be cut by the border of a chunk."""
    phrases = [f"{phrase} {n}" for n in range(16)]
    ore, _ = embed_side(clip, sources(*phrases), "source")
    lengths = [len(rows(ore, i)) for i in range(16)]
    assert lengths == [len(words_of(clip, phrase)) for phrase in phrases]


# -- embeddings, assembled by hand from ComfyUI's own encodes --------------------------------------


def by_hand(clip: Any, phrases: list[str], variant: str, strategy: str) -> Tensor:
    """ORE_1, ORE_2, e'_base of "phrase and phrase", row by row from methods.md A.3."""
    prompt = " and ".join(phrases)
    base, empty = (clip.encode_from_tokens(clip.tokenize(text))[0] for text in (prompt, ""))
    alone = [clip.encode_from_tokens(clip.tokenize(phrase))[0] for phrase in phrases]
    n0, n1 = (len(words_of(clip, phrase)) for phrase in phrases)
    spans = [slice(1, 1 + n0), slice(2 + n0, 2 + n0 + n1)]
    ends = [1 + n0, 1 + n1]
    end = 2 + n0 + n1
    substituted = base.clone()
    for o, span in enumerate(spans):
        substituted[span] = alone[o][span if variant == "published code" else slice(1, ends[o])]
    out = []
    for o, span in enumerate(spans):
        ore = substituted.clone()
        if variant == "published code":
            ore[1:end] = 0
        else:
            ore[spans[1 - o]] = 0
        ore[span] = alone[o][1 : ends[o]]
        ore[end:] = {
            "ours": alone[o][ends[o] : ends[o] + 77 - end],
            "naive": base[end:],
            "zeros": torch.zeros(77 - end, WIDTH),
            "bos": base[0].expand(77 - end, WIDTH),
            "empty string": empty[1 : 1 + 77 - end],
        }[strategy]
        out.append(ore)
    return torch.stack([*out, substituted])


@pytest.mark.parametrize("strategy", END_OF_TEXT)
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_values_are_those_assembled_by_hand(clip, variant, strategy):
    edits = edits_of(variant=variant, end_of_text=strategy)
    sides: dict[Side, tuple[str, ...]] = {"source": edits.sources, "target": edits.targets}
    for side, phrases in sides.items():
        ore, _ = embed_side(clip, edits, side)
        expected = by_hand(clip, list(phrases), variant, strategy)
        torch.testing.assert_close(ore.values, expected, rtol=0, atol=0)


def test_keys_and_pooled_are_the_plain_encoding_of_the_joined_prompt(clip):
    ore, pooled = embed_side(clip, edits_of(), "target")
    tokens = clip.tokenize("brown-colored goat and soccer ball")
    cond, expected = clip.encode_from_tokens(tokens, return_pooled=True)
    assert pooled is not None
    assert torch.equal(ore.keys, cond[0]) and torch.equal(pooled, expected)


def test_every_chunk_of_a_long_prompt_is_encoded_as_comfyui_encodes_it(clip):
    prompt = f"a wolf, {FILLER} {FILLER} under a moon"
    ore, _ = embed_side(clip, sources("wolf", "moon", prompt=prompt), "source")
    base = clip.encode_from_tokens(clip.tokenize(prompt))[0]
    moon = clip.encode_from_tokens(clip.tokenize("moon"))[0]
    assert torch.equal(ore.keys, base)
    row = rows(ore, 1)[0]
    end = ids(clip, prompt)[1].index(49407) + 77
    assert torch.equal(ore.values[1, row], moon[1])
    assert torch.equal(ore.values[1, end:], moon[2 : 2 + 154 - end])
    first_chunk = slice(ids(clip, prompt)[0].index(49407), 77)
    assert torch.equal(ore.values[1, first_chunk], base[first_chunk])  # its own run
    assert not ore.values[1, rows(ore, 0)].any() and not ore.values[0, row].any()


def test_clip_skip_and_weights_act_on_every_part(clip):
    skipped = clip.clone()
    skipped.clip_layer(-2)
    ore, _ = embed_side(skipped, edits_of(), "target")
    torch.testing.assert_close(
        ore.values, by_hand(skipped, list(edits_of().targets), "paper", "ours"), rtol=0, atol=0
    )
    assert not torch.equal(ore.values, embed_side(clip, edits_of(), "target")[0].values)
    heavy, _ = embed_side(clip, sources("(wolf:1.5)", "moon"), "source")
    light, _ = embed_side(clip, sources("wolf", "moon"), "source")
    assert not torch.allclose(heavy.values[0, 1], light.values[0, 1])
    alone = clip.encode_from_tokens(clip.tokenize("(wolf:1.5)"))[0]
    assert torch.equal(heavy.values[0, 1], alone[1])


def test_a_textual_inversion_inside_a_phrase_is_found(tmp_path: Path):
    vectors = randn(2, WIDTH)
    safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "fur.safetensors")
    clip = tiny_clip(embedding_directory=str(tmp_path))
    edits = sources("moon", "wolf embedding:fur", "cat")
    ore, _ = embed_side(clip, edits, "source")
    assert rows(ore, 1) == [3, 4, 5]
    assert rows(ore, 2) == [7]
    assert torch.isfinite(ore.values).all()


def test_the_conditioning_for_any_sampler_is_the_substituted_base(clip):
    ore, pooled = embed_side(clip, edits_of(), "target")
    ((text, options),) = make_conditioning(ore, pooled)
    assert torch.equal(text[0], ore.values[-1])
    assert options[ORE_KEY] is ore and options["pooled_output"] is pooled


def test_encoding_twice_gives_the_same_bytes(clip):
    first, second = (embed_side(clip, edits_of(), "target")[0] for _ in range(2))
    assert torch.equal(first.values, second.values)


# -- bad input -------------------------------------------------------------------------------------


def test_a_phrase_that_is_not_in_the_full_prompt_is_named(clip):
    edits = sources("wolf", "moon", prompt="a wolf at night")
    with pytest.raises(ValueError, match='source phrase "moon".*"a wolf at night".*Use the same'):
        embed_side(clip, edits, "source")


def test_a_second_object_needs_a_second_occurrence(clip):
    with pytest.raises(ValueError, match='"cat".*"one cat".*once for every edit'):
        embed_side(clip, sources("cat", "cat", prompt="one cat"), "source")


def test_a_phrase_of_more_than_a_chunk_is_refused_with_its_length(clip):
    with pytest.raises(ValueError, match="80 tokens, more than the 75.*Shorten"):
        embed_side(clip, sources(" ".join(["word"] * 80)), "source")


@pytest.mark.parametrize("phrase", ["()", "(()(()))"])
def test_a_phrase_without_tokens_is_named(clip, phrase):
    assert tokenize(clip, phrase).words == ()
    with pytest.raises(ValueError, match="yields no tokens.*Write"):
        embed_side(clip, sources(phrase), "source")


def test_no_edits_are_refused(clip):
    with pytest.raises(ValueError, match="Object-Restricted Embeddings.*edits.*Add"):
        embed_side(clip, Edits(()), "target")


def test_another_kind_of_text_encoder_is_refused_by_its_name(clip):
    other = clip.clone()
    other.tokenizer = comfy.sdxl_clip.SDXLTokenizer()
    with pytest.raises(ValueError, match="Object-Restricted Embeddings.*g, l.*Connect"):
        tokenize(other, "a wolf")


def test_an_encoder_with_one_key_of_another_kind_is_refused(clip):
    other = clip.clone()
    other.tokenizer = comfy.sd1_clip.SD1Tokenizer(clip_name="h")
    with pytest.raises(ValueError, match="Object-Restricted Embeddings.*encoders h.*Connect"):
        tokenize(other, "a wolf")


def test_nothing_is_logged_for_a_good_prompt(clip, caplog):
    with caplog.at_level(logging.WARNING):
        embed_side(clip, edits_of(), "target")
        encode(clip, "")
    assert not caplog.records
