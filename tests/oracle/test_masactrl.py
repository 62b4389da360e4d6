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
        keys="union" if settings.adds_own else "source",
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
    {"adds_own": True},
    {"adds_own": True, "source_guidance": 1.5, "strength": 0.7},
    {"steps": 4, "source_guidance": 1.5, "target_guidance": 4.0, "start_step": Fraction(1, 2)},
]


@pytest.mark.parametrize("changed", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(changed: dict[str, Any]):
    assert worst_error(MASACTRL, SMALL, replace(Settings(), **changed)) <= BOUND


@pytest.mark.parametrize("changed", [{"has_control": False}, {"adds_own": True}], ids=str)
def test_the_oracle_depends_on_its_control(changed: dict[str, Any]):
    other = run_oracle(MASACTRL, SMALL, Settings(**changed))
    assert max(errors(other, run_oracle(MASACTRL, SMALL, Settings()), SMALL)) > FAR


def with_output(change: Any) -> Any:
    """The union computed from other queries, keys and values."""
    return lambda right: lambda self, call: right(self, change(call))


def exchanged(part: str) -> Any:
    """The source's in the place of the target's."""

    def change(call: Any) -> Any:
        tensors = {**getattr(call, part)}
        tensors["target"] = tensors["source"]
        return replace(call, **{part: tensors})

    return change


OUTPUTS = "editors.masactrl:MasaCtrlControl.outputs"
UNION = Settings(adds_own=True)
UNION_MISTAKES = [
    Mistake("the source's queries", OUTPUTS, with_output(exchanged("q")), UNION),
    Mistake("the source's keys twice", OUTPUTS, with_output(exchanged("k")), UNION),
    Mistake("the source's values twice", OUTPUTS, with_output(exchanged("v")), UNION),
    Mistake(
        "in the conditional half alone",
        "editors.masactrl:MasaCtrlControl.acts",
        lambda right: (
            lambda self, layer, step, is_cond: is_cond and right(self, layer, step, is_cond)
        ),
        UNION,
    ),
    Mistake(
        "in every layer",
        "editors.masactrl:start_layer",
        lambda _: lambda *_: 0,
        UNION,
    ),
]


@pytest.mark.parametrize(
    "mistake", [*MASACTRL_MISTAKES, *UNION_MISTAKES], ids=lambda mistake: mistake.name
)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(MASACTRL, SMALL, mistake.settings) > FAR


def test_an_exchanged_source_prompt_is_seen():
    assert worst_error(replace(MASACTRL, translate=DESCRIBED.translate), SMALL, Settings()) > FAR
