"""Text that cannot be told apart by its tokens, or that no UNet could read, is refused: node,
values and cure in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sdxl_clip
import comfy.text_encoders.flux
import comfy.text_encoders.sd3_clip
import pytest
import safetensors.torch
from torch import Tensor

from ale_edit.host.text.embedding import embed_side
from ale_edit.prompts.edits import Edits
from ale_edit.tests.host.text_by_hand import FAMILIES, G, L, clip_of
from ale_edit.tests.host.texts import embed, rows, sources
from ale_edit.tests.tiny import WIDTH, edits_of, randn

NODE = "Object-Restricted Embeddings"
FILLER = " ".join(["word"] * 60)

every_family = pytest.mark.parametrize("family", FAMILIES)


def refuses(clip: Any, edits: Edits, *parts: str) -> None:
    with pytest.raises(ValueError) as error:
        embed_side(clip, edits, "source")
    text = str(error.value)
    assert [part for part in (NODE, *parts) if part not in text] == [], text
    assert text.endswith(".") and "\n" not in text


# -- phrases ---------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(
    ("phrases", "prompt", "parts"),
    [
        (
            ("wolf", "moon"),
            "a wolf at night",
            ['phrase "moon"', '"a wolf at night"', "Use the same"],
        ),
        (
            ("cat", "cat"),
            "one cat",
            ['"cat"', '"one cat"', "does not occur", "once for every"],
        ),
        (("cat",), "two cats", ['"cat"', '"two cats"', "only occurs as part", "Write"]),
        (("truck",), "a firetruck", ['"truck"', '"a firetruck"', "only occurs as part", "Write"]),
        (("fire",), "a firetruck", ['"fire"', "only occurs as part", "Write"]),
        (("wow!",), "wow!, nice", ['"wow!"', "joined to punctuation", "spaces"]),
        ((r"wolf \(dark\)",), r"a wolf \(dark\), a moon", ["joined to punctuation", "spaces"]),
        (
            ("wolf",),
            "a <|endoftext|> wolf",
            ["continues after an end", "Remove <|endoftext|>"],
        ),
    ],
)
def test_a_phrase_that_the_full_prompt_does_not_hold_is_named(family, phrases, prompt, parts):
    refuses(clip_of(family), sources(*phrases, prompt=prompt), *parts)


@every_family
def test_a_phrase_of_a_full_prompt_cut_by_a_chunk_border_is_refused_with_that_cause(family):
    """74 words, then the phrase: its first token is the chunk's last."""
    prompt = " ".join(["word"] * 74) + " yellow moon and a wolf"
    edits = sources("yellow moon", "wolf", prompt=prompt)
    refuses(clip_of(family), edits, '"yellow moon"', "split across", "75 tokens", "Shorten")
    moved = " ".join(["word"] * 73) + " yellow moon and a wolf"
    ore = embed(clip_of(family), sources("yellow moon", "wolf", prompt=moved))
    assert [rows(ore, 0), rows(ore, 1)] == [[74, 75], [80]]


@every_family
def test_a_phrase_of_more_than_a_chunk_is_refused_with_its_length(family):
    clip = clip_of(family)
    refuses(clip, sources(" ".join(["word"] * 76)), "76 tokens, more than the 75", "Shorten")
    assert len(rows(embed(clip, sources(" ".join(["word"] * 75))), 0)) == 75


@every_family
@pytest.mark.parametrize("phrase", ["()", "(()(()))", "<|endoftext|>"])
def test_a_phrase_without_tokens_is_named(family, phrase):
    refuses(clip_of(family), sources("wolf", phrase), f'"{phrase}"', "yields no tokens", "Write")


@every_family
def test_words_behind_an_end_of_text_token_are_not_dropped_silently(family):
    edits = sources("wolf <|endoftext|> moon")
    refuses(clip_of(family), edits, '"wolf <|endoftext|> moon"', "continues after", "Remove")


@every_family
def test_no_edits_are_refused(family):
    refuses(clip_of(family), Edits(()), "edits", "Add")


# -- text encoders ---------------------------------------------------------------------------------


def with_tokenizer(tokenizer: Any) -> Any:
    other = clip_of("SD 1.5").clone()
    other.tokenizer = tokenizer
    return other


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (comfy.text_encoders.sd3_clip.SD3Tokenizer, "g, l, t5xxl"),
        (comfy.text_encoders.flux.FluxTokenizer, "l, t5xxl"),
        (comfy.sdxl_clip.StableCascadeTokenizer, "g"),
    ],
)
def test_the_text_encoders_of_other_models_are_refused_by_name(build: Callable[..., Any], names):
    families = ("SD 1.5 (l)", "SD 2 (h)", "SDXL and its refiner (g, l)")
    clip, found = with_tokenizer(build()), f"clip input has the text encoders {names},"
    refuses(clip, edits_of(), found, "Connect", *families)


def test_a_checkpoint_without_a_text_encoder_is_named():
    refuses(None, edits_of(), "the clip input is empty", "Connect")


def test_a_clip_with_two_rows_a_token_is_refused():
    clip = clip_of("SDXL").clone()
    encode = clip.encode_from_tokens_scheduled
    clip.encode_from_tokens_scheduled = lambda tokens: [
        [text.repeat_interleave(2, dim=1), options] for text, options in encode(tokens)
    ]
    refuses(clip, edits_of(), "154 rows for 77 tokens", "Connect")


# -- textual inversions ----------------------------------------------------------------------------


def clip_with(family: str, folder: Path, **vectors: Tensor) -> Any:
    """A CLIP that knows `embedding:fur`."""
    safetensors.torch.save_file(vectors, folder / "fur.safetensors")
    return FAMILIES[family].build(embedding_directory=str(folder))


@pytest.mark.parametrize(
    ("family", "vectors", "parts"),
    [
        ("SD 1.5", {"emb_params": 48}, ["48 (l)", f"{WIDTH} in all"]),
        ("SD 2", {"emb_params": 48}, ["48 (h)", f"{WIDTH} in all"]),
        ("SDXL", {"clip_g": G}, [f"{G} (g) and {G} (l)", f"{L + G} in all"]),
        ("SDXL", {"clip_l": L}, [f"{L} (g) and {L} (l)", f"{L + G} in all"]),
        ("SDXL", {"emb_params": 48}, ["48 (g) and 48 (l)", f"{L + G} in all"]),
        ("SDXL refiner", {"clip_l": L}, [f"{L} (g)", f"{G} in all"]),
    ],
)
def test_a_textual_inversion_that_an_encoder_cannot_take_is_refused(
    family, vectors, parts, tmp_path
):
    """ComfyUI leaves it out while encoding, and every word behind it would move."""
    clip = clip_with(family, tmp_path, **{key: randn(1, size) for key, size in vectors.items()})
    for edits in (
        sources("wolf embedding:fur", "moon"),
        sources("wolf", "moon", prompt="a embedding:fur photo of a wolf under a moon"),
    ):
        refuses(clip, edits, "textual inversion", "embedding:fur", *parts, "Use an embedding")


def test_the_refiner_needs_vectors_for_its_own_encoder_only(tmp_path):
    clip = clip_with("SDXL refiner", tmp_path, clip_g=randn(1, G), clip_l=randn(1, 48))
    assert rows(embed(clip, sources("wolf embedding:fur", "moon")), 1) == [4]


@pytest.mark.parametrize(
    ("edits", "what"),
    [
        (sources("wolf embedding:fur", "moon"), 'source phrase "wolf embedding:fur" of the edits'),
        (
            sources("wolf", "moon", prompt="a embedding:fur photo of a wolf under a moon"),
            'source_prompt of Full Prompts ("a embedding:fur photo',
        ),
    ],
)
def test_an_inversion_with_more_vectors_for_one_encoder_is_refused(edits, what, tmp_path):
    clip = clip_with("SDXL", tmp_path, clip_l=randn(1, L), clip_g=randn(2, G))
    refuses(clip, edits, what, "tokens in text encoder g", "text encoder l", "Use textual")


def test_inversions_of_uneven_length_that_add_up_are_refused_too(tmp_path):
    """Both encoders count five tokens, but have the wolf at different rows."""
    safetensors.torch.save_file(
        {"clip_l": randn(2, L), "clip_g": randn(1, G)}, tmp_path / "skin.safetensors"
    )
    clip = clip_with("SDXL", tmp_path, clip_l=randn(1, L), clip_g=randn(2, G))
    prompt = "embedding:fur wolf embedding:skin moon"
    edits = sources("wolf", "moon", prompt=prompt)
    refuses(clip, edits, "text encoders g, l", "source phrases", "different places", "Use textual")


def test_encoders_with_chunks_of_different_lengths_are_refused_beyond_one_chunk():
    """A long CLIP-L beside CLIP-G: ComfyUI cuts to the shorter, which misplaces later chunks."""
    clip = clip_of("SDXL").clone()
    clip.tokenizer = comfy.sdxl_clip.SDXLTokenizer(tokenizer_data={"clip_l_max_length": 248})
    long = sources("wolf", "moon", prompt=f"a wolf, {FILLER} {FILLER} under a moon")
    refuses(clip, long, "chunks of 77", "chunks of 248", "one chunk")


# -- nothing of a refused text is encoded ----------------------------------------------------------


@every_family
def test_a_refused_text_costs_no_encoding(family):
    clip = clip_of(family).clone()

    def encode(*_: Any, **__: Any) -> None:
        raise AssertionError("encoded")

    clip.encode_from_tokens_scheduled = encode
    refuses(clip, sources("wolf", prompt="two cats"), "does not occur")
    refuses(clip, sources("()"), "yields no tokens")
