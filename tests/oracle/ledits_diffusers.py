"""LEDITS++ on diffusers' UNet2DConditionModel, its SDE-DPM-Solver++ scheduler, and the inversion
step of its LEDITS++ pipeline, variance preserving: the oracle of a whole edit.

Brack et al. (CVPR 2024, arXiv 2311.16711). Naive on purpose: one image at a time, 1 + K rows a
step, every map whole. Written from the specification alone (methods.md C.11); shares no line with
the pack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import compute_noise
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from .ale_diffusers import BETAS, Network, Step, attended_by, heads
from .ore_by_hand import TextEncoder


@dataclass(frozen=True)
class Settings:
    """scales: of each edit, below 0 for one that is removed. places: "both", "attention",
    "guidance" or "everywhere". given: of each edit, rows of cells from the top that its own mask
    covers, or None."""

    steps: int = 6
    skip: float = 0.15
    scales: tuple[float, ...] = (5.0, 5.0)
    threshold: float = 0.9
    places: str = "both"
    given: tuple[int | None, ...] = (None, None)
    negative: str = ""


@dataclass
class Recorder:
    """diffusers' attention processor that keeps the cross-attention maps of every layer, (1 + K,
    heads, L, 77), and changes nothing."""

    places: dict[Any, str]
    maps: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        probabilities = scores.softmax(-1)
        if encoder_hidden_states is not None:
            self.maps[self.places[attn]] = probabilities
        out = torch.einsum("rhln,rnhd->rlhd", probabilities, heads(v, attn)).flatten(2)
        return attn.to_out[0](out)


def solver(settings: Settings) -> Any:
    """diffusers' scheduler at the time steps of the specification, down to time step 0's level."""
    scheduler: Any = DPMSolverMultistepScheduler(
        **BETAS,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="sigma_min",
        lower_order_final=False,
    )
    spaced = np.linspace(1000 * (1 - settings.skip) - 1, 1, settings.steps).round()
    scheduler.set_timesteps(timesteps=[int(t) for t in spaced])
    return scheduler


def find_maps(
    network: Network, text: Tensor, x0: Tensor, seed: int, settings: Settings
) -> tuple[Tensor, list[Tensor]]:
    """The noisiest latent (C, h, w) and the noise maps."""
    scheduler, draws = solver(settings), torch.Generator().manual_seed(seed)
    found = [
        scheduler.add_noise(x0[None], torch.randn(x0.shape, generator=draws)[None], t[None])[0]
        for t in scheduler.timesteps
    ] + [x0]
    first, maps = found[0], []
    for i, t in enumerate(scheduler.timesteps):
        e = network(found[i][None], int(t), text[None])
        z, reached = compute_noise(scheduler, found[i + 1][None], found[i][None], t, e, 1.0)
        maps.append(z[0])
        found[i + 1] = reached[0]
    return first, maps


def seen(recorder: Recorder, row: int, tokens: int, size: tuple[int, int], q: float) -> Tensor:
    """M1, (h, w): of the first `tokens` words of a row."""
    by_grid: dict[tuple[int, int], list[Tensor]] = {}
    for place, maps in recorder.maps.items():
        if not place.startswith("mid_block"):
            height, width = size
            while height * width > maps.shape[2]:
                height, width = -(-height // 2), -(-width // 2)
            by_grid.setdefault((height, width), []).append(maps[row])
    fine = [grid for grid in by_grid if min(grid) >= 16]
    grid = min(fine) if fine else max(by_grid)
    cells = torch.cat(by_grid[grid]).mean(0)[:, 1 : 1 + tokens].sum(-1).unflatten(0, grid)
    padded = np.pad(cells.numpy(), 1, mode="reflect")
    weights = np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]], dtype=np.float64))
    weights /= weights.sum()
    smoothed = sum(
        weights[dy, dx] * padded[dy : dy + grid[0], dx : dx + grid[1]]
        for dy in range(3)
        for dx in range(3)
    )
    mask = np.asarray(smoothed >= np.quantile(smoothed, q))
    ys = [y * grid[0] // size[0] for y in range(size[0])]
    xs = [x * grid[1] // size[1] for x in range(size[1])]
    return torch.from_numpy(mask[ys][:, xs]).float()


def edit(
    network: Network,
    encoder: TextEncoder,
    phrases: tuple[str, ...],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, its steps and the result."""
    z, maps = find_maps(network, encoder.encode(""), x0, seed, settings)
    text = torch.stack([encoder.encode(text) for text in (settings.negative, *phrases)])
    names = {m: n for n, m in network.unet.named_modules() if n.endswith(("attn1", "attn2"))}
    scheduler, record = solver(settings), []
    size = (x0.shape[-2], x0.shape[-1])
    for i, t in enumerate(scheduler.timesteps):
        recorder = Recorder(names)
        with attended_by(network.unet, recorder):
            e = network(torch.stack([z] * len(text)), int(t), text)
        total = e[0].clone()
        for k, phrase in enumerate(phrases):
            guidance = settings.scales[k] * (e[k + 1] - e[0])
            rows = settings.given[k]
            if rows is not None:
                own = torch.zeros(size)
                own[:rows] = 1
                guidance = guidance * own
            mask = torch.ones(size)
            if settings.places in ("both", "attention"):
                tokens = len(encoder.ids(phrase)) - 2
                mask = mask * seen(recorder, k + 1, tokens, size, settings.threshold)
            if settings.places in ("both", "guidance"):
                strength = guidance.abs().sum(0)
                limit = float(np.quantile(strength.numpy(), settings.threshold))
                mask = mask * (strength >= limit)
            total = total + mask * guidance
        abar = float(scheduler.alphas_cumprod[int(t)])
        record.append(Step(z, (z - (1 - abar) ** 0.5 * total) / abar**0.5))
        z = scheduler.step(total[None], t, z[None], variance_noise=maps[i][None]).prev_sample[0]
    return [*record, Step(record[-1].z, z)]
