"""Edits by flow transformers against diffusers' networks, at every step."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.host.sampling import branch_guider, noise_levels, schedule, virtual_inversion
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.inversion.update_rule import Level
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.flow_models import flow_latent, flow_model, flow_text
from ale_edit.tests.host.runs import relative_error
from ale_edit.tests.tiny import box_mask

from . import flow_diffusers as oracle
from .flow_diffusers import NETWORKS, Task, Text, Velocity

SEED = 5
STEPS = 4


@cache
def network(name: str) -> Velocity:
    return NETWORKS[name](flow_model(name).model)


def source(name: str, batch: int) -> Tensor:
    """Not square. Where the tokens of a side are odd, diffusers centres Qwen-Image's otherwise."""
    return flow_latent(name, batch, height=4 if name == "Qwen-Image" else 6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tiny_model_is_diffusers_network(name):
    model, text = flow_model(name).model, oracle_text(flow_text(name, 1))
    x = source(name, batch=2)
    options = {"sample_sigmas": torch.ones(1)}
    more: dict[str, Any] = {}
    if text.pooled is not None:
        more["y"] = text.pooled.expand(2, -1)
    tokens = text.rows(2)
    if name == "Flux.2":
        tokens = torch.nn.functional.pad(tokens, (0, 0, 512 - tokens.shape[1], 0))
    if name.startswith("Flux"):
        more["guidance"] = torch.tensor([3.5, 3.5])
    if name == "Z-Image":
        more["num_tokens"] = tokens.shape[1]
    denoised = model.apply_model(
        x, torch.full((2,), 0.7), c_crossattn=tokens, transformer_options=options, **more
    )
    assert relative_error((x - denoised) / 0.7, network(name)(x, 0.7, text)) < 5e-5


def oracle_text(conditioning: Any) -> Text:
    ((tokens, options),) = conditioning
    pooled = options["pooled_output"]
    return Text(
        tokens[0], None if pooled is None else pooled[0], float(options.get("guidance", 3.5))
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_schedule_is_diffusers(name):
    for steps in (1, 4, 8, 28, 50):
        expected = torch.tensor(oracle.diffusers_schedule(name, steps))
        made = lcm_sigmas(flow_model(name), steps, 1.0)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            made, torch.tensor(oracle.schedule(name, steps)), rtol=0, atol=1e-7
        )


TEXTS = {"source": 1, "target": 2, "negative": 9}


def conditioning(name: str, lengths: tuple[int, int, int]) -> dict[str, Any]:
    """By input; with embedded guidance where the model has it."""
    embedded = {"source": 1.5, "target": 5.5} if name in ("Flux.1", "Flux.2") else {}
    return {
        side: flow_text(name, seed, length, embedded.get(side))
        for (side, seed), length in zip(TEXTS.items(), lengths, strict=True)
    }


def edit(
    name: str,
    texts: dict[str, Any],
    latent: Tensor,
    guidance: tuple[float, float],
    patch: Any = lambda model: model,
    **settings: Any,
) -> tuple[list[Tensor], Tensor]:
    """The predictions after each step, and the result, as the network sees them."""
    model = flow_model(name)
    branches = (
        Branch("source", texts["source"], guidance[0]),
        Branch("target", texts["target"], guidance[1]),
    )
    guider = BranchGuider(patch(model), branches, texts["negative"], reuses_source=False)
    seen: list[Tensor] = []
    result = guider.sample(
        torch.zeros_like(latent),
        latent,
        virtual_inversion_sampler(**settings),
        lcm_sigmas(model, STEPS, 1.0),
        callback=lambda step, denoised, x, steps: seen.append(denoised.clone()),
        disable_pbar=True,
        seed=SEED,
    )
    return seen, model.get_model_object("latent_format").process_in(result)


def task(
    name: str, texts: dict[str, Any], latent: Tensor, guidance: tuple[float, float], **more: Any
) -> Task:
    image = flow_model(name).get_model_object("latent_format").process_in(latent)
    own = {side: oracle_text(text) for side, text in texts.items()}
    sigmas = oracle.schedule(name, STEPS)
    return Task(
        image, own["source"], own["target"], own["negative"], guidance, sigmas, SEED, **more
    )


LENGTHS = {"one length": (20, 20, 20), "three lengths": (20, 33, 3)}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_kappa_0_is_infedit_at_every_step(name, lengths):
    texts, latent = conditioning(name, LENGTHS[lengths]), source(name, batch=2)
    made, result = edit(name, texts, latent, (1.0, 3.0))
    expected = oracle.infedit(task(name, texts, latent, (1.0, 3.0)), network(name))
    require_same_steps(made, expected)
    assert relative_error(result, expected[-1]) < 1e-4


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_kappa_1_is_flow_edit(name, lengths):
    texts, latent = conditioning(name, LENGTHS[lengths]), source(name, batch=2)
    _, result = edit(name, texts, latent, (1.5, 3.0), kappa=1.0)
    expected = oracle.flow_edit(task(name, texts, latent, (1.5, 3.0)), network(name))
    assert relative_error(result, expected[-1]) < 1e-4


@pytest.mark.parametrize("name", ["Flux.1", "Qwen-Image"])
def test_flow_align_is_a_preset(name):
    """Guidance from the source prompt towards the target, on the edited branch alone."""
    texts, latent = conditioning(name, (20, 33, 20)), source(name, batch=2)
    texts["negative"] = texts["source"]
    _, result = edit(name, texts, latent, (1.0, 3.0), kappa=1.0, zeta=0.01)
    same = task(name, texts, latent, (1.0, 3.0))
    expected = oracle.flow_edit(same, network(name), zeta=0.01)[-1]
    assert relative_error(result, expected) < 1e-4
    assert relative_error(oracle.flow_edit(same, network(name))[-1], expected) > 1e-3


@pytest.mark.parametrize("name", ["SD 3.5", "Flux.2"])
def test_an_average_over_draws_is_flow_edits(name):
    texts, latent = conditioning(name, (20, 20, 20)), source(name, batch=2)
    guidance = (1.0, 2.0)
    _, result = edit(name, texts, latent, guidance, kappa=1.0, n_avg=3)
    averaged = task(name, texts, latent, guidance, draws=3)
    expected = oracle.flow_edit(averaged, network(name))[-1]
    assert relative_error(result, expected) < 1e-4


def require_same_steps(made: list[Tensor], expected: list[Tensor]) -> None:
    assert len(made) == len(expected) == STEPS
    errors = [relative_error(a, b) for a, b in zip(made, expected, strict=True)]
    assert max(errors) < 1e-4, errors
    changes = [relative_error(a, b) for a, b in zip(made, made[1:], strict=False)]
    assert min(changes) > 1e-2, changes


@pytest.mark.parametrize("name", NETWORKS)
def test_background_blending_keeps_the_source_in_every_step(name):
    """And in its cells alone: the masks are of pixels, 8 or 16 a cell."""
    texts, latent = conditioning(name, (20, 20, 20)), source(name, batch=2)
    height, width = latent.shape[-2:]
    cell = 16 if name == "Flux.2" else 8
    mask = box_mask(height * cell, width * cell, top=0, left=0, bottom=2 * cell, right=3 * cell)
    regions = make_regions([mask], ["a"], 0.0)
    keep = torch.ones(height, width)
    keep[:2, :3] = 0
    made, result = edit(
        name, texts, latent, (1.0, 3.0), lambda model: apply_background_blending(model, regions)
    )
    expected = oracle.infedit(task(name, texts, latent, (1.0, 3.0), keep=keep), network(name))
    require_same_steps(made, expected)
    assert relative_error(result, expected[-1]) < 1e-4


def test_a_strength_leaves_out_the_first_steps():
    name = "Flux.1"
    texts, latent = conditioning(name, (20, 20, 20)), source(name, batch=1)
    sigmas = lcm_sigmas(flow_model(name), 8, 0.5)
    assert sigmas.tolist() == pytest.approx(oracle.schedule(name, 8)[4:], abs=1e-6)
    whole = task(name, texts, latent, (1.0, 3.0))
    kept = replace(whole, sigmas=sigmas.tolist())
    model = flow_model(name)
    branches = (Branch("source", texts["source"]), Branch("target", texts["target"], 3.0))
    guider = BranchGuider(model, branches, texts["negative"], reuses_source=False)
    sampler = virtual_inversion_sampler(kappa=1.0)
    result = guider.sample(
        torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=SEED
    )
    result = model.get_model_object("latent_format").process_in(result)
    assert relative_error(result, oracle.flow_edit(kept, network(name))[-1]) < 1e-4


# -- planted mistakes ------------------------------------------------------------------------------


def exchange_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    level_at = noise_levels.level_at
    monkeypatch.setattr(
        virtual_inversion,
        "level_at",
        lambda sampling, sigma: Level(*reversed(astuple(level_at(sampling, sigma)))),
    )


def take_flow_for_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_inversion, "level_at", lambda sampling, sigma: Level(1.0, sigma))


def start_from_pure_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_inversion, "samples_by_flow", lambda sampling: False)


def give_all_rows_one_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_guider, "spread_guidance", lambda *_: None)


def exchange_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = branch_guider.spread_guidance

    def exchange(conds: Any, branches: Any, default: float) -> None:
        spread(conds, dict(zip(branches, reversed(branches.values()), strict=True)), default)

    monkeypatch.setattr(branch_guider, "spread_guidance", exchange)


def repeat_shorter_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for UNets, where repeated text changes nothing."""
    monkeypatch.setattr(branch_guider, "shares_rows", lambda branches: True)


def forget_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = type(flow_model("Flux.1").get_model_object("model_sampling"))
    monkeypatch.setattr(sampling, "percent_to_sigma", lambda self, percent: 1 - percent)


def begin_one_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = schedule.flow_shares
    monkeypatch.setattr(
        schedule, "flow_shares", lambda steps, strength: shares(steps + 1, strength)[1:]
    )


MISTAKES = (
    exchange_levels,
    take_flow_for_noise,
    start_from_pure_noise,
    give_all_rows_one_guidance,
    exchange_guidance,
    repeat_shorter_texts,
    forget_the_shift,
    begin_one_step_late,
)


@pytest.mark.parametrize("plant", MISTAKES, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_shows(plant, monkeypatch):
    name, guidance = "Flux.1", (1.0, 3.0)
    lengths = (20, 30, 20) if plant is repeat_shorter_texts else (20, 20, 20)
    texts, latent = conditioning(name, lengths), source(name, batch=1)
    expected = oracle.infedit(task(name, texts, latent, guidance), network(name))
    _, right = edit(name, texts, latent, guidance)
    assert relative_error(right, expected[-1]) < 1e-4
    plant(monkeypatch)
    _, wrong = edit(name, texts, latent, guidance)
    assert relative_error(wrong, expected[-1]) > 1e-3
