"""Plug-and-Play on diffusers' UNet2DConditionModel: the oracle of a whole edit.

Tumanyan, Geyer, Bagon, Dekel (CVPR 2023, arXiv 2211.12572). Three rows a step: the source with the
empty prompt, the target with the negative prompt, the target with its own. Written from the
specification alone (methods.md C.7); shares no line with the pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ale_diffusers import Network, Step, attended_by, heads
from .inverted_diffusers import Sampling, alpha_bar, ddim, ddpm, find_maps, invert
from .ore_by_hand import TextEncoder

SOURCE, UNCOND, COND = range(3)
NEGATIVE = "ugly, blurry, black, low res, unrealistic"


@dataclass(frozen=True)
class Settings:
    """self_per_fifty, features_per_fifty: the steps of 50 in which each is taken. source: the
    prompt of the inversion."""

    sampling: Sampling = Sampling(method="direct", source_guidance=1.0)
    self_per_fifty: int = 25
    features_per_fifty: int = 40
    negative: str = NEGATIVE


def decoder(unet: Any) -> list[tuple[Any, Any]]:
    """The ResBlock and the self-attention layers of each place of the decoder with attention."""
    return [
        (resnet, [block.attn1 for block in transformer.transformer_blocks])
        for up in unet.up_blocks
        if hasattr(up, "attentions")
        for resnet, transformer in zip(up.resnets, up.attentions, strict=True)
    ]


@dataclass
class PnPAttention:
    """diffusers' attention processor for the rows [source, target uncond, target cond]."""

    layers: list[Any]
    is_on: bool = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and len(hidden_states) == 3
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if self.is_on and any(attn is layer for layer in self.layers):
            q = q[SOURCE].repeat(3, 1, 1)
            k = k[SOURCE].repeat(3, 1, 1)
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        out = torch.einsum("rhln,rnhd->rlhd", scores.softmax(-1), heads(v, attn))
        return attn.to_out[0](out.flatten(2))


@contextmanager
def injected(resnet: Any, is_on: bool) -> Iterator[None]:
    """A ResnetBlock2D whose residual path gives every row the source's output, before the skip path
    is added."""
    right = resnet.conv2.forward

    def wrong(h: Tensor) -> Tensor:
        out = right(h)
        return out[SOURCE].expand_as(out) if is_on else out

    resnet.conv2.forward = wrong
    try:
        yield
    finally:
        del resnet.conv2.forward


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps and the result."""
    sampling = settings.sampling
    empty = encoder.encode("")
    text = torch.stack([empty, encoder.encode(settings.negative), encoder.encode(prompts[1])])
    inverted, maps = invert(network, empty, x0, sampling), []
    if sampling.method == "edit-friendly":
        both = torch.stack([encoder.encode(settings.negative), empty])
        inverted, maps = find_maps(network, both, x0, sampling, seed)
    first, *others = decoder(network.unet)
    attention = PnPAttention([layer for _, layers in others for layer in layers])
    resnet = others[0][0]
    schedule = sampling.timesteps()
    z_s = z_t = inverted[0]
    record = []
    for i, t in enumerate(schedule):
        attention.is_on = i < len(schedule) * settings.self_per_fifty // 50
        has_features = i < len(schedule) * settings.features_per_fifty // 50
        with attended_by(network.unet, attention), injected(resnet, has_features):
            e = network(torch.stack([z_s, z_t, z_t]), t, text)
        e_t = e[UNCOND] + sampling.target_guidance * (e[COND] - e[UNCOND])
        abar, after = alpha_bar(t), alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1)
        record.append(Step(z_t, (z_t - (1 - abar) ** 0.5 * e_t) / abar**0.5))
        is_known = sampling.method in ("direct", "edit-friendly")
        z_s = inverted[i + 1] if is_known else ddim(z_s, e[SOURCE], abar, after)
        if maps:
            mean, std = ddpm(record[-1].p, e_t, abar, after)
            z_t = mean + std * maps[i]
        else:
            z_t = ddim(z_t, e_t, abar, after)
    return [*record, Step(record[-1].z, z_t)]
