"""What is not finite never becomes an image without a word; and grey pictures are edited."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ale_edit.editors import EDITORS
from ale_edit.tests.nodes.bad_input import World, regions
from ale_edit.tests.nodes.graph import edits_with_masks, one, picture, run

ENDED = "this run ended with NaN or infinite values, which make no image. Start ComfyUI with"


@pytest.fixture(scope="module")
def world(model: Any, clip: Any, vae: Any) -> World:
    return World(model, clip, vae)


def broken(model: Any, value: float) -> Any:
    """The model as one that overflows in half precision."""

    def call(apply_model: Callable[..., Any], args: dict[str, Any]) -> Any:
        return apply_model(args["input"], args["timestep"], **args["c"]) * value

    made = model.clone()
    made.set_model_unet_function_wrapper(call)
    return made


class Overflowing:
    """A VAE that decodes as one that overflows in half precision."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self._vae.encode(image)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        made = self._vae.decode(samples)
        made[0, 3, 4, 1] = math.nan
        return made


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_overflows_is_refused_and_the_next_edit_is_right(
    world: World, value: float
) -> None:
    model = broken(world.model, value)
    before = world.edit()[0]
    with pytest.raises(ValueError, match=f"^ALE Edit: {ENDED}"):
        world.edit(model=model, reuse_source=True)
    with pytest.raises(ValueError, match=f"^Two-Branch Guider: {ENDED}"):
        world.sample(world.guide(model))
    assert torch.equal(world.edit()[0], before)
    assert torch.equal(world.edit(reuse_source=True)[0], before)


def breaking(model: Any, call: int) -> Any:
    """The model, which overflows from a call on."""
    calls: list[int] = []

    def run(apply_model: Callable[..., Any], args: dict[str, Any]) -> Any:
        calls.append(1)
        out = apply_model(args["input"], args["timestep"], **args["c"])
        return out * math.nan if len(calls) > call else out

    made = model.clone()
    made.set_model_unet_function_wrapper(run)
    return made


OVERFLOWS = [
    # from the image to noise; the first step goes nowhere, without a call
    ("DDIM", 0, "2 of 4"),
    ("direct", 2, "4 of 4"),
    ("negative-prompt", 1, "3 of 4"),
    ("null-text", 1, "3 of 4"),
    ("edit-friendly", 0, "1 of 4"),  # from noise to the image
    ("edit-friendly", 2, "3 of 4"),
]


@pytest.mark.parametrize(("method", "call", "step"), OVERFLOWS)
def test_an_inversion_that_overflows_names_its_step(
    world: World, method: str, call: int, step: str
) -> None:
    """In the order in which it runs."""
    latent = {"samples": world.vae.encode(picture())}
    inputs = {"clip": world.clip, "latent": latent, "steps": 4, "prompt": "wolf", "method": method}
    said = f"^Invert Image: step {step} of the inversion gave NaN or infinite values. Start ComfyUI"
    with pytest.raises(ValueError, match=said):
        one("ALEInvertImage", model=breaking(world.model, call), **inputs)


def test_null_texts_that_overflow_name_their_step(world: World) -> None:
    """After 3 calls of the inversion, and those of the first step."""
    latent = {"samples": world.vae.encode(picture())}
    inputs = {"clip": world.clip, "latent": latent, "steps": 4, "prompt": "wolf"}
    model = breaking(world.model, 3)
    with pytest.raises(ValueError, match=r"^Invert Image: the error at step 1 of 4 is \[nan\]\."):
        one("ALEInvertImage", model=model, method="null-text", **inputs)


def test_a_noise_mask_of_nan_is_refused(world: World) -> None:
    latent = {
        "samples": world.vae.encode(picture()),
        "noise_mask": torch.full((1, 64, 64), math.nan),
    }
    with pytest.raises(ValueError, match=ENDED):
        world.sample(latent_image=latent)


def test_a_vae_that_overflows_is_refused(world: World) -> None:
    vae = Overflowing(world.vae)
    usual = {"model": world.model, "clip": world.clip, "image": picture()}
    usual["edits"] = edits_with_masks()
    for editor in EDITORS:
        with pytest.raises(
            ValueError, match=f"^{re.escape(editor.title)}: the vae input makes a picture of n"
        ):
            run(editor.node_id, **usual, vae=vae, steps=2)


def test_a_grey_picture_is_edited_and_pasted_as_one_of_three_equal_channels(world: World) -> None:
    grey = picture()[..., :1]
    colours = grey.expand(-1, -1, -1, 3)
    for pastes in (False, True):
        found, expected = (world.edit(image=i, paste_background=pastes)[0] for i in (grey, colours))
        assert found.shape == (1, 64, 64, 3) and torch.equal(found, expected)
    pasted = [
        one("ALEPasteBackground", edited=picture(seed=3), source=source, regions=regions())
        for source in (grey, colours)
    ]
    assert torch.equal(*pasted)


def test_word_attention_maps_take_a_grey_picture_and_refuse_a_tiny_one(world: World) -> None:
    usual = {"model": world.model, "clip": world.clip, "vae": world.vae, "prompt": "wolf"}
    usual |= {"words": "wolf", "steps": 2}
    grey = picture()[..., :1]
    sheets = [
        one("ALEWordAttentionMaps", **usual, image=image)
        for image in (grey, grey.expand(-1, -1, -1, 3))
    ]
    assert torch.equal(*sheets)
    with pytest.raises(ValueError, match="^Word Attention Maps: the image input is 7x5"):
        one("ALEWordAttentionMaps", **usual, image=picture()[:, :7, :5])
