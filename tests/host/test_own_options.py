"""Another node that calls the model with transformer_options of its own gets a sentence: which keys
are missing, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.patching import add_outermost_wrapper
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.tests.host.runs import edit, guide, plain, side, with_option
from ale_edit.tests.tiny import edits_of, randn, two_regions

pytestmark = pytest.mark.comfy

CURE = "Remove that node, or sample without"
Options = dict[str, Any]


def without(*keys: str) -> Callable[[Options], Options]:
    return lambda options: {key: value for key, value in options.items() if key not in keys}


def call_with(change: Callable[[Options], Options]) -> Callable[[Any], Any]:
    """A node that calls the model with changed transformer_options in every UNet call."""

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        c = {**args["c"], "transformer_options": change(args["c"]["transformer_options"])}
        return apply_model(args["input"], args["timestep"], **c)

    return lambda model: with_option(model, lambda m: m.set_model_unet_function_wrapper(wrapper))


def sample_with(change: Callable[[Options], Options]) -> Callable[[Any], Any]:
    """A node that samples with changed model_options."""

    def wrapper(executor: Any, guider: Any, sigmas: Any, extra: Options, *args: Any) -> Any:
        options = change(extra["model_options"])
        return executor(guider, sigmas, {**extra, "model_options": options}, *args)

    return lambda model: with_option(
        model, lambda m: m.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "other", wrapper)
    )


def inside(change: Callable[[Options], Options]) -> Callable[[Options], Options]:
    return lambda options: {
        **options,
        "transformer_options": change(options["transformer_options"]),
    }


def refusal(node: str, missing: str) -> str:
    return rf"^{node}: .*transformer_options of its own, without {missing}.*{CURE} {node}\.$"


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        (("uuids",), "uuids"),
        (("cond_or_uncond",), "cond_or_uncond"),
        (("uuids", "cond_or_uncond", "sigmas"), "uuids, cond_or_uncond"),
    ],
)
def test_rgb_cam_says_what_a_call_of_the_model_lacks(model, clip, keys, missing):
    patched = call_with(without(*keys))(apply_rgb_cam(model, two_regions()))
    with pytest.raises(ValueError, match=refusal("Region Cross-Attention", missing)):
        edit(guide(patched, clip))


def test_a_sampler_that_calls_the_model_itself_gets_the_sentence(model, clip):
    """With the options of the run, to which ComfyUI adds the rows' names at each call only."""
    patched = apply_rgb_cam(model, two_regions())
    target, negative = side(clip, edits_of(), "target"), plain(clip, "")
    latent = randn(1, 4, 8, 8)

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        options = extra_args["model_options"]["transformer_options"]
        inner = denoiser.inner_model.inner_model
        return inner.apply_model(
            x, sigmas[:1], c_crossattn=target[0][0], transformer_options=options
        )

    with pytest.raises(ValueError, match=refusal("Region Cross-Attention", "uuids, cond_or")):
        comfy.samplers.sample(
            patched, latent, target, negative, 3.0, patched.load_device,
            comfy.samplers.KSAMPLER(sampler), torch.tensor([3.0, 0.0]), patched.model_options,
            latent_image=torch.zeros_like(latent), disable_pbar=True, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("key", ["sample_sigmas", "cond_or_uncond"])
def test_self_injection_says_what_a_call_of_the_model_lacks(model, clip, key):
    patched = call_with(without(key))(apply_self_injection(model, 1.0))
    with pytest.raises(ValueError, match=refusal("Self-Attention Injection", key)):
        edit(guide(patched, clip))


def only_step(options: Options) -> Options:
    return {"ale_edit_step": options["ale_edit_step"]}


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_self_injection(m, 1.0), "Self-Attention Injection"),
        (lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention"),
    ],
)
def test_options_in_which_nothing_of_ours_is_left_are_refused_after_the_first_step(
    model, clip, apply, node
):
    patched = call_with(only_step)(apply(model))
    with pytest.raises(ValueError, match=refusal(node, f"those of {node}")):
        edit(guide(patched, clip))


@pytest.mark.parametrize(
    "change", [inside(without("sample_sigmas")), without("transformer_options"), lambda _: {}]
)
def test_the_guider_says_what_a_step_lacks(model, clip, change):
    with pytest.raises(ValueError, match=refusal("Two-Branch Guider", "sample_sigmas")):
        edit(guide(sample_with(change)(model), clip))


def test_background_blending_says_what_a_step_lacks(model, clip):
    """A node whose wrapper is around that of Background Blending."""
    change = inside(without("sample_sigmas"))

    def around(executor: Any, x: Tensor, timestep: Tensor, options: Options, *args: Any) -> Any:
        return executor(x, timestep, change(options), *args)

    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = executor.class_obj.model_options
        add_outermost_wrapper(options, WrappersMP.PREDICT_NOISE, "other", around)
        return executor(*args, **kwargs)

    guider = guide(apply_background_blending(model, two_regions()), clip)
    guider.model_patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", outer_sample)
    with pytest.raises(ValueError, match=refusal("Background Blending", "sample_sigmas")):
        edit(guider)


@pytest.mark.parametrize("key", ["activations_shape", "original_shape"])
def test_a_unet_whose_forward_says_no_shapes_gets_the_sentence(model, clip, key):
    """As copies of ComfyUI's forward in other packs do."""
    patched = apply_rgb_cam(model, two_regions())

    def drop(n: Any, context: Any, value: Any, options: Options) -> Any:
        options.pop(key, None)
        return n, context, value

    patched.set_model_attn2_patch(drop)
    with pytest.raises(ValueError, match=refusal("Region Cross-Attention", key)):
        edit(guide(patched, clip))


@pytest.mark.parametrize("options", [{}, {"transformer_options": {}}])
def test_a_guider_that_is_called_without_the_options_of_the_run_does_not_skip_rgb_cam(
    model, clip, options
):
    """Without the run's options the model would be called unpatched, and nobody would see it."""
    patched = apply_rgb_cam(model, two_regions())
    target, negative = side(clip, edits_of(), "target"), plain(clip, "")
    latent = randn(1, 4, 8, 8)

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        return denoiser.inner_model(x, sigmas[:1], options, 0)

    with pytest.raises(ValueError, match=refusal("Region Cross-Attention", "sample_sigmas")):
        comfy.samplers.sample(
            patched, latent, target, negative, 3.0, patched.load_device,
            comfy.samplers.KSAMPLER(sampler), torch.tensor([3.0, 0.0]), patched.model_options,
            latent_image=torch.zeros_like(latent), disable_pbar=True, seed=0,
        )  # fmt: skip
