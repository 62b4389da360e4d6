"""Object-Restricted Embeddings of every text encoder that a UNet of ComfyUI has, with the real
tokenizers and ComfyUI's own encoder classes, against the stock node's outputs assembled by hand.

How words are found and what may be written is in test_text_syntax.py, what is refused in
test_text_refused.py.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import comfy.hooks
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks
from torch import Tensor

from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.host.text.embedding import embed_side
from ale_edit.prompts.edits import END_OF_TEXT, VARIANTS, Side
from ale_edit.tests.host.text_by_hand import (
    FAMILIES,
    CLIPTextEncode,
    G,
    L,
    by_hand,
    clip_of,
    ids,
    stock,
)
from ale_edit.tests.host.texts import embed, rows, sources
from ale_edit.tests.tiny import edits_of, randn

PHRASES = ("gray wolf", "brown-colored goat made of gold", "soccer ball")
SENTENCE = "a photo of a gray wolf, a brown-colored goat made of gold and one soccer ball at night"
FILLER = " ".join(["word"] * 60)

every_family = pytest.mark.parametrize("family", FAMILIES)


def same(made: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(made, expected, rtol=0, atol=0)


# -- the same rows, assembled by hand --------------------------------------------------------------


@every_family
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("strategy", END_OF_TEXT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_joined_phrases_give_the_rows_assembled_by_hand(family, variant, strategy, count):
    clip, phrases = clip_of(family), PHRASES[:count]
    ore = embed(clip, sources(*phrases, variant=variant, end_of_text=strategy))
    base = " and ".join(phrases)
    same(ore.values, by_hand(clip, family, phrases, [base], variant, strategy))
    same(ore.keys, stock(clip, base)[0])


@every_family
@pytest.mark.parametrize("strategy", END_OF_TEXT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_full_prompt_gives_the_rows_assembled_by_hand(family, variant, strategy):
    clip = clip_of(family)
    edits = sources(
        *PHRASES, prompt=SENTENCE, variant=variant, end_of_text=strategy, end_of_text_in_base=True
    )
    expected = by_hand(clip, family, PHRASES, [SENTENCE], variant, strategy, in_base=True)
    same(embed(clip, edits).values, expected)


@every_family
@pytest.mark.parametrize("strategy", END_OF_TEXT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prompt_of_two_chunks_gives_the_rows_assembled_by_hand(family, variant, strategy):
    clip = clip_of(family)
    prompt = f"a gray wolf, a brown-colored goat made of gold {FILLER} {FILLER} and one soccer ball"
    ore = embed(clip, sources(*PHRASES, prompt=prompt, variant=variant, end_of_text=strategy))
    assert len(ore.keys) == 154
    assert rows(ore, 1)[0] < 77 <= rows(ore, 2)[0]
    same(ore.values, by_hand(clip, family, PHRASES, [prompt], variant, strategy))
    same(ore.keys, stock(clip, prompt)[0])


@every_family
@pytest.mark.parametrize("variant", VARIANTS)
def test_joined_phrases_of_several_chunks_give_the_rows_assembled_by_hand(family, variant):
    """30 words each: two phrases and what joins them fit a chunk of 75 tokens, a third does not."""
    names = ("wolf", "goat", "moon", "ball", "tree")
    phrases = [" ".join(["big"] * 29 + [name]) for name in names]
    chunks = [
        f"{phrases[0]} and {phrases[1]} and",
        f"{phrases[2]} and {phrases[3]} and",
        phrases[4],
    ]
    clip = clip_of(family)
    ore = embed(clip, sources(*phrases, variant=variant))
    same(ore.values, by_hand(clip, family, phrases, chunks, variant))
    same(ore.keys, torch.cat([stock(clip, chunk)[0] for chunk in chunks]))


@pytest.mark.parametrize(("length", "third"), [(44, 78), (45, 79)])
def test_a_chunk_is_filled_to_its_last_word(length, third):
    """29 + 1 + 44 tokens leave room for "and", one more fills the chunk, two more do not fit."""
    clip = clip_of("SDXL")
    phrases = [" ".join(["big"] * 29), " ".join(["red"] * length), "moon"]
    ore = embed(clip, sources(*phrases))
    assert rows(ore, 1) == list(range(31, 31 + length))
    assert rows(ore, 2) == [third]
    assert embed(clip, sources(*phrases[:2])).keys.shape[0] == 77
    longer = embed(clip, sources(phrases[0], " ".join(["red"] * 46)))
    assert rows(longer, 1) == list(range(78, 78 + 46))


@every_family
def test_both_sides_are_embedded_alike(family):
    clip, edits = clip_of(family), edits_of()
    same(
        embed(clip, edits, "source").values,
        by_hand(clip, family, edits.sources, ["wolf and yellow moon"]),
    )
    same(
        embed(clip, edits, "target").values,
        by_hand(clip, family, edits.targets, ["brown-colored goat and soccer ball"]),
    )


@every_family
def test_thirty_objects_fit_several_chunks(family):
    clip = clip_of(family)
    phrases = [f"big red wooden house number {n}" for n in range(30)]
    ore = embed(clip, sources(*phrases))
    assert ore.keys.shape[0] == 77 * 4 and ore.values.shape[0] == 31
    lengths = [6 + (n >= 10) for n in range(30)]  # each digit is a token
    assert [len(rows(ore, i)) for i in range(30)] == lengths
    for i in (0, 13, 29):
        alone, _ = stock(clip, phrases[i])
        same(ore.values[i, rows(ore, i)], alone[1 : 1 + lengths[i]])
        others = [row for j in range(30) if j != i for row in rows(ore, j)]
        assert not ore.values[i, others].any()


# -- what differs between text encoders ------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "padding"),
    [
        ("SD 1.5", {"l": 49407}),
        ("SD 2", {"h": 0}),
        ("SDXL", {"l": 49407, "g": 0}),
        ("SDXL refiner", {"l": 49407, "g": 0}),
    ],
)
def test_the_tokens_that_are_encoded_are_padded_as_each_encoder_pads(family, padding):
    """Joined phrases are tokenised piece by piece; what is encoded must be as of one text."""
    clip = clip_of(family)
    seen = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(clip, name)

        def encode_from_tokens_scheduled(self, tokens: Any, **options: Any) -> Any:
            seen.append(tokens)
            return clip.encode_from_tokens_scheduled(tokens, **options)

    embed(Recorder(), sources("wolf", "yellow moon"))
    assert clip.tokenize("wolf and yellow moon") in seen
    assert clip.tokenize("wolf") in seen and clip.tokenize("yellow moon") in seen
    for tokens in seen:
        assert {name: chunks[-1][-1][0] for name, chunks in tokens.items()} == padding


def test_both_encoders_of_sdxl_speak_of_the_same_rows():
    clip = clip_of("SDXL")
    ore = embed(clip, sources(*PHRASES, prompt=SENTENCE))
    for encoder in ("l", "g"):
        (chunk,) = ids(clip, SENTENCE, encoder)
        for i, phrase in enumerate(PHRASES):
            (own,) = ids(clip, phrase, encoder)
            assert [chunk[row] for row in rows(ore, i)] == own[1 : own.index(49407)]
    assert ore.values.shape == (4, 77, L + G)


@every_family
def test_the_end_of_text_run_begins_with_the_objects_own_end_of_text_token(family):
    clip = clip_of(family)
    ore = embed(clip, sources("wolf", "yellow moon"))
    for i, (phrase, end) in enumerate([("wolf", 2), ("yellow moon", 3)]):
        alone, _ = stock(clip, phrase)
        same(ore.values[i, 5:], alone[end : end + 72])
        assert not torch.allclose(ore.values[i, 5:], ore.keys[5:])


# -- properties ------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("variant", VARIANTS)
def test_permuting_the_objects_of_a_full_prompt_permutes_their_values(family, variant):
    clip = clip_of(family)
    ore = embed(clip, sources(*PHRASES, prompt=SENTENCE, variant=variant))
    for order in permutations(range(3)):
        phrases = [PHRASES[i] for i in order]
        other = embed(clip, sources(*phrases, prompt=SENTENCE, variant=variant))
        same(other.values, ore.values[[*order, 3]])
        same(other.keys, ore.keys)
        assert [rows(other, i) for i in range(3)] == [rows(ore, i) for i in order]


@every_family
def test_the_words_of_one_object_change_no_row_of_another(family):
    """In the paper variant: rows of object 0 in its own value, and the words of its value."""
    clip = clip_of(family)
    first = embed(clip, sources("gray wolf", "yellow moon"))
    other = embed(clip, sources("gray wolf", "green moon"))
    assert rows(first, 0) == rows(other, 0) and rows(first, 1) == rows(other, 1)
    own = [*range(1, 3), *range(6, 77)]  # its words and its end-of-text run
    same(first.values[0, own], other.values[0, own])
    assert not torch.equal(first.values[1], other.values[1])


@every_family
def test_weights_of_one_object_change_no_other_rows(family):
    clip = clip_of(family)
    light = embed(clip, sources("gray wolf", "yellow moon"))
    heavy = embed(clip, sources("gray wolf", "(yellow:1.4) moon"))
    changed = (light.values != heavy.values).any(-1)
    close = torch.isclose(light.values, heavy.values, rtol=1e-5, atol=1e-5).all(-1)
    yellow = torch.zeros_like(changed)
    yellow[1:, rows(light, 1)[0]] = True  # in its own value and in the background's
    assert torch.equal(~close, yellow)


@every_family
def test_encoding_twice_gives_the_same_bytes(family):
    clip = clip_of(family)
    first, second = (embed(clip, edits_of(), "target") for _ in range(2))
    same(first.values, second.values)


# -- clip skip, LoRA, hooks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "layer"),
    [(family, layer) for family in FAMILIES for layer in (-1, -2)],
)
def test_clip_skip_acts_as_in_the_stock_node(family, layer):
    clip = clip_of(family).clone()
    usual = embed(clip, edits_of(), "target").values
    clip.clip_layer(layer)
    made = embed(clip, edits_of(), "target").values
    base = ["brown-colored goat and soccer ball"]
    same(made, by_hand(clip, family, edits_of().targets, base))
    is_default = layer == (-1 if family == "SD 1.5" else -2)
    assert torch.equal(made, usual) == is_default


def lora_for(clip: Any) -> dict[str, Tensor]:
    """A random LoRA of one layer in each text encoder, in ComfyUI's generic format."""
    lora = {}
    for seed, (name, weight) in enumerate(clip.cond_stage_model.state_dict().items()):
        if name.endswith("layers.0.mlp.fc1.weight"):
            key = f"text_encoders.{name.removesuffix('.weight')}"
            lora[f"{key}.lora_up.weight"] = randn(weight.shape[0], 2, seed=seed)
            lora[f"{key}.lora_down.weight"] = randn(2, weight.shape[1], seed=seed + 1)
    return lora


@every_family
def test_a_lora_acts_as_in_the_stock_node(family):
    plain = clip_of(family)
    _, clip = comfy.sd.load_lora_for_models(None, plain, lora_for(plain), 0.0, 0.5)
    ore = embed(clip, edits_of())
    same(ore.values, by_hand(clip, family, edits_of().sources, ["wolf and yellow moon"]))
    usual = embed(plain, edits_of())
    for channels in FAMILIES[family].channels.values():
        assert not torch.allclose(ore.values[0, 1, channels], usual.values[0, 1, channels])


def hooked(clip: Any, *, schedule: bool, strengths: tuple[float, ...] = (1.0,)) -> Any:
    """Set CLIP Hooks with a LoRA whose strength changes during the run."""
    hooks = comfy.hooks.create_hook_lora(lora_for(clip), 1.0, 0.5)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for i, strength in enumerate(strengths):
        keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=i / len(strengths)))
    hooks.set_keyframes_on_hooks(keyframes)
    return SetClipHooks().apply_hooks(clip, schedule, True, hooks)[0]


@every_family
def test_hooks_of_a_clip_travel_with_the_conditioning(family):
    clip = hooked(clip_of(family), schedule=False)
    (((_, expected),),) = CLIPTextEncode().encode(clip, "wolf")
    ((_, options),) = embed_side(clip, edits_of(), "source")
    assert options["hooks"] is expected["hooks"]
    ore = options[ORE_KEY]
    same(ore.values, by_hand(clip, family, edits_of().sources, ["wolf and yellow moon"]))
    assert not torch.allclose(ore.values, embed(clip_of(family), edits_of()).values)


@every_family
def test_a_schedule_of_hooks_gives_one_entry_for_each_part(family):
    clip = hooked(clip_of(family), schedule=True, strengths=(0.0, 1.0))
    made = embed_side(clip, edits_of(), "source")
    (base,), (wolf,) = (CLIPTextEncode().encode(clip, t) for t in ("wolf and yellow moon", "wolf"))
    assert len(made) == len(base) == 2
    for (_, options), (plain, expected), (alone, _) in zip(made, base, wolf, strict=True):
        parts = ("clip_start_percent", "clip_end_percent")
        assert [options[part] for part in parts] == [expected[part] for part in parts]
        same(options[ORE_KEY].keys, plain[0])
        same(options[ORE_KEY].values[0, 1], alone[0, 1])
        same(options["pooled_output"], expected["pooled_output"])
    assert not torch.allclose(made[0][1][ORE_KEY].keys, made[1][1][ORE_KEY].keys)


# -- the pooled vector -----------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(
    ("choice", "source", "target"),
    [
        ("target", "wolf and yellow moon", "brown-colored goat and soccer ball"),
        ("source", "wolf and yellow moon", "wolf and yellow moon"),
        ("empty", "", ""),
    ],
)
def test_the_pooled_vector_is_that_of_the_chosen_prompt(family, choice, source, target):
    clip, edits = clip_of(family), edits_of(pooled=choice)
    expected: dict[Side, str] = {"source": source, "target": target}
    for side, text in expected.items():
        ((_, options),) = embed_side(clip, edits, side)
        same(options["pooled_output"], stock(clip, text)[1])
        same(options[ORE_KEY].values, embed(clip, edits_of(), side).values)


def test_the_pooled_vector_speaks_for_the_full_prompts():
    clip = clip_of("SDXL")
    texts: dict[str, Any] = {"source_prompt": "a wolf, a yellow moon", "target_prompt": SENTENCE}
    pairs = [("wolf", "gray wolf"), ("yellow moon", "soccer ball")]
    for choice, expected in (("target", SENTENCE), ("source", "a wolf, a yellow moon")):
        ((_, options),) = embed_side(clip, edits_of(pairs, **texts, pooled=choice), "target")
        same(options["pooled_output"], stock(clip, expected)[1])
