"""InfEdit by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ale_edit.editors import infedit

from . import infedit_diffusers
from .editor_edit import BATCH, PAIRS, SMALL, Method, run_oracle, worst_error
from .infedit_diffusers import Settings
from .planted import Mistake
from .planted_editors import BLEND, INFEDIT_MISTAKES
from .whole_edit import Scene, errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2
LARGE = Scene(PAIRS, (), (32, 32), batch=1)  # word maps from the second of three grids
SCENES = {"small": SMALL, "large": LARGE}


def translate(settings: Settings) -> infedit.InfEditSettings:
    return infedit.InfEditSettings(
        steps=settings.steps,
        source_guidance=settings.source_guidance,
        target_guidance=settings.target_guidance,
        cross_share=settings.cross,
        self_share=settings.self_,
        target_blend=settings.edit_words,
        source_blend=settings.keep_words,
        target_threshold=settings.edit_threshold,
        source_threshold=settings.keep_threshold,
        strength=settings.strength,
        script="pie bench" if settings.script == "pie bench" else "app",
    )


INFEDIT = Method(infedit.EDITOR, translate, infedit_diffusers.edit)


@pytest.mark.parametrize("script", infedit.SCRIPTS)
@pytest.mark.parametrize("blend", [Settings(), BLEND], ids=["no blend", "blend"])
def test_every_step_equals_the_oracles(script: str, blend: Settings):
    assert worst_error(INFEDIT, BATCH, replace(blend, script=script)) <= BOUND


@pytest.mark.ci
def test_every_step_equals_the_oracles_with_maps_of_a_coarser_grid():
    assert worst_error(INFEDIT, LARGE, replace(BLEND, steps=4)) <= BOUND


OTHERS: list[dict[str, Any]] = [
    {"cross": 0.0, "self_": 0.0},
    {"cross": 1.0, "self_": 1.0},
    {"script": "pie bench", "steps": 12, "target_guidance": 2.3, "self_": 0.7},
    {"strength": 0.7, "edit_threshold": 0.6, "keep_threshold": 0.6},
    {"steps": 4, "source_guidance": 1.5, "target_guidance": 4.0},
    {"keep_words": "", "edit_threshold": 0.6},
    {"edit_words": ""},
    {"edit_words": "goat house", "keep_words": "house"},
    {"edit_words": "moon"},  # of the source prompt, where the target has a ball
]


@pytest.mark.ci
@pytest.mark.parametrize("changed", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(changed: dict[str, Any]):
    assert worst_error(INFEDIT, SMALL, replace(BLEND, **changed)) <= BOUND


def test_the_published_codes_alignment_equals_the_oracles():
    settings = replace(BLEND, has_swapped_rows=True)
    assert worst_error(INFEDIT, SMALL, settings, "published code") <= BOUND


@pytest.mark.parametrize("switch", ["has_self", "has_cross", "has_blend"])
@pytest.mark.parametrize("script", infedit.SCRIPTS)
def test_the_oracle_depends_on_every_component(switch: str, script: str):
    settings = replace(BLEND, script=script)
    without = run_oracle(INFEDIT, SMALL, replace(settings, **{switch: False}))
    assert max(errors(without, run_oracle(INFEDIT, SMALL, settings), SMALL)) > 1e-2


@pytest.mark.parametrize("mistake", INFEDIT_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    run_oracle(INFEDIT, SCENES[mistake.scene], mistake.settings)
    mistake.plant(monkeypatch)
    assert worst_error(INFEDIT, SCENES[mistake.scene], mistake.settings) > FAR


@pytest.mark.parametrize("script", infedit.SCRIPTS)
def test_an_exchanged_script_is_seen(script: str):
    def exchange(settings: Settings) -> infedit.InfEditSettings:
        return replace(translate(settings), script=next(s for s in infedit.SCRIPTS if s != script))

    wrong = replace(INFEDIT, translate=exchange)
    assert worst_error(wrong, SMALL, replace(BLEND, script=script)) > FAR
