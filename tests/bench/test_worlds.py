"""Which world a data set is of, and which words the bench's own model does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ale_edit.bench import judging
from ale_edit.bench.dataset import Dataset
from ale_edit.bench.worlds import own_model, warn_of_unknown_words, world_of


@pytest.mark.parametrize(
    ("about", "world"),
    [
        ({"world": "demo"}, judging.WORLD),
        ({"made": "by hand"}, None),
        ({"world": "another"}, None),
        ({"world": ["demo"]}, None),
    ],
)
def test_a_data_set_is_of_the_world_that_it_names(about: dict[str, Any], world: Any) -> None:
    assert world_of(Dataset(Path(), "mine", about, {}, ())) is world


def test_the_benchs_own_model_is_the_demo_worlds() -> None:
    assert own_model() is judging.WORLD


@pytest.mark.parametrize(
    ("prompts", "unknown"),
    [
        (["red-colored ball", "blue-colored star made of wood"], ""),
        (["(yellow-colored:1.5) star"], ""),
        (["((yellow-colored:1.2) star:0.5)", "embedding:foo star"], ""),
        (["(zebra:1.5)", "gold star", "zebra"], "zebra, gold"),
        (
            [" ".join(f"word{c}" for c in "abcdefghijkl")],
            ", ".join(f"word{c}" for c in "abcdefghij"),
        ),
    ],
)
def test_words_are_named_once_without_weights_and_textual_inversions(
    prompts: list[str], unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_unknown_words(prompts)
    said = capsys.readouterr().out
    assert bool(said) == bool(unknown)
    if unknown:
        more = " and more" if len(prompts[0].split()) > 10 else ""
        assert said == (
            f"The demo model does not know {unknown}{more}. Give --checkpoint, or use the words of "
            "the demo world (demo/MODEL_CARD.md).\n"
        )
