"""What a run leaves behind: nothing. After success, failure and interruption alike."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from ale_edit.attention.rgb_cam import LayerText, RegionText
from ale_edit.editors.ale import RegionControl
from ale_edit.host.attention.adapter import AttentionRun
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.regions.grid import CellGroup
from ale_edit.tests.host.runs import edit, generate, guide, patched, plain, side, two_branch_guider
from ale_edit.tests.tiny import edits_of, source_latent, two_regions

Interrupted = comfy.model_management.InterruptProcessingException
RUN_STATE = (AttentionRun, RegionControl, LayerText, RegionText, CellGroup)


def plainly(value: Any) -> Any:
    """A comparable copy of nested options: callables and objects by identity."""
    if isinstance(value, dict):
        return {key: plainly(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else id(value)


def state_of(model: Any) -> dict[str, Any]:
    """Everything on a ModelPatcher and its model that a patch could have changed."""
    base = model.model
    return {
        "options": plainly(model.model_options),
        "wrappers": plainly(model.wrappers),
        "callbacks": plainly(model.callbacks),
        "patches": plainly(model.patches),
        "object patches": plainly(model.object_patches),
        "object backup": plainly(model.object_patches_backup),
        "injections": plainly(model.injections),
        "attachments": plainly(model.attachments),
        "hooks": {name: dict(m._forward_hooks) for name, m in base.named_modules()},
        "own attributes": sorted(
            f"{name}.{key}" for name, m in base.named_modules() for key in vars(m)
        ),
        "weights": {name: hash(w.numpy().tobytes()) for name, w in base.state_dict().items()},
    }


@pytest.fixture
def made_runs(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Weak references to the RGB-CAM state of every run of a test."""
    made: list[weakref.ref] = []
    install = AttentionRun.install

    def remember(self: Any, *args: Any) -> None:
        made.append(weakref.ref(self))
        install(self, *args)

    monkeypatch.setattr(AttentionRun, "install", remember)
    return made


@pytest.fixture
def live_tensors() -> Iterator[Callable[[], int]]:
    """Counts the tensors that are alive."""

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(found), Tensor) for found in gc.get_objects())

    yield count


def live_state() -> list[Any]:
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in RUN_STATE]


class Failure(Exception):
    pass


def stop_with(error: type[BaseException], at: int) -> Callable[..., None]:
    def callback(step: int, *args: Any) -> None:
        if step == at:
            raise error

    return callback


@pytest.mark.parametrize("ending", ["finished", "failed", "interrupted"])
def test_nothing_of_a_run_is_alive_after_it(model, clip, ending, made_runs, live_tensors):
    chain = patched(model)
    guider = guide(chain, clip)
    edit(guider)  # whatever ComfyUI itself loads and keeps, once
    before, tensors = state_of(chain), live_tensors()
    if ending == "finished":
        edit(guider)
    else:
        error = Failure if ending == "failed" else Interrupted
        with pytest.raises(error):
            edit(guider, callback=stop_with(error, 2))
    assert live_state() == []
    assert len(made_runs) == 2 and all(ref() is None for ref in made_runs)
    assert state_of(chain) == before
    assert live_tensors() <= tensors
    kept = {"conds", "inner_model", "loaded_models"}
    assert not kept & vars(guider).keys()
    assert guider.original_conds == {} and guider.model_options is chain.model_options
    assert "patches" not in chain.model_options["transformer_options"]
    assert "patches_replace" not in chain.model_options["transformer_options"]


@pytest.mark.parametrize("ending", ["failed", "interrupted"])
def test_nothing_of_a_stock_run_is_alive_after_it(model, clip, ending, made_runs):
    chain = apply_rgb_cam(model, two_regions())
    positive, negative = side(clip, edits_of(), "target"), plain(clip, "")
    before = state_of(chain)
    error = Failure if ending == "failed" else Interrupted
    with pytest.raises(error):
        generate(chain, positive, negative, callback=stop_with(error, 1))
    assert live_state() == []
    assert len(made_runs) == 1 and made_runs[0]() is None
    assert state_of(chain) == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_patched_model_goes_with_its_run_without_garbage_collection(model, clip, fails):
    """Else ComfyUI warns of a memory leak and collects garbage at every load that follows."""
    chain = patched(model)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(chain)
        with contextlib.suppress(Failure):
            edit(guide(chain, clip), callback=stop_with(Failure, 1) if fails else None)
        del chain
        assert reference() is None
    finally:
        gc.enable()


def test_a_run_that_fails_inside_the_unet_leaves_nothing(model, clip, made_runs):
    def fail(*args: Any) -> Tensor:
        raise Failure

    chain = patched(model)
    failing = chain.clone()
    failing.set_model_attn2_patch(fail)
    before = state_of(chain)
    with pytest.raises(Failure):
        edit(guide(failing, clip))
    assert live_state() == [] and all(ref() is None for ref in made_runs)
    assert state_of(chain) == before


def test_the_input_model_is_unchanged_by_the_nodes_and_by_runs(model, clip):
    before = state_of(model)
    chain = patched(model)
    assert state_of(model) == before
    edit(guide(chain, clip))
    generate(apply_rgb_cam(model, two_regions()), side(clip, edits_of(), "target"), plain(clip, ""))
    assert state_of(model) == before


def test_each_node_leaves_the_model_before_it_unchanged(model):
    regions = two_regions()
    first = apply_rgb_cam(model, regions)
    states = [state_of(first)]
    second = apply_self_injection(first, 0.5)
    assert state_of(first) == states[0]
    states.append(state_of(second))
    apply_background_blending(second, regions)
    assert state_of(second) == states[1]


def bytes_of(conds: Any) -> list[bytes]:
    return [text.numpy().tobytes() for text, _ in conds]


def test_a_run_leaves_its_inputs_unchanged(model, clip):
    """Outputs of nodes are cached and shared by ComfyUI."""
    latent, regions = source_latent(2), two_regions()
    source, target = (side(clip, edits_of(), name) for name in ("source", "target"))
    negative = plain(clip, "")
    conds = (source, target, negative)
    before = [
        latent.clone(),
        regions.dilated.clone(),
        [bytes_of(c) for c in conds],
        [plainly(c[0][1]) for c in conds],
    ]
    guider = two_branch_guider(patched(model, regions), *conds, reuses_source=False)
    edit(guider, latent, noise_mask=torch.ones(1, 1, 64, 64))
    assert torch.equal(latent, before[0]) and torch.equal(regions.dilated, before[1])
    assert [bytes_of(c) for c in conds] == before[2]
    assert [plainly(c[0][1]) for c in conds] == before[3]


def test_the_order_of_the_three_model_nodes_does_not_matter(model, clip):
    regions = two_regions()
    nodes = (
        lambda m: apply_rgb_cam(m, regions),
        lambda m: apply_self_injection(m, 0.5),
        lambda m: apply_background_blending(m, regions),
    )
    results = []
    for order in permutations(nodes):
        chain = model
        for node in order:
            chain = node(chain)
        results.append(edit(guide(chain, clip)))
    assert all(torch.equal(result, results[0]) for result in results)


def queue(model: Any, clip: Any, job: str, **options: Any) -> bytes:
    """One queued edit, with everything built again, as on a server that caches nothing."""
    pairs = {"A": [("wolf", "goat"), ("moon", "ball")], "B": [("cat", "dog"), ("sun", "lamp")]}[job]
    chain = patched(model, two_regions(dilation=0.0 if job == "A" else 0.05))
    latent = source_latent(seed=3 if job == "A" else 8)
    return edit(guide(chain, clip, edits_of(pairs)), latent, **options).numpy().tobytes()


def test_queueing_a_b_a_gives_a_twice_byte_for_byte(model, clip):
    first, other, second = (queue(model, clip, job) for job in "ABA")
    assert first == second != other


@pytest.mark.parametrize("error", [Failure, Interrupted])
def test_after_a_failed_or_interrupted_run_the_queue_gives_the_same_as_before(model, clip, error):
    first = queue(model, clip, "A")
    with pytest.raises(error):
        queue(model, clip, "B", callback=stop_with(error, 1))
    assert queue(model, clip, "A") == first


def test_one_guider_gives_the_same_again_after_a_failed_run_and_another_batch(model, clip):
    guider = guide(patched(model), clip)
    first = edit(guider)
    with pytest.raises(Interrupted):
        edit(guider, callback=stop_with(Interrupted, 0))
    edit(guider, source_latent(3))
    assert torch.equal(edit(guider), first)


def test_an_interruption_stops_at_once(model, clip):
    seen: list[int] = []

    def callback(step: int, *args: Any) -> None:
        seen.append(step)
        raise Interrupted

    with pytest.raises(Interrupted):
        edit(guide(patched(model), clip), callback=callback)
    assert seen == [0]
