"""pix2pix-zero on diffusers' UNet2DConditionModel with the attention processor and the loss of
diffusers' own pix2pix-zero pipeline, variance preserving: the oracle of a whole edit.

Parmar et al. (SIGGRAPH 2023, arXiv 2302.03027) and its published code. Naive on purpose: one image
at a time, two rows a step, [negative, prompt], the maps of the whole reconstruction kept. Written
from the specification alone (methods.md C.10); shares no line with the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.deprecated.stable_diffusion_variants import (
    pipeline_stable_diffusion_pix2pix_zero as published,
)
from torch import Tensor

from .ale_diffusers import Network, Step
from .inverted_diffusers import Sampling, alpha_bar, ddim, ddpm, find_maps, invert
from .ore_by_hand import TextEncoder
from .p2p_diffusers import PROMPTS

TEMPLATES = (
    *("{}", "a photo of {}", "a picture of {}", "a painting of {}", "a drawing of {}"),
    *("a view of {}", "{} in the room", "{} in the sky", "{} in the fog", "{} in the street"),
)


@dataclass(frozen=True)
class Settings:
    """What the oracle does. sampling.method may also be "regularised". sentences: of source and
    target, in place of those around the phrases. negative: None for the source prompt."""

    sampling: Sampling = Sampling(method="regularised", target_guidance=5.0, is_published=False)
    prompts: tuple[str, str] = PROMPTS
    pairs: tuple[tuple[str, str], ...] = (
        ("grey wolf", "brown goat"),
        ("yellow moon", "yellow ball"),
    )
    amount: float = 0.1
    sentences: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    negative: str | None = None
    is_balanced: bool = True  # the noise regularised by its divergence as well


@dataclass(eq=False)
class Update:
    """One update of one image: the two copies of the latent (C, h, w) before and after, and the
    gradient."""

    step: int
    z: Tensor
    gradient: Tensor
    after: Tensor
    loss: float


# -- text ------------------------------------------------------------------------------------------


def edited_text(encoder: TextEncoder, settings: Settings) -> Tensor:
    """The source prompt's encoding (77, D) plus the direction of each edit."""
    text = encoder.encode(settings.prompts[0]).clone()
    lists: Sequence[tuple[Sequence[str], Sequence[str]]] = [
        ([t.format(source) for t in TEMPLATES], [t.format(target) for t in TEMPLATES])
        for source, target in settings.pairs
    ]
    if settings.sentences is not None:
        lists = [settings.sentences]
    for source, target in lists:
        for sentence in target:
            text += encoder.encode(sentence) / len(target)
        for sentence in source:
            text -= encoder.encode(sentence) / len(source)
    return text


# -- regularised noise -----------------------------------------------------------------------------


def auto_correlation(e: Tensor, rolls: Sequence[Sequence[int]]) -> Tensor:
    """Of noise (C, h, w). rolls: of each level, of each channel."""
    total = torch.zeros((), dtype=e.dtype)
    for c in range(len(e)):
        own = e[c]
        for level, amounts in enumerate(rolls):
            if level:
                h, w = (n // 2 for n in own.shape)
                own = own[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
            total = total + (own * torch.roll(own, amounts[c], 0)).mean() ** 2
            total = total + (own * torch.roll(own, amounts[c], 1)).mean() ** 2
    return total


def kl(e: Tensor) -> Tensor:
    values = e.flatten()
    mean = values.sum() / len(values)
    variance = ((values - mean) ** 2).sum() / (len(values) - 1)
    return variance + mean**2 - 1 - torch.log(variance + 1e-7)


def draw_rolls(e: Tensor, draws: torch.Generator) -> list[list[int]]:
    side, found = min(e.shape[-2:]), []
    while True:
        found.append(torch.randint(1, max(2, side // 2), (len(e),), generator=draws).tolist())
        if side <= 8:
            return found
        side //= 2


def regulariser(seed: int, is_balanced: bool = True) -> Callable[[Tensor], Tensor]:
    """5 rounds of 5 steps down the autocorrelation and one down the divergence, each of weight 20
    at 64 x 64 cells and in proportion at others; the autocorrelation's is shared by its steps."""
    draws = torch.Generator().manual_seed(seed)

    def moved(e: Tensor, loss: Callable[[Tensor], Tensor], rate: float) -> Tensor:
        own = e.clone().requires_grad_()
        loss(own).backward()
        assert own.grad is not None
        return e - rate * own.grad

    def change(e: Tensor) -> Tensor:
        weight = 20 * e.shape[1] * e.shape[2] / 4096
        for _ in range(5):
            for _ in range(5):
                rolls = draw_rolls(e, draws)
                e = moved(e, lambda own, rolls=rolls: auto_correlation(own, rolls), weight / 5)
            if is_balanced:
                e = moved(e, kl, weight)
        return e

    return change


# -- the edit --------------------------------------------------------------------------------------


@contextmanager
def watched(unet: Any) -> Iterator[None]:
    """The UNet with the pipeline's attention processors."""
    before = dict(unet.attn_processors)
    unet.set_attn_processor(
        {
            name: published.Pix2PixZeroAttnProcessor(is_pix2pix_zero="attn2" in name)
            for name in before
        }
    )
    try:
        yield
    finally:
        unet.set_attn_processor(before)


class Guidance:
    """The two passes of one image."""

    def __init__(self, network: Network, encoder: TextEncoder, settings: Settings) -> None:
        self.unet, self.settings = network.unet, settings
        self.dtype = network.unet.dtype
        source = settings.prompts[0]
        away = source if settings.negative is None else settings.negative
        texts = (encoder.encode(away), encoder.encode(source), edited_text(encoder, settings))
        self.away, self.source, self.edit = (text.to(self.dtype) for text in texts)
        self.updates: list[Update] = []

    def rows(self, z: Tensor, t: int, prompt: Tensor, **named: Any) -> Tensor:
        """(2, C, h, w): noise of two copies of a latent, under the negative and a prompt."""
        return self.unet(
            z,
            torch.tensor(t),
            encoder_hidden_states=torch.stack([self.away, prompt]),
            cross_attention_kwargs=named,
        ).sample

    def reconstruct(self, z: Tensor, t: int) -> Tensor:
        """The source's noise; keeps its maps for the time step. Under the same prompt in both rows,
        guidance does nothing; under another negative prompt, the source is not guided here."""
        with torch.no_grad():
            e = self.rows(torch.stack([z, z]), t, self.source, timestep=torch.tensor(t))
        if self.settings.negative is not None:
            return e[1]
        return e[0] + self.settings.sampling.target_guidance * (e[1] - e[0])

    def move(self, z: Tensor, step: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """The latents that the edit goes on from and that its prompt sees; its guided noise."""
        settings = self.settings
        x = torch.stack([z, z]).clone().requires_grad_()
        loss = published.Pix2PixZeroL2Loss()
        self.rows(x, t, self.edit, timestep=torch.tensor(t), loss=loss)
        before = x.detach().clone()
        optimiser = torch.optim.SGD([x], lr=settings.amount)
        total: Any = loss.loss
        total.backward()
        optimiser.step()
        assert x.grad is not None
        after = x.detach()
        self.updates.append(
            Update(step, before, x.grad.clone(), after.clone(), float(total.detach()))
        )
        with torch.no_grad():
            e = self.rows(after, t, self.edit, timestep=None)
        guided = e[0] + settings.sampling.target_guidance * (e[1] - e[0])
        return after[0], after[1], guided


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
    updates: list[Update] | None = None,
) -> list[Step]:
    """The whole edit of one image, the target's steps and the result. x0: (C, h, w), the source
    latent as the UNet sees it (scaled)."""
    sampling, guidance = settings.sampling, Guidance(network, encoder, settings)
    maps: list[Tensor] = []
    if sampling.method == "edit-friendly":
        both = torch.stack([guidance.away, guidance.source])
        inverted, maps = find_maps(network, both, x0, sampling, seed)
    elif sampling.method == "regularised":
        change = regulariser(seed, settings.is_balanced)
        inverted = invert(network, guidance.source, x0, sampling, change)
    else:
        inverted = invert(network, guidance.source, x0, sampling)
    schedule, record = sampling.timesteps(), []
    levels = [alpha_bar(t) for t in [*schedule, -1]]
    is_known = sampling.method in ("direct", "edit-friendly")
    with watched(network.unet):
        z = inverted[0]
        for i, t in enumerate(schedule):
            e = guidance.reconstruct(z, t)
            z = inverted[i + 1] if is_known else ddim(z, e, levels[i], levels[i + 1])
        z = inverted[0]
        for i, t in enumerate(schedule):
            z, seen, e = guidance.move(z, i, t)
            abar, after = levels[i : i + 2]
            image = (z - (1 - abar) ** 0.5 * e) / abar**0.5
            record.append(Step(seen, image))
            if maps:
                mean, std = ddpm(image, e, abar, after)
                z = mean + std * maps[i]
            else:
                z = ddim(z, e, abar, after)
    if updates is not None:
        updates += guidance.updates
    return [*record, Step(record[-1].z, z)]
