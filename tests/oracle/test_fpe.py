"""Free-Prompt-Editing by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ale_edit.attention.control import Route
from ale_edit.editors import fpe

from .editor_edit import BATCH, PROMPTS, SMALL, Method, run_oracle, run_pack, worst_error
from .fpe_diffusers import Settings, edit
from .planted import Mistake
from .planted_editors import routed
from .whole_edit import errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> fpe.FPESettings:
    sampling = settings.sampling
    return fpe.FPESettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        source_prompt="edits" if settings.source else "empty",
        self_share=settings.per_fifty / 50 if settings.has_control else 0.0,
    )


FPE = Method(fpe.EDITOR, translate, edit, adds_result=True)
PLAIN = Settings()


def sampled(**changed: Any) -> Settings:
    return replace(PLAIN, sampling=replace(PLAIN.sampling, **changed))


CASES = [
    PLAIN,
    sampled(method="DDIM"),
    sampled(method="DDIM", strength=0.7, source_guidance=1.0),
    sampled(spacing="LCM", target_guidance=2.0),
    replace(PLAIN, per_fifty=25),
    replace(PLAIN, has_control=False),
    replace(sampled(method="negative-prompt"), source=PROMPTS[0]),
    replace(sampled(method="edit-friendly", source_guidance=3.5), source=PROMPTS[0]),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(FPE, BATCH if settings == PLAIN else SMALL, settings) <= BOUND


def test_the_oracle_depends_on_its_control():
    without = run_oracle(FPE, SMALL, replace(PLAIN, has_control=False))
    assert max(errors(without, run_oracle(FPE, SMALL, PLAIN), SMALL)) > FAR


def test_share_0_is_the_plain_edit_bit_for_bit():
    from ale_edit.attention.control import Control

    bare = replace(FPE, editor=replace(fpe.EDITOR, make_control=lambda *_: Control()))
    ours, plain = (
        run_pack(method, SMALL, replace(PLAIN, has_control=False)) for method in (FPE, bare)
    )
    assert errors(ours, plain, SMALL) == [0.0] * len(plain)


ROUTES = "editors.fpe:FPEControl.routes"
MISTAKES = [
    Mistake(
        "the source's values too", ROUTES, routed(target=Route("source", "source", "source")), PLAIN
    ),
    Mistake(
        "the target's queries", ROUTES, routed(target=Route("target", "source", "target")), PLAIN
    ),
    Mistake("the target's keys", ROUTES, routed(target=Route("source", "target", "target")), PLAIN),
    Mistake(
        "both halves",
        ROUTES,
        lambda right: lambda self, layer, step, is_cond: right(self, layer, step, True),
        PLAIN,
    ),
    Mistake(
        "the finest grid too",
        "attention.control:Layer.is_half_or_coarser",
        lambda _: property(lambda self: True),
        PLAIN,
    ),
    Mistake(
        "a step too short",
        "editors.fpe:first_step",
        lambda right: lambda *args: right(*args) - 1,
        PLAIN,
    ),
    Mistake(
        "a step too long",
        "editors.fpe:first_step",
        lambda right: lambda *args: right(*args) + 1,
        PLAIN,
    ),
    Mistake(
        "the source is not replayed",
        "inversion.stored:Inversion.replays_source",
        lambda _: property(lambda self: False),
        PLAIN,
    ),
    Mistake(
        "the source has the source prompt",
        "editors.fpe:source_text",
        lambda _: lambda settings: "source",
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(FPE, SMALL, mistake.settings) > FAR
