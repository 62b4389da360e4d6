"""Edits by flow transformers: guider, sampler, schedule and blending, without attention control."""

from __future__ import annotations

import comfy.patcher_extension
import pytest
import torch
from torch import Tensor

from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
from ale_edit.host.sampling.latents import pixels_per_cell
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.flow_models import MODELS, flow_latent, flow_model, flow_text
from ale_edit.tests.host.runs import relative_error, two_branch_guider
from ale_edit.tests.tiny import box_mask

NAMES = list(MODELS)


def edit(guider, latent: Tensor, kappa: float = 0.0, steps: int = 3, seed: int = 5) -> Tensor:
    sampler, sigmas = (
        virtual_inversion_sampler(1.0, kappa),
        lcm_sigmas(guider.model_patcher, steps, 1.0),
    )
    zeros = torch.zeros_like(latent)
    return guider.sample(zeros, latent, sampler, sigmas, disable_pbar=True, seed=seed)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_equal_texts_at_equal_guidance_return_the_source(name, kappa):
    text, latent = flow_text(name, 1), flow_latent(name, batch=2, height=6)
    guider = two_branch_guider(flow_model(name), text, text, flow_text(name, 9, 12), (2.0, 2.0))
    made = edit(guider, latent, kappa)
    in_model = flow_model(name).get_model_object("latent_format").process_in
    torch.testing.assert_close(in_model(made), in_model(latent), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_branches_in_turn_are_those_together(name):
    texts = [flow_text(name, seed, 20) for seed in (1, 2)]
    latent = flow_latent(name, batch=2, height=6)
    made = []
    for evaluation in ("together", "in turn"):
        branches = (Branch("source", texts[0], 1.5), Branch("target", texts[1], 3.0))
        guider = BranchGuider(
            flow_model(name), branches, flow_text(name, 9, 12), evaluation=evaluation,
            reuses_source=False,
        )  # fmt: skip
        made.append(edit(guider, latent))
    assert relative_error(*made) < 1e-4
    assert relative_error(made[0], latent) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_unequal_length_are_calls_of_their_own(name):
    """Joint attention has no text mask: a text that another one's length stretches is another
    text."""
    source, target = flow_text(name, 1, 20), flow_text(name, 2, 33)
    negative, latent = flow_text(name, 9, 12), flow_latent(name)
    guider = two_branch_guider(flow_model(name), source, target, negative, (1.0, 3.0))
    seen = record_texts(guider)
    made = edit(guider, latent)
    lengths = {20, 33, 12}
    if name == "Flux.2":
        lengths = {512}  # its model pads to the left
    assert set(seen) == lengths
    assert relative_error(made, latent) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_blending_keeps_the_background_to_the_bit(name):
    model, latent = flow_model(name), flow_latent(name, batch=2)
    cell = pixels_per_cell(model)
    mask = box_mask(8 * cell, 8 * cell, top=0, left=0, bottom=4 * cell, right=8 * cell)
    regions = make_regions([mask], ["a"], 0.0)
    source, target, negative = (flow_text(name, seed) for seed in (1, 2, 3))
    for kappa in (0.0, 1.0):
        guider = two_branch_guider(
            apply_background_blending(model, regions), source, target, negative
        )
        made = edit(guider, latent, kappa)
        below = (made - latent)[..., 4:, :]
        above = (made - latent)[..., :4, :]
        assert below.abs().max() < 1e-5, name
        assert above.abs().max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_an_item_of_a_batch_is_the_run_at_its_seed(name):
    source, target, negative = (flow_text(name, seed, 20) for seed in (1, 2, 3))
    latent = flow_latent(name, batch=2, height=6)
    both = edit(two_branch_guider(flow_model(name), source, target, negative), latent, kappa=0.5)
    alone = edit(
        two_branch_guider(flow_model(name), source, target, negative), latent[1:], kappa=0.5, seed=6
    )
    assert relative_error(both[1:], alone) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_source_branch_of_the_last_edit_serves_the_next(name):
    model, latent = MODELS[name].build(), flow_latent(name)
    source, first, second, negative = (flow_text(name, seed, 20) for seed in (1, 2, 3, 4))
    edit(two_branch_guider(model, source, first, negative), latent)
    again = edit(two_branch_guider(model, source, second, negative), latent)
    fresh = edit(two_branch_guider(model, source, second, negative, reuses_source=False), latent)
    assert relative_error(again, fresh) < 1e-4


@pytest.mark.parametrize("name", ["Flux.1", "Flux.2"])
def test_each_branch_has_its_own_embedded_guidance(name):
    """Rows of one call, and calls of their own, where the guidance of a text is its own number."""
    latent = flow_latent(name, batch=2)
    texts = [flow_text(name, 1, 20, guidance=1.5), flow_text(name, 2, 20, guidance=5.5)]
    made = []
    for evaluation in ("together", "in turn"):
        branches = (Branch("source", texts[0]), Branch("target", texts[1]))
        guider = BranchGuider(
            flow_model(name), branches, texts[0], evaluation=evaluation, reuses_source=False
        )
        made.append(edit(guider, latent))
    assert relative_error(*made) < 1e-4
    same = [flow_text(name, 1, 20, guidance=5.5), texts[1]]
    branches = (Branch("source", same[0]), Branch("target", same[1]))
    other = edit(BranchGuider(flow_model(name), branches, texts[0], reuses_source=False), latent)
    assert relative_error(made[0], other) > 1e-2


def record_texts(guider: BranchGuider) -> list[int]:
    """The lengths of the texts of each later call of the model."""
    seen: list[int] = []

    def wrapper(executor, x, t, concat, context, *args, **kwargs):
        seen.append(context.shape[1])
        return executor(x, t, concat, context, *args, **kwargs)

    comfy.patcher_extension.add_wrapper(
        "apply_model", wrapper, guider.model_options, is_model_options=True
    )
    return seen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_avg": 0}, "n_avg is 0. Set it to 1 or more."),
        ({"n_avg": 2, "eta": 0.5}, "n_avg is 2 and eta 0.5.*Set eta to 1, or n_avg to 1."),
        ({"zeta": 1.5}, "zeta is 1.5. Set it between 0 and 1."),
    ],
)
def test_settings_that_no_run_can_have(settings, words):
    with pytest.raises(ValueError, match=words):
        virtual_inversion_sampler(**settings)


def test_draws_of_noise_keep_no_source_branch():
    assert virtual_inversion_sampler().keeps_source_apart
    assert not virtual_inversion_sampler(n_avg=2).keeps_source_apart
