"""Runs that are interrupted, or in which something fails, at every step: the model, its inputs and
the memory are as before, and the next run is right. Finished runs are in test_run_state.py."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ale_edit.host.sampling import source_branch
from ale_edit.tests.host.other_nodes import conds_of, controlled, image_prompt
from ale_edit.tests.host.runs import (
    STEPS,
    edit,
    generate,
    guide,
    patched,
    plain,
    relative_error,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.host.test_run_state import live_state, state_of
from ale_edit.tests.tiny import source_latent, tiny_controlnet

Interrupted = comfy.model_management.InterruptProcessingException
WRAPPERS = comfy.patcher_extension.WrappersMP
MASK = torch.ones(1, 1, 64, 64)


class Failure(Exception):
    pass


class Fuse:
    """Raises in the call after `step` was reached; a step counts when its callback ran."""

    def __init__(self, step: int) -> None:
        self.left = step

    def callback(self, step: int, *args: Any) -> None:
        self.left -= 1

    def burn(self) -> None:
        if self.left == 0:
            raise Failure


def first(fuse: Fuse) -> Callable[..., Any]:
    """A patch that gives its first argument back."""

    def patch(x: Any, *args: Any) -> Any:
        fuse.burn()
        return x

    return patch


def text_patch(fuse: Fuse) -> Callable[..., Any]:
    def patch(n: Any, context: Any, value: Any, options: Any) -> Any:
        fuse.burn()
        return n, context, value

    return patch


def block_patch(fuse: Fuse) -> Callable[..., Any]:
    def patch(h: Any, hsp: Any, options: Any) -> Any:
        fuse.burn()
        return h, hsp

    return patch


def guidance_patch(fuse: Fuse, key: str) -> Callable[..., Any]:
    def patch(args: dict[str, Any]) -> Any:
        fuse.burn()
        return args[key]

    return patch


def call_patch(fuse: Fuse) -> Callable[..., Any]:
    def patch(apply_model: Any, args: dict[str, Any]) -> Any:
        fuse.burn()
        return apply_model(args["input"], args["timestep"], **args["c"])

    return patch


def mask_patch(fuse: Fuse) -> Callable[..., Any]:
    def patch(sigma: Any, mask: Any, extra_options: Any) -> Any:
        fuse.burn()
        return mask

    return patch


def wrapper(fuse: Fuse) -> Callable[..., Any]:
    def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
        out = executor(*args, **kwargs)
        fuse.burn()
        return out

    return around


PLACES: dict[str, Callable[[Any, Fuse], None]] = {
    "attn1_patch": lambda m, f: m.set_model_attn1_patch(text_patch(f)),
    "attn2_patch": lambda m, f: m.set_model_attn2_patch(text_patch(f)),
    "attn2_output_patch": lambda m, f: m.set_model_attn2_output_patch(first(f)),
    "output_block_patch": lambda m, f: m.set_model_output_block_patch(block_patch(f)),
    "pre_cfg": lambda m, f: m.set_model_sampler_pre_cfg_function(guidance_patch(f, "conds_out")),
    "post_cfg": lambda m, f: m.set_model_sampler_post_cfg_function(guidance_patch(f, "denoised")),
    "model_function_wrapper": lambda m, f: m.set_model_unet_function_wrapper(call_patch(f)),
    "denoise_mask_function": lambda m, f: m.set_model_denoise_mask_function(mask_patch(f)),
    **{
        kind: lambda m, f, kind=kind: m.add_wrapper_with_key(kind, "test", wrapper(f))
        for kind in (WRAPPERS.PREDICT_NOISE, WRAPPERS.APPLY_MODEL, WRAPPERS.DIFFUSION_MODEL)
    },
}


@pytest.fixture(autouse=True)
def nothing_kept(model: Any) -> Iterator[None]:
    yield
    source_branch.forget(model.model)


def interrupt_at(
    call: int, run: Callable[[], object], model: Any, rows: list[int], monkeypatch: Any
) -> None:
    """Interrupt a run at a call of its model, as the button of ComfyUI does, and see that nothing
    is kept. rows: of each call, as `rows_of` counts them."""
    held, counted = live_bytes(), model.model.apply_model

    def stop(*args: Any, **named: Any) -> Any:
        if len(rows) == call:
            comfy.model_management.interrupt_current_processing()
        return counted(*args, **named)

    monkeypatch.setattr(model.model, "apply_model", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run()
    assert live_bytes() <= held
    assert not comfy.model_management.processing_interrupted()


def live_bytes() -> int:
    """Of all tensors that are alive and hold memory (those that torch.compile traces with do
    not)."""
    gc.collect()
    found = [entry for entry in gc.get_objects() if issubclass(type(entry), Tensor)]
    tensors = [tensor for tensor in found if not isinstance(tensor, FakeTensor)]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def stop(guider: Any, fuse: Fuse, error: type[Exception] = Failure) -> None:
    with pytest.raises(error):
        edit(guider, source_latent(2), noise_mask=MASK, callback=fuse.callback)


@pytest.mark.ci
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("place", PLACES)
def test_a_patch_that_fails_at_any_step_leaves_nothing(model, clip, place, step):
    fuse = Fuse(-1)
    chain = with_option(patched(model), lambda m: PLACES[place](m, fuse))
    guider = guide(chain, clip)
    expected = edit(guider, source_latent(2), noise_mask=MASK)
    before, held = state_of(chain), live_bytes()
    fuse.left = step
    stop(guider, fuse)
    assert fuse.left == 0  # it failed in that step, not before
    assert live_state() == [] and state_of(chain) == before and live_bytes() <= held
    assert guider.original_conds == {} and guider.model_options is chain.model_options
    assert not {"conds", "inner_model", "loaded_models"} & vars(guider).keys()
    fuse.left = -1
    assert torch.equal(edit(guider, source_latent(2), noise_mask=MASK), expected)


@pytest.mark.parametrize("reuses_source", [False, True])
@pytest.mark.parametrize("step", range(STEPS))
def test_an_interruption_at_any_step_stops_the_next_operation_and_leaves_nothing(
    model, clip, step, reuses_source
):
    """By the flag that ComfyUI's Cancel button sets; it is looked at in every layer."""
    seen: list[int] = []

    def cancel(now: int, *args: Any) -> None:
        seen.append(now)
        if now == step:
            comfy.model_management.interrupt_current_processing()

    chain = patched(model)
    expected = edit(guide(chain, clip))
    guider = guide(chain, clip, reuses_source=reuses_source)
    before, held = state_of(chain), live_bytes()
    if step < STEPS - 1:
        with pytest.raises(Interrupted):
            edit(guider, callback=cancel)
    else:  # no operation is left
        edit(guider, callback=cancel)
        with pytest.raises(Interrupted):
            edit(guider, seed=6)
        source_branch.forget(model.model)
    assert seen == list(range(step + 1))
    assert live_state() == [] and state_of(chain) == before and live_bytes() <= held
    assert relative_error(edit(guider), expected) < 1e-5


def test_an_interrupted_edit_of_a_known_source_keeps_it_for_the_next(model, clip):
    guider = guide(patched(model), clip, reuses_source=True)
    expected = edit(guider)
    held = live_bytes()
    for step in range(STEPS - 1):

        def cancel(now: int, *args: Any, step: int = step) -> None:
            if now == step:
                raise Interrupted

        with pytest.raises(Interrupted):
            edit(guider, callback=cancel)
        assert live_bytes() <= held
        assert relative_error(edit(guider), expected) < 1e-4


def growth(run: Callable[[], Any]) -> int:
    """Objects that eight runs leave behind."""
    for _ in range(2):
        run()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(8):
        run()
    gc.collect()
    return len(gc.get_objects()) - before


def test_stopped_runs_do_not_add_up(model, clip):
    """ComfyUI itself remembers each load of a cloned model, in stock runs too."""
    positive, negative = plain(clip, "a wolf"), plain(clip, "")
    changed = image_prompt()(model)
    # twice, as leftovers of other tests may be freed during the first
    stock = max(growth(lambda: generate(changed, positive, negative)) for _ in range(2))
    guider = guide(patched(changed), clip)

    def fail(step: int, *args: Any) -> None:
        if step == 2:
            raise Failure

    def stopped_run() -> None:
        with pytest.raises(Failure):
            edit(guider, callback=fail)

    held = live_bytes()
    made = growth(stopped_run)
    print(f"objects after 8 runs: stopped {made}, finished stock runs {stock}")
    assert made <= stock + 8 and live_bytes() <= held


def test_a_stopped_run_leaves_its_control_as_a_finished_one_does(model, clip):
    conds = controlled(tiny_controlnet(), conds_of(clip))
    control = conds[0][0][1]["control"]
    guider = two_branch_guider(patched(model), *conds)
    edit(guider)
    finished = {key: value is None for key, value in vars(control).items()}
    fuse = Fuse(1)

    def fail(step: int, *args: Any) -> None:
        raise Failure

    fuse.callback = fail
    stop(guider, fuse)
    assert {key: value is None for key, value in vars(control).items()} == finished
    assert control.cond_hint is None and control.model_sampling_current is None


def test_a_stopped_run_of_nodes_that_are_gone_leaves_no_dead_model(model, clip):
    """As ALE Edit, whose chain of models dies with it; ComfyUI would report a memory leak and
    collect garbage at each later load of a model."""

    def stopped_node() -> None:
        guider = guide(patched(model), clip)
        error: Any = None

        def fail(step: int, *args: Any) -> None:
            raise Failure

        try:
            edit(guider, callback=fail)
        except Failure as failure:
            error = failure  # a cycle, from the traceback to this frame and back
        assert error is not None

    stopped_node()
    gc.collect()
    loaded = comfy.model_management.current_loaded_models
    assert loaded and not any(entry.is_dead() for entry in loaded)
