"""Edit-friendly inversion in ComfyUI: any number of steps gives the image back, batches, seeds,
interruption, and the maps' variance on the demo model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from ale_edit.host.inverting.methods import invert_by
from ale_edit.host.inverting.sampler import inversion_sampler
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.sampling.branch_inputs import Branch
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.tests.host.runs import plain
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model
from ale_edit.tests.tiny import source_latent

pytestmark = pytest.mark.comfy

PROMPT = "grey wolf and yellow moon"
GUIDANCE = 3.5
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(scope="module")
def network() -> Any:
    """A random network whose output is of the size of its noise."""
    return comfy_model()


@pytest.fixture(scope="module")
def words() -> Any:
    return comfy_clip()


def invert(network: Any, words: Any, latent: Tensor, schedule: Schedule, **changed: Any) -> Any:
    usual = {"negative": plain(words, ""), "guidance": GUIDANCE, "callback": lambda *_: None}
    text = plain(words, PROMPT)
    return invert_by(
        "edit-friendly", network, text, latent, schedule, PROMPT, **{**usual, **changed}
    )


def sample(
    network: Any,
    words: Any,
    latent: Tensor,
    inversion: Inversion,
    prompt: str = PROMPT,
    guidance: float = GUIDANCE,
    source_guidance: float = 1.0,
    **options: Any,
) -> Tensor:
    branches = (
        Branch("source", plain(words, PROMPT), source_guidance),
        Branch("target", plain(words, prompt), guidance),
    )
    return BranchGuider(network, branches, plain(words, ""), reuses_source=False).sample(
        torch.zeros_like(latent),
        latent,
        inversion_sampler(inversion),
        sigmas_of(network, inversion.schedule),
        disable_pbar=True,
        seed=0,
        **options,
    )


def error(made: Tensor, latent: Tensor) -> float:
    return float((made - latent).abs().max() / latent.std())


@pytest.mark.parametrize(
    "schedule",
    [
        *(Schedule(steps) for steps in (1, 2, 5, 30)),
        *(Schedule(steps, time_steps="LCM") for steps in (1, 15, 50)),
        Schedule(100, 0.64),
        Schedule(10, 0.1),
    ],
    ids=str,
)
def test_the_image_comes_back_in_any_number_of_steps(network, words, schedule):
    latent = source_latent(2)
    inversion = invert(network, words, latent, schedule)
    found = error(sample(network, words, latent, inversion), latent)
    print(f"{schedule}: {found:.1e}")
    assert found <= 1e-5


def test_another_prompt_or_guidance_is_an_edit(network, words):
    latent = source_latent(1)
    inversion = invert(network, words, latent, Schedule(10))
    for prompt, guidance in (("brown goat", GUIDANCE), (PROMPT, 15.0)):
        made = sample(network, words, latent, inversion, prompt, guidance)
        assert error(made, latent) > 0.1


def test_the_guidance_of_the_source_branch_does_not_matter(network, words):
    """It takes the stored latents."""
    latent = source_latent(1)
    inversion = invert(network, words, latent, Schedule(5))
    made = [
        sample(network, words, latent, inversion, "brown goat", source_guidance=g)
        for g in (1.0, 9.0)
    ]
    assert error(made[1], made[0]) <= 1e-4


def test_item_j_of_a_batch_is_the_single_run_at_seed_plus_j(network, words):
    latent = source_latent(2)
    both = invert(network, words, latent, Schedule(4), seed=7)
    assert both.noise_maps is not None
    for j in range(2):
        alone = invert(network, words, latent[j : j + 1], Schedule(4), seed=7 + j)
        assert alone.noise_maps is not None
        assert torch.allclose(alone.noise_maps[:, 0], both.noise_maps[:, j], atol=1e-4)
    other = invert(network, words, latent, Schedule(4), seed=8)
    assert other.noise_maps is not None
    assert not torch.allclose(other.noise_maps[:-1], both.noise_maps[:-1], atol=0.1)


def test_a_noise_mask_keeps_the_image_where_it_is_0(network, words):
    latent = source_latent(1)
    inversion = invert(network, words, latent, Schedule(8))
    mask = torch.zeros(1, 1, *latent.shape[-2:])
    mask[..., : latent.shape[-1] // 2] = 1
    made = sample(network, words, latent, inversion, "brown goat", 9.0, denoise_mask=mask)
    edited, kept = ((made - latent)[mask.expand_as(made) == side].abs().max() for side in (1, 0))
    assert float(kept) <= 1e-5 and float(edited) > 0.1


# -- interruption ------------------------------------------------------------------------------


def stop_at(last: int) -> Callable[..., None]:
    def callback(step: int, *args: Any) -> None:
        if step == last:
            raise Interrupted

    return callback


@pytest.mark.parametrize("step", range(4))
def test_cancel_stops_at_every_step_and_the_next_run_is_right(network, words, step):
    latent, schedule = source_latent(1), Schedule(4)
    with pytest.raises(Interrupted):
        invert(network, words, latent, schedule, callback=stop_at(step))
    inversion = invert(network, words, latent, schedule)
    with pytest.raises(Interrupted):
        sample(network, words, latent, inversion, callback=stop_at(step))
    assert error(sample(network, words, latent, inversion), latent) <= 1e-5


# -- on a trained model ------------------------------------------------------------------------


def test_maps_of_the_demo_model_have_more_variance_than_normal_noise():
    """The paper's figure of the deviation of its maps, here over the steps of the demo model."""
    from ale_edit.demo.render import render
    from ale_edit.demo.scenes import make_scene
    from ale_edit.tests.nodes.graph import run

    model, clip, vae = run("ALEDemoModelLoader")[:3]
    image = render(make_scene(1, 1))[0]
    latent = vae.encode(image[None])
    inversion = invert(model, clip, latent, Schedule(20))
    assert inversion.noise_maps is not None
    deviations = inversion.noise_maps[:-1].flatten(1).std(1)
    print("deviation of the maps:", [f"{d:.2f}" for d in deviations.tolist()])
    assert float(deviations.min()) > 1.05
