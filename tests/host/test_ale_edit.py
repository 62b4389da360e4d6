"""ALE Edit is the single nodes wired together, on a real VAE of ComfyUI's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import ale
from ale_edit.host.editing import edit_image
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.regions.paste import restore_size
from ale_edit.regions.regions import Regions
from ale_edit.tests.host.runs import guide, patched
from ale_edit.tests.nodes.graph import one
from ale_edit.tests.tiny import edits_of, generator, tiny_vae, two_boxes, two_regions


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae()


def image_of(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, height, width, 3, generator=generator(4))


SETTINGS = ale.ALESettings(steps=3, target_guidance=1.7, schedule=0.6, eta=0.9)


def run_node(model: Any, clip: Any, vae: Any, image: Tensor, pastes: bool) -> Tensor:
    """The node, with the settings above but for eta, which it does not have."""
    return one(
        "ALEEdit",
        model=model,
        clip=clip,
        vae=vae,
        image=image,
        edits=edits_of(),
        regions=two_regions(*image.shape[1:3]),
        seed=5,
        steps=3,
        target_guidance=1.7,
        edit_type="custom",
        schedule=0.6,
        paste_background=pastes,
    )


def test_one_node_is_the_single_nodes_wired_together(model, clip, vae):
    image, regions = image_of(64, 64, 2), two_regions()
    edits = edits_of(end_of_text="bos")
    made = edit_image(ale.EDITOR, SETTINGS, model, clip, vae, image, edits, 5, regions=regions)

    guider = guide(patched(model, regions, 0.6), clip, edits, (1.0, 1.7))
    latent = vae.encode(image)
    edited = guider.sample(
        torch.zeros_like(latent),
        latent,
        virtual_inversion_sampler(0.9),
        lcm_sigmas(model, 3, 1.0),
        disable_pbar=True,
        seed=5,
    )
    torch.testing.assert_close(made, vae.decode(edited), rtol=0, atol=1e-6)


@pytest.mark.parametrize("keeps_source_pixels", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (70, 67)])
def test_the_image_comes_back_at_its_exact_size(
    model, clip, vae, height, width, keeps_source_pixels
):
    image, regions = image_of(height, width), two_regions(height, width)
    made = run_node(model, clip, vae, image, keeps_source_pixels)
    assert made.shape == image.shape
    assert torch.isfinite(made).all()
    if keeps_source_pixels:
        background = regions.background.bool()
        assert torch.equal(made[:, background], image[:, background])
        plain = run_node(model, clip, vae, image, False)
        assert torch.equal(made[:, ~background], plain[:, ~background])
    else:
        cropped = vae.decode(vae.encode(image))
        assert restore_size(cropped, image, 8).shape == made.shape


@pytest.mark.parametrize("keeps_source_pixels", [False, True])
def test_the_alpha_of_an_image_stays_with_the_sources_pixels(model, clip, vae, keeps_source_pixels):
    """It changes nothing of the edit, and without paste_background the result has none."""
    image = image_of(67, 69)
    alpha = torch.rand(1, 67, 69, 1, generator=generator(6))
    made, expected = (
        run_node(model, clip, vae, i, keeps_source_pixels)
        for i in (torch.cat([image, alpha], dim=-1), image)
    )
    assert torch.equal(made[..., :3], expected)
    assert torch.equal(made[..., 3:], alpha if keeps_source_pixels else alpha[..., :0])


def test_strength_and_guidance_and_seed_reach_the_run(model, clip, vae):
    image, regions = image_of(64, 64), two_regions()

    def run(seed: int = 5, **changes: Any) -> Tensor:
        settings = replace(ale.ALESettings(steps=4), **changes)
        inputs = (ale.EDITOR, settings, model, clip, vae, image, edits_of(), seed)
        return edit_image(*inputs, regions=regions, reuses_source=False)

    first = run()
    assert torch.equal(run(), first)
    others = [run(6), run(strength=0.5), run(source_guidance=2.0), run(target_guidance=1.0)]
    others += [run(eta=0.5), run(schedule=1.0), run(steps=5)]
    assert not any(torch.equal(other, first) for other in others)


def test_without_regions_the_masks_of_the_edits_are_grown_to_them(model, clip, vae):
    image, edits = image_of(64, 64), edits_of(masks=two_boxes())

    def run(dilation: float, regions: Regions | None) -> Tensor:
        settings = replace(SETTINGS, dilation=dilation)
        inputs = (ale.EDITOR, settings, model, clip, vae, image, edits, 5)
        return edit_image(*inputs, regions=regions, reuses_source=False)

    for dilation in (0.0, 0.1):
        expected = run(0.0, two_regions(dilation=dilation))
        assert torch.equal(run(dilation, None), expected)
    assert not torch.equal(run(0.0, None), expected)
