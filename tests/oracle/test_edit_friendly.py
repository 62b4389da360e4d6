"""Noise maps by the pack, and edits by the single nodes' functions, equal an independent loop on
diffusers' UNet at every step, on models that predict noise or v."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.tests.families import pooled

from .ale_diffusers import Step
from .editor_edit import BATCH, PROMPTS, SMALL
from .inverted_diffusers import Sampling, alpha_bar, ddpm, find_maps, predict
from .whole_edit import POOLED_SEEDS, SEED, Scene, Twins, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
PAPER = Sampling(
    steps=10, strength=0.64, source_guidance=3.5, target_guidance=15.0, method="edit-friendly"
)


@dataclass(frozen=True, eq=False)
class Run:
    """inverted: (N + 1, B, C, h, w), variance preserving. maps: (N, B, C, h, w). steps: those of
    the target, and last the result. stds: (N,), what a map is multiplied by; of the oracle."""

    inverted: Tensor
    maps: Tensor
    steps: list[Step]
    stds: Tensor | None = None


def texts(pack: Twins, prompts: tuple[str, str]) -> list[Any]:
    """The CONDITIONING of the negative, the source and the target prompt."""
    seeds: dict[str, int] = dict(zip(("", *PROMPTS), POOLED_SEEDS, strict=True))
    return [
        [
            [
                pack.clip.encode_from_tokens(pack.clip.tokenize(text)),
                {"pooled_output": pooled(seeds[text])},
            ]
        ]
        for text in ("", *prompts)
    ]


def run_pack(
    scene: Scene, sampling: Sampling, family: str | None, prompts: tuple[str, str] = PROMPTS
) -> Run:
    from ale_edit.host.inverting.methods import invert_by
    from ale_edit.host.inverting.sampler import inversion_sampler
    from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
    from ale_edit.host.sampling.schedule import sigmas_of

    pack = twins(family)
    schedule = Schedule(sampling.steps, sampling.strength, sampling.spacing)  # type: ignore[arg-type]
    negative, source, target = texts(pack, prompts)
    latents = scene.latents / pack.latent_scale
    record: list[Step] = []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        record.append(Step(x / (1 + inversion.sigmas[step] ** 2) ** 0.5, denoised.clone()))

    with torch.inference_mode():
        inversion: Inversion = invert_by(
            "edit-friendly", pack.model, source, latents, schedule, prompts[0],
            negative=negative, guidance=sampling.source_guidance, seed=SEED,
            callback=lambda *_: None,
        )  # fmt: skip
        branches = (
            Branch("source", source, 1.0),
            Branch("target", target, sampling.target_guidance),
        )
        result = BranchGuider(pack.model, branches, negative, reuses_source=False).sample(
            torch.zeros_like(latents),
            latents,
            inversion_sampler(inversion),
            sigmas_of(pack.model, schedule),
            callback=callback,
            seed=0,
        )
    assert inversion.noise_maps is not None
    scales = torch.tensor([(1 + sigma**2) ** 0.5 for sigma in inversion.sigmas])
    inverted = inversion.latents / scales[:, None, None, None, None]
    last = Step(record[-1].z, result * pack.latent_scale)
    return Run(inverted, inversion.noise_maps, [*record, last])


def run_oracle(scene: Scene, sampling: Sampling, family: str | None) -> Run:
    both, schedule = twins(family), sampling.timesteps()
    away, source, target = (both.encoder.encode(text) for text in ("", *PROMPTS))
    levels = [alpha_bar(t, both.network) for t in (*schedule, -1)]
    found = []
    for j, x0 in enumerate(scene.latents):
        pair = torch.stack([away, source])
        inverted, maps = find_maps(both.network, pair, x0, sampling, SEED + j)
        z, steps = inverted[0], []
        for i, t in enumerate(schedule):
            pair = torch.stack([away, target])
            image, e = predict(both.network, z, t, pair, sampling.target_guidance, prompt=2)
            steps.append(Step(z, image))
            mean, std = ddpm(image, e, levels[i], levels[i + 1])
            z = mean + std * maps[i]
        steps.append(Step(steps[-1].z, z))
        found.append((torch.stack(inverted), torch.stack(maps), steps))
    inverted, maps, steps = zip(*found, strict=True)
    joined = [
        Step(torch.stack([s.z for s in each]), torch.stack([s.p for s in each]))
        for each in zip(*steps, strict=True)
    ]
    zero = torch.zeros(())
    stds = torch.tensor([ddpm(zero, zero, *pair)[1] for pair in pairwise(levels)])
    return Run(torch.stack(inverted, 1), torch.stack(maps, 1), joined, stds)


CASES = [
    (BATCH, PAPER, None),
    (SMALL, replace(PAPER, strength=1.0), None),
    (SMALL, replace(PAPER, spacing="LCM", strength=1.0, target_guidance=2.0), None),
    (SMALL, PAPER, "SD 2, v"),
    (BATCH, PAPER, "SDXL"),
    (SMALL, replace(PAPER, target_guidance=3.0), "SDXL, v, zero SNR"),
]


@pytest.mark.parametrize(("scene", "sampling", "family"), CASES, ids=str)
def test_every_level_map_and_step_equals_the_oracles(
    scene: Scene, sampling: Sampling, family: str | None
):
    ours, theirs = run_pack(scene, sampling, family), run_oracle(scene, sampling, family)
    unit = scene.latents.std()
    assert theirs.stds is not None
    inverted = float((ours.inverted - theirs.inverted).abs().max() / unit)
    in_latents = (ours.maps - theirs.maps) * theirs.stds[:, None, None, None, None]
    maps = float(in_latents.abs().max() / unit)
    steps = errors(ours.steps, theirs.steps, scene)
    print(f"latents {inverted:.1e}, maps {maps:.1e}, steps", *(f"{e:.1e}" for e in steps))
    assert max(inverted, maps, *steps) <= BOUND


@pytest.mark.parametrize("family", [None, "SD 2, v", "SDXL", "SDXL, v, zero SNR"])
@pytest.mark.parametrize("spacing", ["DDIM", "LCM"])
def test_the_source_prompt_at_the_source_guidance_gives_the_image_back(
    family: str | None, spacing: str
):
    sampling = replace(PAPER, strength=1.0, spacing=spacing, target_guidance=PAPER.source_guidance)
    run = run_pack(BATCH, sampling, family, (PROMPTS[0], PROMPTS[0]))
    error = float((run.steps[-1].p - BATCH.latents).abs().max() / BATCH.latents.std())
    print(f"error of reconstruction: {error:.1e}")
    assert error <= 1e-5
