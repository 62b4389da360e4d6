"""Plug-and-Play by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ale_edit.attention.control import Control, Route
from ale_edit.editors import pnp

from .editor_edit import BATCH, SMALL, Method, run_oracle, run_pack, worst_error
from .planted import Mistake
from .planted_editors import routed
from .pnp_diffusers import Settings, edit
from .whole_edit import errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> pnp.PnPSettings:
    sampling = settings.sampling
    return pnp.PnPSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        self_share=settings.self_per_fifty / 50,
        feature_share=settings.features_per_fifty / 50,
    )


PNP = Method(pnp.EDITOR, translate, edit, adds_result=True)
PLAIN = Settings()
NOTHING = replace(PLAIN, self_per_fifty=0, features_per_fifty=0)


def sampled(**changed: Any) -> Settings:
    return replace(PLAIN, sampling=replace(PLAIN.sampling, **changed))


CASES = [
    PLAIN,
    sampled(method="DDIM"),
    sampled(method="DDIM", strength=0.7),
    sampled(spacing="LCM", target_guidance=2.0),
    replace(PLAIN, features_per_fifty=0),
    replace(PLAIN, self_per_fifty=0),
    NOTHING,
    sampled(method="edit-friendly"),
    sampled(method="edit-friendly", strength=0.7, source_guidance=3.5),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(PNP, BATCH if settings == PLAIN else SMALL, settings) <= BOUND


@pytest.mark.parametrize("without", ["self_per_fifty", "features_per_fifty", "negative"])
def test_the_oracle_depends_on_its_parts(without: str):
    changed = replace(PLAIN, **{without: "" if without == "negative" else 0})
    found = errors(run_oracle(PNP, SMALL, changed), run_oracle(PNP, SMALL, PLAIN), SMALL)
    assert max(found) > FAR


def test_shares_0_are_the_plain_edit_bit_for_bit():
    bare = replace(PNP, editor=replace(pnp.EDITOR, make_control=lambda *_: Control()))
    ours, plain = (run_pack(method, SMALL, NOTHING) for method in (PNP, bare))
    assert errors(ours, plain, SMALL) == [0.0] * len(plain)


def reading_own_half(right: Any) -> Any:
    def wrong(self: Any, settings: Any) -> None:
        right(self, settings)
        self.uncond_reads = "uncond"

    return wrong


ROUTES = "editors.pnp:PnPControl.routes"
FEATURES = "editors.pnp:PnPControl.features"
MISTAKES = [
    Mistake(
        "the source's values too", ROUTES, routed(target=Route("source", "source", "source")), PLAIN
    ),
    Mistake(
        "the target's queries", ROUTES, routed(target=Route("target", "source", "target")), PLAIN
    ),
    Mistake(
        "each half reads its own",
        "editors.pnp:PnPControl.__init__",
        reading_own_half,
        replace(PLAIN, features_per_fifty=0),
    ),
    Mistake(
        "features in one half alone",
        FEATURES,
        lambda right: (
            lambda self, layer, step, is_cond: right(self, layer, step, is_cond) if is_cond else {}
        ),
        PLAIN,
    ),
    Mistake(
        "features of another block",
        FEATURES,
        lambda right: (
            lambda self, layer, *place: right(self, replace(layer, stage=layer.stage - 1), *place)
        ),
        PLAIN,
    ),
    Mistake(
        "the first decoder layer too",
        ROUTES,
        lambda right: (
            lambda self, layer, *place: right(self, replace(layer, stage=layer.stage + 1), *place)
        ),
        PLAIN,
    ),
    Mistake(
        "the encoder too",
        ROUTES,
        lambda right: (
            lambda self, layer, *place: right(
                self, replace(layer, block=("output", *layer.block[1:])), *place
            )
        ),
        PLAIN,
    ),
    Mistake(
        "a step too long",
        "editors.pnp:first_step",
        lambda right: lambda *args: right(*args) + 1,
        PLAIN,
    ),
    Mistake(
        "features after the skip path",
        "host.attention.adapter:feature_modules",
        lambda right: lambda model: {key: _block_of(model, key) for key in right(model)},
        PLAIN,
    ),
]


def _block_of(model: Any, key: Any) -> Any:
    """The whole ResBlock."""
    name, number, _ = key
    return (
        model.middle_block if name == "middle" else model.get_submodule(f"{name}_blocks.{number}")
    )[0]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(PNP, SMALL, mistake.settings) > FAR


def test_the_empty_negative_prompt_is_seen():
    empty = replace(PNP, editor=replace(pnp.EDITOR, negative=""))
    assert worst_error(empty, SMALL, PLAIN) > FAR
