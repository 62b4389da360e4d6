"""SDEdit by the pack equals diffusers' DDIM from a noised latent at every step, and ComfyUI's own
samplers on the same noise levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from torch import Tensor

from ale_edit.editors import sdedit
from ale_edit.inversion.stored import Schedule

from .editor_edit import BATCH, PROMPTS, SMALL, Method, run_pack, worst_error
from .planted import Mistake, spread_by
from .sdedit_diffusers import Settings, edit
from .whole_edit import SEED, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> sdedit.SDEditSettings:
    return sdedit.SDEditSettings(
        steps=settings.steps,
        strength=settings.strength,
        target_guidance=settings.guidance,
        time_steps=settings.spacing,  # type: ignore[arg-type]
    )


SDEDIT = Method(sdedit.EDITOR, translate, edit, adds_result=True)
PLAIN = Settings()
CASES = [
    PLAIN,
    Settings(strength=0.8, guidance=1.0),
    Settings(steps=4, strength=0.5),
    Settings(spacing="LCM", guidance=2.0),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(SDEDIT, BATCH if settings == PLAIN else SMALL, settings) <= BOUND


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("spacing", ["DDIM", "LCM"])
def test_the_result_is_that_of_a_stock_sampler_on_the_same_levels(sampler: str, spacing: str):
    """Down to the level of time step 0, where the published schedule ends."""
    from ale_edit.host.sampling.noise_levels import least_sigma
    from ale_edit.host.sampling.schedule import sigmas_of

    pack, settings = twins(), replace(PLAIN, spacing=spacing)
    ours = run_pack(SDEDIT, SMALL, settings)[-1].p
    schedule = Schedule(settings.steps, settings.strength, spacing)  # type: ignore[arg-type]
    last = least_sigma(pack.model.get_model_object("model_sampling"))
    sigmas = sigmas_of(pack.model, schedule)[:-1]
    if float(sigmas[-1]) > last:
        sigmas = torch.cat([sigmas, torch.tensor([last])])
    texts = [
        pack.clip.encode_from_tokens_scheduled(pack.clip.tokenize(text))
        for text in (PROMPTS[1], "")
    ]
    latents = SMALL.latents / pack.latent_scale
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
    guider = comfy.samplers.CFGGuider(pack.model)
    guider.set_conds(*texts)
    guider.set_cfg(settings.guidance)
    with torch.inference_mode():
        stock = guider.sample(
            noise, latents, comfy.samplers.sampler_object(sampler), sigmas, seed=SEED
        )
    theirs: Tensor = stock * pack.latent_scale / (1 + last**2) ** 0.5
    assert float((ours - theirs).abs().max() / SMALL.latents.std()) <= BOUND


def another(noise: Any) -> Any:
    return lambda right: lambda x0, *rest: right(x0, *noise(*rest))


MISTAKES = [
    Mistake(
        "the image without noise",
        "host.inverting.sampler:noise_image",
        another(lambda noise, level: (0 * noise, level)),
        PLAIN,
    ),
    Mistake(
        "other noise",
        "host.inverting.sampler:noise_image",
        another(lambda noise, level: (noise.flip(-1), level)),
        PLAIN,
    ),
    Mistake(
        "a step too early",
        "host.sampling.schedule:SPREADS",
        spread_by("DDIM", lambda right: lambda steps, s: right(steps, s + 1 / steps)[:-1]),
        PLAIN,
    ),
    Mistake(
        "ends at the image",
        "host.inverting.sampler:least_sigma",
        lambda _: lambda sampling: 0.0,
        Settings(spacing="LCM"),
    ),
    Mistake(
        "not scaled back",
        "host.inverting.sampler:finish",
        lambda right: lambda x, level: right(x, 0.2),
        PLAIN,
    ),
    Mistake(
        "the source prompt",
        "editors.sdedit:TARGET",
        lambda right: replace(right, text="source"),
        PLAIN,
    ),
    Mistake(
        "the seed of the next image",
        "host.inverting.sampler:ItemNoise",
        lambda right: lambda seed, shape: right(seed + 1, shape),
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(SDEDIT, SMALL, mistake.settings) > FAR
