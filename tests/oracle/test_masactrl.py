"""MasaCtrl by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from ale_edit.editors import masactrl

from . import masactrl_diffusers
from .editor_edit import BATCH, PROMPTS, SMALL, Method, run_oracle, worst_error
from .masactrl_diffusers import Settings
from .planted import Mistake
from .planted_editors import MASACTRL_MISTAKES
from .whole_edit import errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> masactrl.MasaCtrlSettings:
    return masactrl.MasaCtrlSettings(
        steps=settings.steps,
        source_guidance=settings.source_guidance,
        target_guidance=settings.target_guidance,
        start_step_share=float(settings.start_step),
        start_layer_share=float(settings.start_layer),
        start_layer=-1 if settings.first_layer is None else settings.first_layer,
        strength=settings.strength,
    )


MASACTRL = Method(
    masactrl.EDITOR, translate, masactrl_diffusers.edit, lambda settings: ("", PROMPTS[1])
)
DESCRIBED = Method(
    masactrl.EDITOR,
    lambda settings: replace(translate(settings), source_prompt="edits"),
    masactrl_diffusers.edit,
)


@pytest.mark.parametrize("method", [MASACTRL, DESCRIBED], ids=["empty prompt", "described"])
def test_every_step_equals_the_oracles(method: Method):
    assert worst_error(method, BATCH, Settings()) <= BOUND


OTHERS: list[dict[str, Any]] = [
    {"start_step": Fraction(0), "start_layer": Fraction(0)},
    {"start_step": Fraction(1)},
    {"start_layer": Fraction(1)},
    {"first_layer": 3},
    {"strength": 0.7},
    {"steps": 4, "source_guidance": 1.5, "target_guidance": 4.0, "start_step": Fraction(1, 2)},
]


@pytest.mark.parametrize("changed", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(changed: dict[str, Any]):
    assert worst_error(MASACTRL, SMALL, replace(Settings(), **changed)) <= BOUND


def test_the_oracle_depends_on_its_control():
    without = run_oracle(MASACTRL, SMALL, Settings(has_control=False))
    assert max(errors(without, run_oracle(MASACTRL, SMALL, Settings()), SMALL)) > FAR


@pytest.mark.parametrize("mistake", MASACTRL_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(MASACTRL, SMALL, mistake.settings) > FAR


def test_an_exchanged_source_prompt_is_seen():
    assert worst_error(replace(MASACTRL, translate=DESCRIBED.translate), SMALL, Settings()) > FAR
