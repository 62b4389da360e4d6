"""ALE-Edit on diffusers' UNet2DConditionModel, variance preserving: the oracle of a whole edit.

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing (ICCV 2025,
arXiv 2412.04715), Algorithms 1 and 2, Eq. 3 and 4, on the virtual inversion (DDCM) of Xu et al.
(CVPR 2024, arXiv 2312.04965). Naive on purpose: one image at a time, four rows a step, one full
attention output per region. Written from the specification alone; shares no line with the pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from .masks_by_hand import Masks, dilate, latent_background, on_grid, regions_and_background
from .ore_by_hand import TextEncoder, Texts, restrict

SOURCE_UNCOND, TARGET_UNCOND, SOURCE_COND, TARGET_COND = range(4)
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Settings:
    """What the oracle does; the switches exist to show that each component matters."""

    variant: str = "paper"  # or "published code"
    schedule: float = 0.5
    dilation: float = 0.04
    overlap: str = "background"  # or "last object"
    steps: int = 15
    eta: float = 1.0
    source_guidance: float = 1.0
    target_guidance: float = 2.0
    has_ore: bool = True
    has_token_mask: bool = True
    has_regions: bool = True
    has_injection: bool = True
    has_blending: bool = True


@dataclass(frozen=True, eq=False)
class Network:
    """A UNet2DConditionModel and what its family needs besides latent, time and text.

    predicts: "epsilon" or "v_prediction". pooled: (3, P) of the negative, the source and the target
    prompt, for SDXL. concat: (C', h, w) channels beside the latent, for inpainting UNets.
    """

    unet: Any
    predicts: str = "epsilon"
    has_zero_snr: bool = False
    pooled: Tensor | None = None
    concat: Tensor | None = None

    def split(self, v: Tensor, t: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the noise that a predicted v (C, h, w) means: the image by diffusers."""
        ddim: Any = DDIMScheduler(**self.noise(), clip_sample=False)
        ddim.set_timesteps(50)
        image = ddim.step(v, t, z).pred_original_sample
        abar = float(ddim.alphas_cumprod[t])
        return image, abar**0.5 * v + (1 - abar) ** 0.5 * z

    def noise(self) -> dict[str, Any]:
        """The noise schedule and the kind of prediction, as diffusers' schedulers take them."""
        kind = {"prediction_type": self.predicts, "rescale_betas_zero_snr": self.has_zero_snr}
        return {**BETAS, **kind}

    def __call__(
        self, z: Tensor, t: int, text: Tensor, prompts: Sequence[int] = (0, 0, 1, 2)
    ) -> Tensor:
        """The UNet's output for the rows z (R, C, h, w). prompts: which of the three prompts each
        row has."""
        beside: dict[str, Any] = {}
        if self.pooled is not None:
            height, width = (8 * n for n in z.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]]).repeat(len(z), 1)
            rows = self.pooled[list(prompts)]
            beside = {"added_cond_kwargs": {"text_embeds": rows, "time_ids": sizes}}
        if self.concat is not None:
            z = torch.cat([z, self.concat.expand(len(z), -1, -1, -1)], dim=1)
        with torch.no_grad():
            return self.unet(z, torch.tensor(t), encoder_hidden_states=text, **beside).sample


@dataclass(frozen=True)
class Step:
    """z: (C, h, w), the target's latent that entered the step, variance preserving. p: (C, h, w),
    the prediction that the next latent (or the result) is made from."""

    z: Tensor
    p: Tensor


def scheduler() -> LCMScheduler:
    """diffusers' own schedule: scaled-linear betas 0.00085 to 0.012, 1000 training steps."""
    return LCMScheduler(**BETAS)


def timesteps(steps: int) -> list[int]:
    lcm = scheduler()
    lcm.set_timesteps(steps, original_inference_steps=50)
    return [int(t) for t in lcm.timesteps]


def virtual_prediction(
    z_s: Tensor, z_t: Tensor, x0: Tensor, e_s: Tensor, e_t: Tensor, *, abar: float
) -> Tensor:
    """p of Algorithm 2, InfEdit; all (C, h, w)."""
    return x0 + ((z_t - z_s) - (1 - abar) ** 0.5 * (e_t - e_s)) / abar**0.5


def virtual_noise(z_s: Tensor, x0: Tensor, e_s: Tensor, e_t: Tensor, *, abar: float) -> Tensor:
    """e = (e_t - e_s) + e_c with e_c the noise that leads from x0 to z_s."""
    return (e_t - e_s) + (z_s - abar**0.5 * x0) / (1 - abar) ** 0.5


def renoise(x: Tensor, e: Tensor, n: Tensor, *, abar: float, eta: float) -> Tensor:
    """The latent of level abar around x: eta of the noise's variance is fresh."""
    return abar**0.5 * x + ((1 - abar) * (1 - eta)) ** 0.5 * e + (eta * (1 - abar)) ** 0.5 * n


@dataclass
class ALEAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond]."""

    settings: Settings
    texts: Texts
    masks: Masks  # (K, H, W) dilated
    latent_size: tuple[int, int]
    is_injecting: bool = False
    _grids: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and hidden_states.ndim == 3 and len(hidden_states) == 4
        is_self = encoder_hidden_states is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if is_self and self.is_injecting:
            q = torch.stack([q[0], q[0], q[2], q[2]])
            k = torch.stack([k[0], k[0], k[2], k[2]])
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        if not is_self and self.settings.has_token_mask:
            scores[TARGET_COND] += self.layer(q.shape[1])[0]
        probabilities = scores.softmax(-1)
        out = torch.einsum("rhln,rnhd->rlhd", probabilities, heads(v, attn)).flatten(2)
        if not is_self and self.settings.has_regions:
            out[TARGET_COND] = self.blended(attn, probabilities[TARGET_COND])
        return attn.to_out[0](out)

    def blended(self, attn: Any, probabilities: Tensor) -> Tensor:
        """Eq. 3: sum over the regions of mask * (attention map . value). (L, C)"""
        texts = self.texts
        base = texts.base if self.settings.has_ore else texts.plain
        values = [*(texts.objects if self.settings.has_ore else [base] * len(texts.rows)), base]
        total = torch.zeros(())
        for value, region in zip(values, self.layer(probabilities.shape[1])[1], strict=True):
            v = heads(attn.to_v(value)[None], attn)[0]
            total = total + region[:, None] * torch.einsum(
                "hln,nhd->lhd", probabilities, v
            ).flatten(1)
        return total

    def layer(self, length: int) -> tuple[Tensor, Tensor]:
        """Of a layer with `length` positions: (L, 77) added to the scores, and the masks of the
        regions and the background, (K+1, L)."""
        if length not in self._grids:
            grids = on_grid(self.masks, *self.shape_of(length), self.settings.variant)
            additive = torch.zeros(length, 77)
            for grid, rows in zip(grids, self.texts.rows, strict=True):
                for row in rows:
                    additive[:, row] = torch.from_numpy(np.where(grid.reshape(-1), 0.0, -100.0))
            regions, background = regions_and_background(grids, self.settings.overlap)
            stacked = np.concatenate([regions, background[None]]).reshape(len(regions) + 1, -1)
            self._grids[length] = additive, torch.from_numpy(stacked).float()
        return self._grids[length]

    def shape_of(self, length: int) -> tuple[int, int]:
        """The layer's grid: the latent halved (rounded up) until the number of positions fits."""
        height, width = self.latent_size
        while height * width > length:
            height, width = -(-height // 2), -(-width // 2)
        assert height * width == length
        return height, width


def heads(x: Tensor, attn: Any) -> Tensor:
    """(..., h * D) -> (..., h, D)."""
    return x.unflatten(-1, (attn.heads, -1))


def is_injecting(step: int, settings: Settings) -> bool:
    done = step if settings.variant == "paper" else step + 1
    return settings.has_injection and done / settings.steps < settings.schedule


def is_blending(step: int, settings: Settings) -> bool:
    """Whether p of this step is blended. Published code: x_t after each scheduler step but the
    first; the result, the last p, is not."""
    if not settings.has_blending:
        return False
    return settings.variant == "paper" or 0 < step < settings.steps - 1


def edit(
    network: Network,
    encoder: TextEncoder,
    pairs: Sequence[tuple[str, str]],
    masks: Masks,
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image. masks: (K, H, W) bool, undilated; x0: (C, h, w), the source
    latent as the UNet sees it (scaled)."""
    source = restrict(encoder, [pair[0] for pair in pairs], settings.variant)
    target = restrict(encoder, [pair[1] for pair in pairs], settings.variant)
    empty = encoder.encode("")
    text = torch.stack(
        [empty, empty, source.base if settings.has_ore else source.plain, target.plain]
    )
    size = (x0.shape[-2], x0.shape[-1])
    dilated = dilate(masks, settings.dilation)
    background = torch.from_numpy(latent_background(dilated, *size, settings.variant))
    attention = ALEAttention(settings, target, dilated, size)
    noise = LCMScheduler(**network.noise())
    abars = [float(noise.alphas_cumprod[t]) for t in timesteps(settings.steps)]

    draws = torch.Generator().manual_seed(seed)
    z_s = z_t = torch.randn(x0.shape, generator=draws)
    record = []
    for i, (t, abar) in enumerate(zip(timesteps(settings.steps), abars, strict=True)):
        attention.is_injecting = is_injecting(i, settings)
        with attended_by(network.unet, attention):
            e_s, e_t = guided(network, torch.stack([z_s, z_t, z_s, z_t]), t, text, settings)
        if network.predicts == "v_prediction":
            (d_s, e_s), (d_t, e_t) = network.split(e_s, t, z_s), network.split(e_t, t, z_t)
            p = x0 + d_t - d_s
        else:
            p = virtual_prediction(z_s, z_t, x0, e_s, e_t, abar=abar)
        is_last = i + 1 == settings.steps
        blended = torch.where(background, x0, p) if is_blending(i, settings) else p
        record.append(Step(z_t, blended))
        if is_last:
            break
        e, n = virtual_noise(z_s, x0, e_s, e_t, abar=abar), torch.randn(x0.shape, generator=draws)
        z_s = renoise(x0, e, n, abar=abars[i + 1], eta=settings.eta)
        z_t = renoise(p, e, n, abar=abars[i + 1], eta=settings.eta)
        if is_blending(i, settings):
            z_t = torch.where(background, z_s, z_t)  # Eq. 4
    return record


@contextmanager
def attended_by(unet: Any, attention: Any) -> Iterator[None]:
    """All layers go through `attention`; afterwards through what they had before."""
    before = dict(unet.attn_processors)
    unet.set_attn_processor(attention)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def guided(
    network: Network, z: Tensor, t: int, text: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Both branches' predictions after classifier-free guidance, (C, h, w) each."""
    e = network(z, t, text)
    source = e[SOURCE_UNCOND] + settings.source_guidance * (e[SOURCE_COND] - e[SOURCE_UNCOND])
    target = e[TARGET_UNCOND] + settings.target_guidance * (e[TARGET_COND] - e[TARGET_UNCOND])
    return source, target
