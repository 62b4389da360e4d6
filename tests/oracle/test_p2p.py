"""Prompt-to-Prompt by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ale_edit.editors import p2p
from ale_edit.prompts.edits import Variant

from . import p2p_diffusers
from .editor_edit import BATCH, PAIRS, SMALL, Method, run_oracle, worst_error
from .p2p_diffusers import Settings
from .planted import Mistake
from .planted_p2p import BLEND, LONG, MISTAKES, PLAIN, REPLACE
from .whole_edit import Scene, errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2
LARGE = Scene(PAIRS, (), (32, 32), batch=1)  # word maps from the second of three grids
WIDE = Scene(PAIRS, (), (17, 36), batch=1)  # sides that cannot be halved evenly
SCENES = {"small": SMALL, "large": LARGE}


def translate(settings: Settings) -> p2p.P2PSettings:
    sampling = settings.sampling
    return p2p.P2PSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        edit_mode=settings.mode,  # type: ignore[arg-type]
        cross_share=settings.cross,
        self_share=settings.self_,
        reweight=", ".join(f"{word}: {factor}" for word, factor in settings.factors),
        blend_words=settings.blend,
        subtract_words=settings.subtract,
        blend_threshold=settings.threshold,
        blend_start=settings.start,
        ets_prompt=settings.plain,
    )


P2P = Method(
    p2p.EDITOR,
    translate,
    p2p_diffusers.edit,
    lambda settings: settings.prompts,
    adds_result=True,
    full_prompts=lambda settings: settings.prompts,
)


@pytest.mark.parametrize("settings", [PLAIN, REPLACE, BLEND], ids=["plain", "replace", "blend"])
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(P2P, BATCH, settings) <= BOUND


def sampled(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, sampling=replace(settings.sampling, **changed))


@pytest.mark.ci
@pytest.mark.parametrize("scene", [LARGE, WIDE], ids=["large", "wide"])
def test_every_step_equals_the_oracles_with_maps_of_a_coarser_grid(scene: Scene):
    assert worst_error(P2P, scene, sampled(BLEND, steps=4)) <= BOUND


OTHERS = [
    replace(PLAIN, cross=0.0),
    replace(PLAIN, self_=0.0),
    replace(PLAIN, cross=1.0, self_=1.0),
    replace(PLAIN, factors=(("brown goat", 2.0), ("ball", 0.5), ("house", -1.0))),
    replace(REPLACE, factors=(("goat", 2.0),), cross=0.8),
    replace(PLAIN, prompts=(PLAIN.prompts[0], "a brown goat and a ball over the old house")),
    LONG,
    replace(LONG, prompts=LONG.prompts[::-1]),
    replace(BLEND, subtract="", start=0.0),
    replace(BLEND, blend="ball", subtract="", start=0.5),
    replace(PLAIN, plain="goat and ball"),
    sampled(BLEND, method="direct"),
    sampled(BLEND, spacing="LCM", source_guidance=1.0, target_guidance=2.0),
    sampled(PLAIN, strength=0.7),
    sampled(PLAIN, method="negative-prompt"),
    sampled(PLAIN, method="edit-friendly", source_guidance=3.5, target_guidance=9.0),
    sampled(BLEND, method="edit-friendly", strength=0.7),
]


@pytest.mark.ci
@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(settings: Settings):
    assert worst_error(P2P, SMALL, settings) <= BOUND


@pytest.mark.parametrize("prompts", [LONG.prompts, LONG.prompts[::-1]])
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_rows_behind_the_last_new_word_follow_the_variant(prompts: Any, variant: Variant):
    settings = replace(LONG, prompts=prompts, counts_words=variant == "paper")
    assert worst_error(P2P, SMALL, settings, variant) <= BOUND
    other = replace(settings, counts_words=variant != "paper")
    found, others = (run_oracle(P2P, SMALL, each) for each in (settings, other))
    assert max(errors(found, others, SMALL)) > FAR


@pytest.mark.parametrize(
    "changed",
    [
        {"cross": 0.0},
        {"self_": 0.0},
        {"factors": ()},
        {"blend": "", "subtract": ""},
        {"subtract": ""},
        {"plain": ""},
    ],
    ids=str,
)
def test_the_oracle_depends_on_every_component(changed: dict[str, Any]):
    settings = replace(BLEND, factors=(("goat", 3.0),), plain="goat and ball")
    without = run_oracle(P2P, SMALL, replace(settings, **changed))
    assert max(errors(without, run_oracle(P2P, SMALL, settings), SMALL)) > FAR


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    run_oracle(P2P, SCENES[mistake.scene], mistake.settings)
    mistake.plant(monkeypatch)
    assert worst_error(P2P, SCENES[mistake.scene], mistake.settings) > FAR
