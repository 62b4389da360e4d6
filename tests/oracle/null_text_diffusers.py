"""Null-text inversion on diffusers' UNet2DConditionModel, variance preserving.

Mokady, Hertz, Aberman, Pritch, Cohen-Or: Null-text Inversion for Editing Real Images using Guided
Diffusion Models (CVPR 2023, arXiv 2211.09794), Algorithm 1 with the numbers of the published code.
Naive on purpose: one image at a time. Written from the specification alone (methods.md C.2); shares
no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .ale_diffusers import Network
from .inverted_diffusers import Sampling, alpha_bar, ddim, invert, noise_of

UPDATES = 10
RATE = 1e-2
TOLERANCE = 1e-5
GROWTH = 2e-5  # of the tolerance, a step of 50


@dataclass(frozen=True, eq=False)
class NullTexts:
    """Of one image. texts: (N, L, D). latents: (N + 1, C, h, w), from noise to the image, as the
    guided steps with these texts reach them. updates: how many each step took."""

    texts: Tensor
    latents: Tensor
    updates: list[int]


def predict_noise(network: Network, z: Tensor, t: int, text: Tensor) -> Tensor:
    """(C, h, w), through which gradients flow to the text (L, D)."""
    out = network.unet(z[None], torch.tensor(t), encoder_hidden_states=text[None]).sample[0]
    return noise_of(network, out, t, z)


def find_null_texts(
    network: Network, prompt: Tensor, empty: Tensor, x0: Tensor, sampling: Sampling
) -> NullTexts:
    """prompt, empty: (L, D). x0: (C, h, w). The guidance is `sampling.source_guidance`."""
    inverted = invert(network, prompt, x0, sampling)
    schedule, scale = sampling.timesteps(), sampling.source_guidance
    z, null = inverted[0], empty.clone()
    texts, latents, counts = [], [z], []
    for i, t in enumerate(schedule):
        abar = alpha_bar(t, network)
        after = alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1, network)
        published = i * 50 / len(schedule)  # the step of 50 with the same share behind it
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=RATE * (1 - published / 100))
        with torch.no_grad():
            e_c = predict_noise(network, z, t, prompt)
        count = 0
        # the step from time step 0 goes nowhere, whatever the text: its gradient is rounding errors
        while after > abar and count < UPDATES:
            e_u = predict_noise(network, z, t, null)
            loss = mse_loss(ddim(z, e_u + scale * (e_c - e_u), abar, after), inverted[i + 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += 1
            if loss.item() < TOLERANCE + GROWTH * published:
                break
        with torch.no_grad():
            e_u = predict_noise(network, z, t, null)
        z = ddim(z, e_u + scale * (e_c - e_u), abar, after)
        texts.append(null.detach())
        latents.append(z)
        counts.append(count)
    return NullTexts(torch.stack(texts), torch.stack(latents), counts)
