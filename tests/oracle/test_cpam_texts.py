"""Planted mistakes in the texts of objects are seen by the oracle of CPAM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from .editor_edit import SMALL, run_oracle, worst_error
from .planted import Mistake
from .test_cpam import CPAM, FAR, FEW, OWN

pytestmark = pytest.mark.comfy

FEW_OWN = replace(FEW, phrases=OWN.phrases, expansion="0.5")
TEXTS = "editors.object_texts"
MISTAKES = [
    Mistake(
        "objects with each other's text",
        f"{TEXTS}:OwnTexts._cells_of_objects",
        lambda right: lambda *args: [cells.flip(0) for cells in right(*args)],
        FEW_OWN,
    ),
    Mistake(
        "words of the other objects",
        "attention.rgb_cam:visible_tokens",
        lambda _: lambda owner, objects: torch.arange(len(owner)),
        FEW_OWN,
    ),
    Mistake(
        "values of the whole prompt",
        f"{TEXTS}:region_text",
        lambda right: (
            lambda keys, values, owner, cells, value, objects: right(
                keys, values, owner, cells, len(values) - 1, objects
            )
        ),
        FEW_OWN,
    ),
    Mistake(
        "grown places read the first object's text",
        f"{TEXTS}:find_nearest",
        lambda right: lambda *args: torch.zeros_like(right(*args)),
        FEW_OWN,
    ),
    Mistake(
        "objects' texts in the background",
        f"{TEXTS}:OwnTexts.attend",
        lambda right: (
            lambda self, call, places: right(
                self, call, [torch.ones_like(place) for place in places]
            )
        ),
        FEW_OWN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    run_oracle(CPAM, SMALL, mistake.settings)
    mistake.plant(monkeypatch)
    assert worst_error(CPAM, SMALL, mistake.settings) > FAR
