"""Word Attention Maps: the maps are the model's own, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.word_maps import map_words
from ale_edit.host.inverting.invert import invert_image
from ale_edit.host.sampling.noise_levels import level_at
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.inversion.update_rule import ItemNoise, noise_image
from ale_edit.tests.host.runs import plain, relative_error
from ale_edit.tests.tiny import source_latent

pytestmark = pytest.mark.comfy

PROMPT = "grey wolf and yellow moon"
ROWS = {"wolf": [2], "yellow moon": [4, 5]}


def maps_of(model: Any, clip: Any, latent: Tensor, **given: Any) -> Tensor:
    usual = {"steps": 4, "first_share": 0.0, "last_share": 1.0, "seed": 7}
    names, maps = map_words(model, clip, latent, PROMPT, "wolf, yellow moon", **{**usual, **given})
    assert names == list(ROWS)
    return maps


def maps_by_hand(
    model: Any,
    clip: Any,
    latents: list[Tensor],
    sigmas: list[float],
    grid: tuple[int, int] | None = None,
    texts: Tensor | None = None,
) -> Tensor:
    """Of layers on a grid, by default the finest one, without the middle one; one image. texts: of
    each step, by default that of the prompt."""
    from comfy.ldm.modules.attention import CrossAttention

    network = model.model.diffusion_model
    found: list[Tensor] = []

    def record(module: Any, inputs: Any, kwargs: Any) -> None:
        x, text = inputs[0], kwargs["context"]
        q, k = (t.unflatten(-1, (module.heads, -1)) for t in (module.to_q(x), module.to_k(text)))
        scores = torch.einsum("blhd,bnhd->bhln", q, k) / q.shape[-1] ** 0.5
        found.append(scores.softmax(-1).sum((0, 1)))

    hooks = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for name, module in network.named_modules()
        if isinstance(module, CrossAttention)
        and name.endswith("attn2")
        and not name.startswith("middle_block")
    ]
    same = plain(clip, PROMPT)[0][0].repeat(len(latents), 1, 1, 1)
    each_text = same if texts is None else texts
    try:
        with torch.inference_mode():
            for latent, sigma, text in zip(latents, sigmas, each_text, strict=True):
                model.model.apply_model(latent, torch.tensor([sigma]), c_crossattn=text)
    finally:
        for hook in hooks:
            hook.remove()
    height, width = grid or latents[0].shape[-2:]
    finest = sum(own for own in found if own.shape[0] == height * width)
    maps = torch.stack([finest[:, rows].sum(-1) for rows in ROWS.values()])  # pyright: ignore
    return (maps / maps.amax(-1, keepdim=True)).unflatten(-1, (height, width))


def scaled(model: Any, latent: Tensor) -> Tensor:
    return model.model.process_latent_in(latent)


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.25, 0.75)])
def test_maps_are_those_of_the_noised_image(model, clip, shares):
    latent = source_latent(1, 8, 12)
    found = maps_of(model, clip, latent, first_share=shares[0], last_share=shares[1])
    x0 = scaled(model, latent)
    noise = ItemNoise(7, x0.shape).draw(x0)
    sigmas = sigmas_of(model, Schedule(4)).tolist()[:-1]
    chosen = sigmas[int(4 * shares[0]) : int(4 * shares[1])]
    sampling = model.get_model_object("model_sampling")
    noised = [noise_image(x0, noise, level_at(sampling, sigma)) for sigma in chosen]
    assert float((found[0] - maps_by_hand(model, clip, noised, chosen)).abs().max()) < 1e-4


@pytest.mark.ci
@pytest.mark.parametrize(
    ("size", "grid"), [((48, 80), (24, 40)), ((72, 72), (18, 18)), ((48, 48), (24, 24))]
)
def test_maps_at_640x384_576x576_and_384x384_pixels(model, clip, size, grid):
    """On the coarsest grid with at least 16 cells on its short side."""
    latent = source_latent(1, *size)
    inversion: Inversion = invert_image(model, plain(clip, ""), latent, Schedule(1), "")
    found = maps_of(model, clip, latent, inversion=inversion)
    latents, sigmas = list(inversion.latents[:-1]), list(inversion.sigmas[:-1])
    expected = maps_by_hand(model, clip, latents, sigmas, grid)
    assert found.shape == (1, 2, *grid)
    assert float((found[0] - expected).abs().max()) < 1e-4


def test_an_inversion_gives_the_latents_to_look_at(model, clip):
    latent = source_latent(1, 8, 12)
    inversion: Inversion = invert_image(model, plain(clip, ""), latent, Schedule(3), "")
    found = maps_of(model, clip, latent, inversion=inversion)
    expected = maps_by_hand(model, clip, list(inversion.latents[:-1]), list(inversion.sigmas[:-1]))
    assert float((found[0] - expected).abs().max()) < 1e-4
    with pytest.raises(ValueError, match="Word Attention Maps: the inversion holds latents of"):
        maps_of(model, clip, source_latent(1, 8, 8), inversion=inversion)


def test_words_that_an_inversion_learned_have_the_maps_of_what_it_learned(model, clip):
    """With its own prompt alone."""
    latent = source_latent(1, 8, 12)
    inversion: Inversion = invert_image(model, plain(clip, PROMPT), latent, Schedule(3), PROMPT)
    latents, sigmas = list(inversion.latents[:-1]), list(inversion.sigmas[:-1])
    texts = torch.stack([plain(clip, text)[0][0] for text in ("a goat", "brown fox", "red hat")])
    learned = replace(inversion, word_texts=texts)
    found = maps_of(model, clip, latent, inversion=learned)
    expected = maps_by_hand(model, clip, latents, sigmas, None, texts)
    assert float((found[0] - expected).abs().max()) < 1e-4
    of_another_prompt = maps_of(model, clip, latent, inversion=replace(learned, prompt="a house"))
    plain_maps = maps_by_hand(model, clip, latents, sigmas)
    assert float((of_another_prompt[0] - plain_maps).abs().max()) < 1e-4
    assert float((found - of_another_prompt).abs().max()) > 0.01


def test_item_j_of_a_batch_is_the_single_one_at_seed_plus_j(model, clip):
    latent = source_latent(2)
    both = maps_of(model, clip, latent)
    assert relative_error(both[1:], maps_of(model, clip, latent[1:], seed=8)) < 1e-4
    assert float(both.amax((-1, -2)).min()) == 1 and float(both.min()) >= 0


def test_all_words_of_the_prompt_are_shown_once_where_none_is_named(model, clip):
    prompt = "a (grey:1.2) wolf and a moon"
    names, maps = map_words(
        model, clip, source_latent(), prompt, "", steps=2, first_share=0, last_share=1, seed=0
    )
    assert names == ["a", "grey", "wolf", "and", "moon"] and maps.shape == (1, 5, 8, 8)
