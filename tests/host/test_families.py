"""What must be true of every edit, on every UNet family (families.py)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import torch
from torch import Tensor

from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.text.conditioning import ORE_KEY, make_conditioning
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.regions.regions import make_regions
from ale_edit.tests.families import (
    FAMILIES,
    conditioning,
    family_model,
    plain_conditioning,
    pooled,
    random_ore,
)
from ale_edit.tests.host.published_form import calls_of, no_free_memory, published_form
from ale_edit.tests.host.runs import (
    edit,
    generate,
    patched,
    relative_error,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.host.test_run_state import state_of
from ale_edit.tests.host.test_source_branch import Counted
from ale_edit.tests.host.test_two_branch_guider import edit_by_two_runs
from ale_edit.tests.tiny import source_latent, two_boxes, two_regions

NAMES = ["wolf", "moon"]
SOURCE, TARGET, NEGATIVE = 20, 30, 40  # seeds of the texts
OFF: dict[str, Any] = {"ore": False, "rgb_cam": False, "blending": False}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """The MODEL of each family in turn."""
    return family_model(request.param)


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """ComfyUI collects garbage at every load of a model; what is alive now need not be asked."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def guide(
    model: Any,
    guidance: tuple[float, float] = (1.0, 2.0),
    source: Any = None,
    target: Any = None,
    negative: Any = None,
    reuses_source: bool = False,
) -> BranchGuider:
    return two_branch_guider(
        model,
        source or conditioning(SOURCE),
        target or conditioning(TARGET),
        negative or plain_conditioning(NEGATIVE),
        guidance,
        reuses_source,
    )


# -- the layers ------------------------------------------------------------------------------------


def test_every_cross_attention_layer_is_found_under_the_key_that_comfyui_calls_it_by(family):
    called: set[tuple[str, int, int]] = set()

    def note(n: Tensor, context: Tensor, value: Tensor, options: Any) -> Any:
        called.add((*options["block"], options["block_index"]))
        return n, context, value

    noting = with_option(family, lambda m: m.set_model_attn2_patch(note))
    generate(noting, conditioning(TARGET), plain_conditioning(NEGATIVE), steps=1)
    layers = cross_attention_layers(family.model.diffusion_model)
    assert layers.keys() == called
    named = family.model.diffusion_model.named_modules()
    assert {id(m) for name, m in named if name.endswith("attn2")} == {
        id(layer) for layer in layers.values()
    }


# -- off is off ------------------------------------------------------------------------------------


def test_strength_0_is_the_unpatched_model_bit_for_bit(family):
    off = apply_rgb_cam(family, two_regions(), 0.0)
    texts = conditioning(TARGET), plain_conditioning(NEGATIVE)
    assert torch.equal(generate(off, *texts), generate(family, *texts))
    assert torch.equal(edit(guide(off)), edit(guide(family)))


@pytest.mark.ci
def test_equal_prompts_and_guidance_return_the_source_latent(family):
    latent, text = source_latent(), conditioning(TARGET, **OFF)
    made = edit(guide(patched(family), (2.0, 2.0), text, text), latent, steps=15)
    print(f"source returned: {relative_error(made, latent):.1e} of its std")
    assert relative_error(made, latent) < 1e-4


def test_nothing_is_left_on_the_model(family):
    before = state_of(family)
    chain = patched(family)
    with_nodes = state_of(chain)
    edit(guide(chain), steps=2)
    assert state_of(chain) == with_nodes
    assert state_of(family) == before


# -- oracles: stock nodes wired by hand ------------------------------------------------------------


def test_an_edit_without_patches_is_two_stock_runs(family):
    """So each branch has its own text, pooled vector, image and time."""
    guidance = (1.5, 2.0)
    texts = conditioning(SOURCE), conditioning(TARGET), plain_conditioning(NEGATIVE)
    made = edit(guide(family, guidance, *texts))
    expected = edit_by_two_runs(family, None, guidance, conds=texts)
    print(f"two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, source_latent()) > 0.02


def test_rgb_cam_is_the_published_form(family):
    positive, negative = conditioning(TARGET), plain_conditioning(NEGATIVE)
    regions = two_regions(128, 96, 0.03)

    def image(model: Any) -> Tensor:
        return generate(model, positive, negative, shape=(2, 4, 16, 12), sampler="lcm")

    made = image(apply_rgb_cam(family, regions))
    expected = image(published_form(family, positive[0][1][ORE_KEY], regions))
    print(f"published form wired by hand: {relative_error(made, expected):.1e} of its std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, image(family)) > 0.02


def test_one_object_under_a_mask_of_ones_is_plain_attention_with_its_embedding(family):
    ore = random_ore(1, TARGET)
    positive, negative = make_conditioning(ore, pooled(TARGET)), plain_conditioning(NEGATIVE)
    regions = make_regions([torch.ones(64, 64)], ["wolf"], 0.0)
    made = generate(apply_rgb_cam(family, regions), positive, negative)

    def its_own(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        context, value = context.clone(), value.clone()
        kinds = options["cond_or_uncond"]
        for kind, k, v in zip(kinds, *(t.chunk(len(kinds)) for t in (context, value)), strict=True):
            if kind == 0:
                k[:], v[:] = ore.keys, ore.values[0]
        return n, context, value

    expected = generate(
        with_option(family, lambda m: m.set_model_attn2_patch(its_own)), positive, negative
    )
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, generate(family, positive, negative)) > 0.02


# -- symmetries ------------------------------------------------------------------------------------


@pytest.mark.ci
def test_the_order_of_the_objects_changes_nothing(family):
    """On grids of 2x2 cells and more: on one cell, two objects cannot both have their own."""
    ore, masks, latent = random_ore(2, TARGET), two_boxes(128, 128), source_latent(1, 16, 16)
    turned = replace(
        ore,
        values=ore.values[[1, 0, 2]],
        owner=torch.tensor([1, 0, -1])[ore.owner],
        phrases=ore.phrases[::-1],
    )

    def run(ore: ObjectRestrictedEmbeddings, masks: list[Tensor]) -> Tensor:
        chain = patched(family, make_regions(masks, NAMES, 0.02))
        return edit(guide(chain, target=make_conditioning(ore, pooled(TARGET))), latent, steps=2)

    expected = run(ore, masks)
    assert relative_error(run(turned, masks[::-1]), expected) < 1e-5
    assert relative_error(run(ore, masks[::-1]), expected) > 1e-3


@pytest.mark.ci
def test_item_j_of_a_batch_is_the_single_edit_at_seed_plus_j(family):
    batch, chain = source_latent(2), patched(family)
    made = edit(guide(chain), batch, seed=7, steps=3)
    for j in range(2):
        alone = edit(guide(chain), batch[j : j + 1], seed=7 + j, steps=3)
        assert relative_error(made[j : j + 1], alone) < 1e-4
    assert relative_error(made[1:], edit(guide(chain), batch[1:], seed=7, steps=3)) > 1e-2


@pytest.mark.ci
def test_short_of_memory_gives_the_same_edit(family, monkeypatch):
    """ComfyUI then runs one conditioning a call."""
    chain, latent, made = patched(family), source_latent(2), []
    expected = edit(guide(chain, (1.5, 2.0)), latent)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_free_memory)
    calls = calls_of(chain, lambda m: made.append(edit(guide(m, (1.5, 2.0)), latent)))
    assert [len(call) for call in calls] == [1] * 8
    print(f"separate passes: {relative_error(made[0], expected):.1e} of the std")
    assert relative_error(made[0], expected) < 1e-4


@pytest.mark.ci
def test_an_edit_that_reuses_the_source_branch_is_the_same_edit(family, monkeypatch):
    chain, latent, counted = patched(family), source_latent(2), Counted(monkeypatch, family)

    def run(target: Any, reuses_source: bool) -> tuple[Tensor, int]:
        guider = guide(chain, target=target, reuses_source=reuses_source)
        return counted.of(lambda: edit(guider, latent))

    run(conditioning(TARGET), True)
    other = conditioning(TARGET + 5)
    (made, rows), (expected, all_rows) = run(other, True), run(other, False)
    print(f"re-edit: {relative_error(made, expected):.1e} of the std")
    assert rows == all_rows / 2
    assert relative_error(made, expected) < 1e-4


def test_blending_keeps_the_background_exactly(family):
    latent, regions = source_latent(2), two_regions()
    made = edit(guide(patched(family, regions)), latent)
    keeps = background_weights(regions, 8, 8, "paper", is_soft=False, cell=8)
    assert keeps.any() and not keeps.all()
    # ComfyUI scales latents on the way in and back
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=5e-7, atol=1e-6)
    assert ((made - latent)[..., ~keeps].abs().amax(dim=1) > 1e-3).all()
