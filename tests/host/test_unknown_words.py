"""The notice about words that a text encoder does not know names the words that it reads: those of
ComfyUI's own parser, not those of the raw text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ale_edit.demo.models import build_clip
from ale_edit.demo.weights import read_weights
from ale_edit.host.text.embedding import embed_edits
from ale_edit.prompts.edits import Edits, make_edit

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def demo_clip() -> Any:
    return build_clip(read_weights("text"))


@pytest.fixture
def embeddings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of textual inversions that ComfyUI knows."""
    import folder_paths

    entry = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", entry)
    return tmp_path


def named(clip: Any, caplog: Any, edits: Edits) -> str:
    """The words that the notice names; "" without a notice."""
    caplog.clear()
    embed_edits(clip, edits)
    said = [m for m in caplog.messages if "does not know" in m]
    assert len(said) <= 1
    return said[0].split("does not know ")[1].split(" and cannot")[0] if said else ""


SYNTAX = [
    ("(yellow-colored:1.5) star", ""),
    ("((yellow-colored:1.2) star:0.5)", ""),
    ("((star))", ""),
    ("(star:-1)", ""),
    ("(star: 1e-1 )", ""),
    ("Yellow-Colored STAR", ""),
    ("(turquoise:1.5) star", "turquoise"),
    ("star \\(gold\\)", "gold"),
    ("star \\(1.5\\)", "1, 5"),
    ("star:1.5", "1, 5"),
    ("(star:1.5", "1, 5"),
    ("(ruby:wood:1.5) star", "ruby"),
    ("café star", "café"),
    ("turquoise star, gold star", "turquoise, gold"),
]


@pytest.mark.parametrize(("phrase", "unknown"), SYNTAX)
def test_weights_and_brackets_are_no_words(demo_clip, caplog, phrase, unknown):
    assert named(demo_clip, caplog, Edits((make_edit(phrase, "box"),))) == unknown
    assert named(demo_clip, caplog, Edits((make_edit("box", phrase),))) == unknown


@pytest.mark.parametrize(
    ("phrase", "unknown"),
    [
        ("embedding:foo star", ""),
        ("star embedding:foo", ""),
        ("star embedding:foo, (embedding:foo:1.2) box", ""),
        ("embedding:foo turquoise star", "turquoise"),
        ("embedding:missing star", ""),
        ("starembedding:foo", "starembedding, foo"),
    ],
)
def test_textual_inversions_are_no_words(embeddings, caplog, phrase, unknown):
    """Neither those that are there nor those that are not, which ComfyUI leaves out."""
    vectors = {"clip_l": torch.ones(2, 128)}
    safetensors.torch.save_file(vectors, str(embeddings / "foo.safetensors"))
    clip = build_clip(read_weights("text"))
    assert named(clip, caplog, Edits((make_edit(phrase, "box"),))) == unknown


def test_full_prompts_are_read_too(demo_clip, caplog):
    edits = Edits(
        (make_edit("(star:1.2)", "box"),),
        source_prompt="a (star:1.2) in the fog",
        target_prompt="a box under a turquoise sky",
    )
    assert named(demo_clip, caplog, edits) == "a, under, turquoise"


def test_words_come_in_the_order_of_the_edits_each_once(demo_clip, caplog):
    edits = Edits((make_edit("gold star", "jade ball"), make_edit("jade box", "gold box")))
    assert named(demo_clip, caplog, edits) == "gold, jade"


def test_an_encoder_that_says_nothing_of_its_words_gets_no_notice(clip, caplog):
    assert named(clip, caplog, Edits((make_edit("turquoise star", "gold box"),))) == ""


def test_any_encoder_may_say_which_words_it_does_not_know(clip, caplog):
    """It gets what its own tokenizer made of each text."""
    seen: list[Any] = []

    def unknown_words(tokenized: Any) -> list[str]:
        seen.append(tokenized)
        return ["star"] if len(seen) == 1 else []

    other = clip.clone()
    other.tokenizer = type(clip.tokenizer)()
    other.tokenizer.unknown_words = unknown_words
    edits = Edits((make_edit("(star:1.2)", "box"),))
    assert named(other, caplog, edits) == "star"
    assert str(seen) == str([other.tokenize("(star:1.2)"), other.tokenize("box")])
