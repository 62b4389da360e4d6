"""MasaCtrl on diffusers' UNet2DConditionModel, on virtual inversion: the oracle of a whole edit.

Cao, Wang, Qi, Shan, Qie, Zheng: MasaCtrl (ICCV 2023, arXiv 2304.08465), with DDCM (Xu et al., CVPR
2024, arXiv 2312.04965) in place of DDIM inversion. Naive on purpose: one image at a time, four rows
a step, [source, target] x [uncond, cond]. Written from the specification alone (methods.md C.5);
shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

import torch
from torch import Tensor

from .ale_diffusers import (
    Network,
    Step,
    attended_by,
    heads,
    renoise,
    scheduler,
    timesteps,
    virtual_prediction,
)
from .ore_by_hand import TextEncoder


@dataclass(frozen=True)
class Settings:
    """start_step, start_layer: shares. first_layer: a layer's own number instead of the share.
    adds_own: whether the target reads its own keys and values beside the source's."""

    steps: int = 15
    strength: float = 1.0
    source_guidance: float = 1.0
    target_guidance: float = 2.0
    start_step: Fraction = Fraction(4, 50)
    start_layer: Fraction = Fraction(10, 16)
    first_layer: int | None = None
    has_control: bool = True
    adds_own: bool = False

    @property
    def skipped(self) -> int:
        return self.steps - int(self.steps * self.strength)


def self_attention_layers(unet: Any) -> list[Any]:
    """In the order in which they run: down, middle, up."""
    parts = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [m for part in parts for n, m in part.named_modules() if n.endswith("attn1")]


@dataclass
class MasaCtrlAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond]. layers: those
    in which the target reads the source. adds_own: beside itself."""

    layers: list[Any]
    is_on: bool = False
    adds_own: bool = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and hidden_states.ndim == 3 and len(hidden_states) == 4
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        outs = []
        for row in range(4):
            is_target = row in (1, 3)
            is_mutual = is_target and self.is_on and attn in self.layers
            read = [row - 1] if is_mutual else [row]
            if is_mutual and self.adds_own:
                read.append(row)
            keys, values = (torch.cat([t[i] for i in read]) for t in (k, v))
            scores = torch.einsum("lhd,nhd->hln", heads(q[row], attn), heads(keys, attn))
            probabilities = (scores * attn.scale).softmax(-1)
            outs.append(torch.einsum("hln,nhd->lhd", probabilities, heads(values, attn)))
        return attn.to_out[0](torch.stack(outs).flatten(2))


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps. prompts: source (the paper's is empty) and
    target. x0: (C, h, w), the source latent as the UNet sees it (scaled)."""
    empty = encoder.encode("")
    text = torch.stack([empty, empty, *map(encoder.encode, prompts)])
    layers = self_attention_layers(network.unet)
    first = settings.first_layer
    if first is None:
        first = floor(settings.start_layer * len(layers))
    attention = MasaCtrlAttention(
        layers[first:] if settings.has_control else [], adds_own=settings.adds_own
    )
    schedule = timesteps(settings.steps)[settings.skipped :]
    abars = [float(scheduler().alphas_cumprod[t]) for t in schedule]
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(x0.shape, generator=draws)
    z_s = z_t = noise
    if settings.skipped:
        z_s = z_t = abars[0] ** 0.5 * x0 + (1 - abars[0]) ** 0.5 * noise
    record = []
    for i, (t, abar) in enumerate(zip(schedule, abars, strict=True)):
        attention.is_on = i >= floor(settings.start_step * len(schedule))
        with attended_by(network.unet, attention):
            e = network(torch.stack([z_s, z_t, z_s, z_t]), t, text)
        e_s = e[0] + settings.source_guidance * (e[2] - e[0])
        e_t = e[1] + settings.target_guidance * (e[3] - e[1])
        p = virtual_prediction(z_s, z_t, x0, e_s, e_t, abar=abar)
        record.append(Step(z_t, p))
        if i + 1 < len(schedule):
            n = torch.randn(x0.shape, generator=draws)
            z_s, z_t = (renoise(x, n, n, abar=abars[i + 1], eta=1.0) for x in (x0, p))
    return record
