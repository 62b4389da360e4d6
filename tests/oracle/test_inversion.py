"""Inversions by the pack, and edits from them, equal an independent loop on diffusers' UNet at
every step. Noise maps alone are in test_edit_friendly.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import masactrl
from ale_edit.inversion.stored import Schedule

from .ale_diffusers import Network, Step
from .editor_edit import BATCH, PROMPTS, SMALL, Method, run_oracle, worst_error
from .inverted_diffusers import Sampling, edit_inverted, invert
from .masactrl_diffusers import MasaCtrlAttention, self_attention_layers
from .ore_by_hand import TextEncoder
from .planted import Mistake
from .whole_edit import Scene, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


@dataclass(frozen=True)
class MasaCtrl:
    """MasaCtrl on DDIM inversion: layers from 10/16 on, steps from 4/50 on."""

    sampling: Sampling = Sampling()
    source: str = ""
    has_control: bool = True


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: MasaCtrl,
) -> list[Step]:
    layers = self_attention_layers(network.unet)
    size = (x0.shape[-2], x0.shape[-1])
    attention = MasaCtrlAttention(layers[10 * len(layers) // 16 :], size=size)

    def begin(step: int, count: int) -> None:
        attention.is_on = settings.has_control and step >= 4 * count // 50

    texts = (settings.source, settings.source, prompts[1])
    return edit_inverted(
        network, encoder, texts, x0, settings.sampling, attention, seed=seed, begin=begin
    )


def translate(settings: MasaCtrl) -> masactrl.MasaCtrlSettings:
    sampling = settings.sampling
    return masactrl.MasaCtrlSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        source_prompt="edits" if settings.source else "empty",
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
    )


MASACTRL = Method(masactrl.EDITOR, translate, edit, adds_result=True)
PLAIN = MasaCtrl()


def sampled(**changed: Any) -> MasaCtrl:
    is_described = changed.get("method") in ("negative-prompt", "edit-friendly")
    source = PROMPTS[0] if is_described else ""
    return MasaCtrl(replace(PLAIN.sampling, **changed), source)


CASES = [
    PLAIN,
    sampled(method="direct"),
    sampled(method="negative-prompt"),
    sampled(spacing="LCM", source_guidance=1.0, target_guidance=2.0),
    sampled(strength=0.7, source_guidance=1.0),
    replace(PLAIN, source=PROMPTS[0]),
    sampled(method="edit-friendly"),
    sampled(method="edit-friendly", strength=0.7, source_guidance=3.5, target_guidance=15.0),
    replace(sampled(method="edit-friendly", spacing="LCM"), source=""),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_step_of_an_edit_equals_the_oracles(settings: MasaCtrl):
    assert worst_error(MASACTRL, BATCH if settings == PLAIN else SMALL, settings) <= BOUND


def test_the_oracle_depends_on_its_control():
    without = run_oracle(MASACTRL, SMALL, replace(PLAIN, has_control=False))
    assert max(errors(without, run_oracle(MASACTRL, SMALL, PLAIN), SMALL)) > FAR


# -- the inversion alone -----------------------------------------------------------------------


def inverted_by_pack(scene: Scene, sampling: Sampling, prompt: str, convention: Any) -> Tensor:
    """(N + 1, B, C, h, w), variance preserving."""
    from ale_edit.host.inverting.invert import invert_image
    from ale_edit.host.text.embedding import encode_text

    pack = twins()
    schedule = Schedule(sampling.steps, sampling.strength, sampling.spacing)  # type: ignore[arg-type]
    with torch.inference_mode():
        inversion = invert_image(
            pack.model,
            encode_text(pack.clip, prompt),
            scene.latents / pack.latent_scale,
            schedule,
            prompt,
            convention=convention,
        )
    scales = torch.tensor([(1 + sigma**2) ** 0.5 for sigma in inversion.sigmas])
    return inversion.latents / scales[:, None, None, None, None]


@pytest.mark.parametrize("prompt", ["", PROMPTS[0]])
@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize("spacing", ["DDIM", "LCM"])
def test_every_level_of_an_inversion_equals_the_oracles(prompt, is_published, spacing):
    both = twins()
    sampling = Sampling(steps=8, spacing=spacing, is_published=is_published)
    convention = "published code" if is_published else "own level"
    ours = inverted_by_pack(BATCH, sampling, prompt, convention)
    text = both.encoder.encode(prompt)
    theirs = torch.stack(
        [torch.stack(invert(both.network, text, x0, sampling)) for x0 in BATCH.latents], dim=1
    )
    assert float((ours - theirs).abs().max() / BATCH.latents.std()) <= BOUND


def test_the_two_conventions_differ():
    sampling = Sampling(steps=8)
    published, own = (
        inverted_by_pack(SMALL, sampling, "", convention)
        for convention in ("published code", "own level")
    )
    assert float((published - own).abs().max() / SMALL.latents.std()) > 10 * BOUND


# -- planted mistakes --------------------------------------------------------------------------


def _begun_at_zero(right: Any) -> Any:
    return lambda x0, level: x0 * 1.01


def _levels_of_a_diffusion(right: Any) -> Any:
    """Each level's noise is the one before with more."""

    def wrong(x0: Tensor, levels: Any, draw: Any) -> list[Tensor]:
        image = right(x0, levels, draw)[-1]
        found, before = [image], 0.0
        for level in reversed(levels[:-1]):
            if level > levels[-1]:
                start = x0 if before == 0 else found[0]
                found.insert(0, start + (level**2 - before**2) ** 0.5 * draw())
                before = level
            else:
                found.insert(0, image)
        return found

    return wrong


def _half_eta(right: Any) -> Any:
    """DDIM's Eq. 16 with eta 0.5."""

    def wrong(sigma: float, after: float) -> tuple[float, float]:
        std = 0.5 * right(sigma, after)[1]
        return (after**2 - std**2) ** 0.5 / sigma, std

    return wrong


def _later_maps(right: Any) -> Any:
    def wrong(*args: Any, **named: Any) -> Any:
        inversion = right(*args, **named)
        return replace(inversion, noise_maps=inversion.noise_maps.roll(1, 0))

    return wrong


def _without_last_map(right: Any) -> Any:
    """As in the published code, where a step leads from the first time step to the image."""

    def wrong(*args: Any, **named: Any) -> Any:
        inversion = right(*args, **named)
        inversion.noise_maps[-1] = 0
        return inversion

    return wrong


BY_MAPS = sampled(method="edit-friendly", source_guidance=3.5)
ON_LCM = sampled(method="edit-friendly", spacing="LCM")  # whose last step has a map
MISTAKES = [
    Mistake(
        "noises that depend on each other",
        "host.inverting.edit_friendly:draw_latents",
        _levels_of_a_diffusion,
        BY_MAPS,
    ),
    Mistake("eta 0.5", "inversion.edit_friendly:posterior", _half_eta, BY_MAPS),
    Mistake(
        "inverted with the target prompt",
        "editors.masactrl:plan_inversion",
        lambda right: lambda settings, prompt: right(settings, "target"),
        BY_MAPS,
    ),
    Mistake(
        "inverted without guidance",
        "host.inverting.methods:invert_edit_friendly",
        lambda right: lambda *args, guidance, **named: right(*args, guidance=1.0, **named),
        BY_MAPS,
    ),
    Mistake(
        "each map a step too late",
        "host.inverting.methods:invert_edit_friendly",
        _later_maps,
        BY_MAPS,
    ),
    Mistake(
        "no map in the last step",
        "host.inverting.methods:invert_edit_friendly",
        _without_last_map,
        ON_LCM,
    ),
    Mistake(
        "the source's own latents",
        "inversion.stored:Inversion.replays_source",
        lambda right: property(lambda self: False),
        BY_MAPS,
    ),
    Mistake("the image begins elsewhere", "host.inverting.invert:begin", _begun_at_zero, PLAIN),
    Mistake(
        "the network sees the latent of another level",
        "host.inverting.invert:relabel",
        lambda right: lambda x, sigma, label: x,
        PLAIN,
    ),
    Mistake(
        "the source is not replayed",
        "inversion.stored:Inversion.replays_source",
        lambda right: property(lambda self: False),
        sampled(method="direct"),
    ),
    Mistake(
        "a text of zeros in place of the source prompt's",
        "host.sampling.branch_guider:BranchGuider.replace_negative_text",
        lambda right: lambda self, text: right(self, 0 * text),
        sampled(method="negative-prompt"),
    ),
    Mistake(
        "each step of the edit is a tenth too long",
        "host.inverting.sampler:step_to",
        lambda right: lambda x, noise, sigma, after: right(x, 1.1 * noise, sigma, after),
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(MASACTRL, SMALL, mistake.settings) > FAR
