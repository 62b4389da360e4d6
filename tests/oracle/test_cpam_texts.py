"""CPAM in which each object reads its own text equals the oracle, which sees planted mistakes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from .cpam_diffusers import Settings
from .editor_edit import PAIRS, SMALL, run_oracle, worst_error
from .planted import Mistake
from .test_cpam import BOUND, CPAM, FAR, FEW, MIXED

pytestmark = pytest.mark.comfy

OWN = Settings(phrases=tuple(target for _, target in PAIRS))
FEW_OWN = replace(FEW, phrases=OWN.phrases, expansion="0.5")
TEXTS = "editors.object_texts"


@pytest.mark.parametrize(
    "settings",
    [OWN, replace(MIXED, phrases=("brown goat", "yellow ball"))],
    ids=["all", "two of three"],
)
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(CPAM, SMALL, settings, settings.variant) <= BOUND


OTHERS = [
    replace(OWN, variant="published code"),
    replace(OWN, strategy="pose / view", threshold=0.42),  # cells of no mask
    replace(OWN, strategy="add", boxes=((6, 9, 42, 60), (20, 40, 60, 106)), expansion="1"),
]


@pytest.mark.ci
@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(settings: Settings):
    assert worst_error(CPAM, SMALL, settings, settings.variant) <= BOUND


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
