"""InfEdit's control, blend and alignment equal the oracle's, on diffusers' UNet at every step: where
to look when a whole edit in ComfyUI differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import infedit
from ale_edit.editors.infedit import InfEditControl, InfEditSettings, blend_words, infedit_control
from ale_edit.prompts.alignment import EncodedPrompt, Word, align_by_likeness
from ale_edit.prompts.spans import Tokens
from ale_edit.tests.tiny import randn

from . import infedit_diffusers as oracle
from .ale_diffusers import Step
from .control_runner import run_control
from .infedit_diffusers import Settings
from .whole_edit import SEED, twins
from .words_by_hand import words

pytestmark = pytest.mark.comfy

BOUND = 3e-4  # of the source latent's standard deviation
FAR = 1e-2
PROMPTS = ("wolf and yellow moon over a house", "brown goat and yellow ball over a house")
BLEND = {"edit_words": "goat ball", "keep_words": "house"}
SIZE = (32, 40)  # word maps from the second of three grids, 16 x 20


def tokens_of(text: str) -> Tokens:
    ids = twins().encoder.ids(text)
    return Tokens((tuple(ids + [ids[-1]] * (77 - len(ids))),), (len(ids) - 1,))


def encoded(text: str) -> EncodedPrompt:
    return EncodedPrompt(text, tokens_of(text), twins().encoder.encode(text))


def words_of(blend: str) -> list[Word]:
    encoder = twins().encoder
    return [Word(word, tuple(encoder.ids(word)[1:-1])) for word in blend_words(blend)]


def pack_settings(settings: Settings) -> InfEditSettings:
    return InfEditSettings(
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
        script=settings.script,  # type: ignore[arg-type]
    )


def latents(size: tuple[int, int] = SIZE, batch: int = 1) -> Tensor:
    return randn(batch, 4, *size, seed=11)


def run_pack(
    settings: Settings, x0: Tensor, prompts: tuple[str, str] = PROMPTS, is_in_turn: bool = False
) -> list[Step]:
    source, target = map(encoded, prompts)
    mine = pack_settings(settings)
    control = infedit_control(
        mine,
        source,
        target,
        words_of(mine.target_blend),
        words_of(mine.source_blend),
        "published code" if settings.has_swapped_rows else "paper",
    )
    scales = (settings.source_guidance, settings.target_guidance, settings.source_guidance)
    embeddings = (source.embedding, target.embedding, source.embedding)
    return run_control(
        twins().network,
        control,
        dict(zip(infedit.BRANCHES, embeddings, strict=True)),
        twins().encoder.encode(""),
        dict(zip(infedit.BRANCHES, scales, strict=True)),
        x0,
        SEED,
        mine.steps,
        mine.strength,
        control.blend,
        is_in_turn,
    )


@cache
def run_oracle(
    settings: Settings,
    size: tuple[int, int] = SIZE,
    batch: int = 1,
    prompts: tuple[str, str] = PROMPTS,
) -> list[Step]:
    both = twins()
    items = [
        oracle.edit(both.network, both.encoder, prompts, x0, SEED + j, settings)
        for j, x0 in enumerate(latents(size, batch))
    ]
    return [
        Step(torch.stack([s.z for s in steps]), torch.stack([s.p for s in steps]))
        for steps in zip(*items, strict=True)
    ]


def errors(ours: list[Step], theirs: list[Step]) -> list[float]:
    assert len(ours) == len(theirs)
    unit = float(latents().std())
    pairs = zip(ours, theirs, strict=True)
    return [float(max((a.z - b.z).abs().max(), (a.p - b.p).abs().max())) / unit for a, b in pairs]


@pytest.mark.parametrize("script", infedit.SCRIPTS)
@pytest.mark.parametrize("blend", [{}, BLEND], ids=["no blend", "blend"])
def test_every_step_equals_the_oracles(script: str, blend: dict[str, str]):
    settings = Settings(script=script, **blend)
    found = errors(run_pack(settings, latents()), run_oracle(settings))
    assert len(found) == 15
    assert max(found) <= BOUND, " ".join(f"{e:.1e}" for e in found)
