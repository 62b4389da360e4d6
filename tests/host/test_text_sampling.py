"""The conditioning in the UNet of its family: what SDXL reads beside the tokens, and texts of
another family's encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.tests import families
from ale_edit.tests.host.runs import edit, generate, guide, patched, plain, side, with_option
from ale_edit.tests.host.text_by_hand import G, L, clip_of, stock
from ale_edit.tests.tiny import WIDTH, edits_of, source_latent, two_regions

WIDTHS = {"SD 1.5": WIDTH, "SD 2": WIDTH, "SDXL": L + G, "SDXL refiner": G}
SIZES = {"SDXL": 6, "SDXL refiner": 5}  # numbers beside the pooled vector
HEIGHT_WIDTH = (8, 16)  # of the latent

every_family = pytest.mark.parametrize("family", WIDTHS)


@cache
def model_of(family: str) -> Any:
    """The tiny UNet that reads the tiny text encoders of text_by_hand.py."""
    layout = {**families.FAMILIES[family].layout, "context_dim": WIDTHS[family]}
    if family in SIZES:
        layout["adm_in_channels"] = G + SIZES[family] * 256
    with torch.inference_mode():
        return replace(families.FAMILIES[family], layout=layout).model()


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_loaded() -> Iterator[None]:
    """pytest keeps the patched models of refused runs; ComfyUI would collect garbage at each later
    load because of them."""
    yield
    comfy.model_management.current_loaded_models.clear()


def recording(model: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A MODEL that notes what each call of the UNet is given."""
    seen: list[dict[str, Any]] = []

    def call(apply_model: Any, given: dict[str, Any]) -> Any:
        seen.append({**given["c"], "cond_or_uncond": given["cond_or_uncond"]})
        return apply_model(given["input"], given["timestep"], **given["c"])

    return with_option(model, lambda m: m.set_model_unet_function_wrapper(call)), seen


def rows_of(call: dict[str, Any], cond: int, name: str = "y") -> Tensor:
    """The rows of one call that belong to the positive (0) or negative (1) conditioning."""
    chunks = call[name].chunk(len(call["cond_or_uncond"]))
    return chunks[call["cond_or_uncond"].index(cond)]


def beside_pooled(model: Any, height: int, width: int, score: float | None) -> Tensor:
    """SDXL's image size, crop and size again; of the refiner, an aesthetic score."""
    size = [height * 8.0, width * 8.0]
    numbers = [*size, 0, 0, *(size if score is None else [score])]
    return torch.cat([model.model.embedder(torch.tensor([n])) for n in numbers], dim=1)


@pytest.mark.parametrize(("family", "score"), [("SDXL", None), ("SDXL refiner", 6.0)])
def test_sdxl_reads_the_pooled_vector_and_the_latents_own_size(family, score):
    """As behind a stock CLIP Text Encode: ComfyUI fills the sizes in from the latent."""
    clip, (model, seen) = clip_of(family), recording(model_of(family))
    text, (height, width) = "brown-colored goat and soccer ball", HEIGHT_WIDTH
    shape = (1, 4, height, width)
    generate(model, side(clip, edits_of(), "target"), plain(clip, ""), shape=shape)
    generate(model, plain(clip, text), plain(clip, ""), shape=shape)
    ours, stocks = seen[0], seen[len(seen) // 2]
    assert torch.equal(rows_of(ours, 0), rows_of(stocks, 0))
    expected = torch.cat([stock(clip, text)[1], beside_pooled(model, height, width, score)], dim=1)
    torch.testing.assert_close(rows_of(ours, 0), expected)


@pytest.mark.parametrize(
    ("choice", "source", "target"),
    [
        ("target", "wolf and yellow moon", "brown-colored goat and soccer ball"),
        ("source", "wolf and yellow moon", "wolf and yellow moon"),
        ("empty", "", ""),
    ],
)
def test_each_branch_of_an_edit_reads_its_pooled_vector(choice, source, target):
    clip, (model, seen) = clip_of("SDXL"), recording(model_of("SDXL"))
    guider = guide(model, clip, edits_of(pooled=choice), guidance=(3.0, 3.0), negative="blurry")
    edit(guider, source_latent(2), steps=1)
    (call,) = seen
    expected = [stock(clip, text)[1] for text in (source, source, target, target)]
    torch.testing.assert_close(rows_of(call, 0)[:, :G], torch.cat(expected))
    negative = stock(clip, "blurry")[1].expand(4, -1)
    torch.testing.assert_close(rows_of(call, 1)[:, :G], negative)


@every_family
def test_a_whole_edit_runs_with_its_familys_text(family):
    model, clip = model_of(family), clip_of(family)
    made = edit(guide(patched(model), clip), steps=2)
    other = edit(guide(patched(model), clip, edits_of([("wolf", "cat"), ("moon", "sun")])), steps=2)
    assert torch.isfinite(made).all() and not torch.allclose(made, other)


@pytest.mark.parametrize("family", ["SDXL", "SDXL refiner"])
def test_the_pooled_choice_changes_what_sdxl_makes(family):
    model, clip = model_of(family), clip_of(family)
    made = [
        edit(guide(patched(model), clip, edits_of(pooled=choice)), steps=2)
        for choice in ("target", "source", "empty")
    ]
    assert not any(torch.allclose(a, b, atol=1e-3) for a in made for b in made if a is not b)


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2"])
def test_the_pooled_choice_changes_nothing_elsewhere(family):
    model, clip = model_of(family), clip_of(family)
    made = [
        edit(guide(patched(model), clip, edits_of(pooled=choice)), steps=2)
        for choice in ("target", "source", "empty")
    ]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


@pytest.mark.parametrize("choice", ["target", "source", "empty"])
def test_regional_generation_reads_the_chosen_pooled_vector(choice):
    clip, (model, seen) = clip_of("SDXL"), recording(model_of("SDXL"))
    positive = side(clip, edits_of(pooled=choice), "target")
    generate(apply_rgb_cam(model, two_regions()), positive, plain(clip, ""))
    texts = {
        "target": "brown-colored goat and soccer ball",
        "source": "wolf and yellow moon",
        "empty": "",
    }
    expected = stock(clip, texts[choice])[1]
    assert all(torch.equal(rows_of(call, 0)[:, :G], expected) for call in seen)


@pytest.mark.parametrize(
    ("model", "clip"),
    [("SD 1.5", "SDXL"), ("SDXL", "SD 1.5"), ("SDXL", "SDXL refiner"), ("SDXL refiner", "SDXL")],
)
def test_the_text_of_another_family_is_refused_before_the_first_call(model, clip):
    counted, seen = recording(model_of(model))
    own, other = clip_of(model), clip_of(clip)
    widths = f"{WIDTHS[clip]} channels a token, the model expects {WIDTHS[model]}"
    with pytest.raises(
        ValueError, match=f"Two-Branch Guider: the text of the source input .*{widths}.*Connect"
    ):
        edit(guide(counted, other))
    chain, positive = apply_rgb_cam(counted, two_regions()), side(other, edits_of(), "target")
    with pytest.raises(ValueError, match=f"Region Cross-Attention: .*{widths}.*Connect"):
        generate(chain, positive, plain(own, ""))
    assert not seen


@pytest.mark.parametrize(
    ("width", "expected", "parts"),
    [
        (2048, 768, ["2048 (SDXL) channels", "expects 768 (SD 1.5)"]),
        (768, 2048, ["768 (SD 1.5) channels", "expects 2048 (SDXL)"]),
        (1280, 1024, ["1280 (SDXL's refiner)", "1024 (SD 2)"]),
        (64, 1024, ["has 64 channels", "1024 (SD 2)"]),
    ],
)
def test_the_refusal_names_the_families_of_true_widths(width, expected, parts):
    from ale_edit.host.sampling.run_checks import require_width

    with pytest.raises(ValueError) as error:
        require_width("target", width, expected, "Two-Branch Guider")
    for part in ("Two-Branch Guider: the text of the target input", *parts, "Connect the CLIP"):
        assert part in str(error.value)
