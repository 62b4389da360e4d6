"""Weights of every type, and weights that are not where they run: low VRAM and offloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.tests.families import FAMILIES, conditioning, family_model, plain_conditioning
from ale_edit.tests.host.published_form import published_form
from ale_edit.tests.host.runs import edit, generate, patched, relative_error, with_option
from ale_edit.tests.host.test_families import NEGATIVE, SOURCE, TARGET, guide
from ale_edit.tests.tiny import randn, two_regions

NAMES = ["SD 1.5", "SD 2, v", "SDXL", "SDXL inpainting"]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def rounded(name: str, dtype: torch.dtype, compute: torch.dtype) -> Any:
    """A model of `compute` type whose weights are those of `dtype`, without any casting layer."""
    model = FAMILIES[name].model(compute)
    for parameter in model.model.diffusion_model.parameters():
        parameter.data.copy_(parameter.data.float().to(dtype).to(compute))
    return model


def stored(name: str, dtype: torch.dtype, compute: torch.dtype) -> Any:
    """The same with weights of `dtype` that each layer casts as it runs, as ComfyUI loads them."""
    model = FAMILIES[name].model(dtype, compute)
    source = FAMILIES[name].model(compute).model.diffusion_model.state_dict()
    for key, parameter in model.model.diffusion_model.named_parameters():
        parameter.data.copy_(source[key].float().to(dtype))
    types = {p.dtype for p in model.model.diffusion_model.parameters()}
    assert types == {dtype} and model.model.manual_cast_dtype is compute
    return model


@pytest.mark.parametrize("compute", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
def test_fp8_weights_edit_as_the_same_numbers_in_the_computing_type(name, dtype, compute):
    """Keys and values of the regions pass through the layers' own projections, so bit for bit."""
    made = edit(guide(patched(stored(name, dtype, compute))), steps=3)
    expected = edit(guide(patched(rounded(name, dtype, compute))), steps=3)
    assert torch.equal(made, expected)
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_compute_in_fp32_on_a_cpu(name, dtype):
    """As a half-precision checkpoint is loaded where only fp32 is fast."""
    made = edit(guide(patched(stored(name, dtype, torch.float32))), steps=3)
    expected = edit(guide(patched(rounded(name, dtype, torch.float32))), steps=3)
    assert torch.equal(made, expected)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_computing_stays_near_full_precision(name, dtype, bound):
    made = edit(guide(patched(FAMILIES[name].model(dtype))), steps=3)
    expected = edit(guide(patched(family_model(name))), steps=3)
    error = float((made - expected).std() / expected.std())
    print(f"{name} computing in {dtype}: {error:.1e} of the fp32 edit's std")
    assert error < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_of_another_type_than_the_model_are_cast(dtype):
    """A text encoder in half precision."""
    texts = {
        "source": conditioning(SOURCE),
        "target": conditioning(TARGET),
        "negative": plain_conditioning(NEGATIVE),
    }
    halves = {name: cast(text, dtype) for name, text in texts.items()}
    backs = {name: cast(text, torch.float32) for name, text in halves.items()}
    chain = patched(family_model("SDXL"))
    assert torch.equal(edit(guide(chain, **halves)), edit(guide(chain, **backs)))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A CONDITIONING, or a part of one, with every number in another type."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    if isinstance(value, list):
        return [cast(inner, dtype) for inner in value]
    if isinstance(value, dict):
        return {key: cast(inner, dtype) for key, inner in value.items()}
    assert isinstance(value, ObjectRestrictedEmbeddings)
    return replace(value, keys=value.keys.to(dtype), values=value.values.to(dtype))


# -- low VRAM and offloading -----------------------------------------------------------------------


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Sets how many bytes of weights ComfyUI may load; the rest is cast layer by layer."""

    def use(amount: float) -> None:
        def load(loaded: Any, _extra: float, force_patch_weights: bool = False) -> int:
            return loaded.model.partially_load(loaded.device, amount, force_patch_weights)

        comfy.model_management.unload_all_models()
        monkeypatch.setattr(comfy.model_management.LoadedModel, "model_use_more_vram", load)

    yield use
    comfy.model_management.unload_all_models()


def with_lora(model: Any) -> Any:
    """Patches on every attention projection, as LoRAs leave them."""
    state = model.model.state_dict()
    names = [n for n in state if ".to_" in n and n.endswith("weight")]
    patches = {n: (0.1 * randn(*state[n].shape, seed=i) / 8,) for i, n in enumerate(names)}
    return with_option(model, lambda m: m.add_patches(patches))


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_not_or_half_loaded_gives_the_same_edit(name, share, budget):
    model = FAMILIES[name].model()
    chain = patched(with_lora(model))
    expected = edit(guide(chain), steps=3)
    assert model.model.model_lowvram is False
    plain = edit(guide(patched(model)), steps=3)
    budget(share * model.model_size() + 0.1)
    made = edit(guide(chain), steps=3)
    assert model.model.model_lowvram is True and model.model.lowvram_patch_counter > 0
    assert (model.model.model_loaded_weight_memory > 0) is (share > 0)
    print(f"{name}, {share} loaded: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(plain, expected) > 1e-2


@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
def test_weights_that_are_offloaded_during_a_run_give_the_same_edit(name):
    """As when another model needs the room: the projected texts of the run do not go with them."""
    model = FAMILIES[name].model()
    chain = patched(with_lora(model))
    expected, freed = edit(guide(chain), steps=3), []
    guider = guide(chain)

    def free(step: int, *_: Any) -> None:
        patcher = guider.model_patcher
        freed.append(patcher.partially_unload(patcher.offload_device, model.model_size() // 3))

    made = edit(guider, steps=3, callback=free)
    assert freed[0] > 0 and model.model.model_loaded_weight_memory < model.model_size()
    assert relative_error(made, expected) < 1e-4


@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
def test_patches_hold_no_weights(name):
    """New weights in the same model are those of the next run with the same text; by hand, every
    step projects the text again."""
    model, regions = FAMILIES[name].model(), two_regions()
    positive, negative = conditioning(TARGET), plain_conditioning(NEGATIVE)
    chain = apply_rgb_cam(model, regions)
    before = generate(chain, positive, negative)
    for key, weight in model.model.state_dict().items():
        if ".attn2.to_" in key and key.endswith("weight"):
            changed = weight + 0.05 * randn(*weight.shape, seed=len(key))
            comfy.utils.set_attr_param(model.model, key, changed)
    made = generate(chain, positive, negative)
    by_hand = published_form(model, positive[0][1][ORE_KEY], regions)
    assert relative_error(made, generate(by_hand, positive, negative)) < 1e-4
    assert relative_error(made, before) > 1e-2
