"""Memory: the most bytes allocated beyond the weights while an edit samples, over those of plain
sampling of the same rows. The source branch is not kept for the next edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch.profiler import ProfilerActivity, profile

from ...host.sampling.virtual_inversion import virtual_inversion_sampler
from .models import COUNTS, UNetShape, ale_model, guide, sample

MEMORY_TARGET = 1.1
STEPS = 2  # the second has all that the first one left
FREE_BYTES = 8 * 2**30


def find_peak(run: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once while `run` ran, beyond those before it."""
    if torch.cuda.is_available():
        run()  # loads the weights
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [ProfilerActivity.CPU]
    with (
        steady_chunks(),
        profile(activities=activities, profile_memory=True, acc_events=True) as profiled,
    ):
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: list[Any] = profiled.profiler.kineto_results.events()  # PyTorch's stubs lack nbytes
    changes = [event for event in events if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


@contextmanager
def steady_chunks() -> Iterator[None]:
    """ComfyUI's attention on a CPU takes larger chunks where more memory is free. Here it finds
    always the same amount, so that two runs are comparable."""

    def find_free(_device: Any = None, torch_free_too: bool = False) -> Any:
        return (FREE_BYTES, FREE_BYTES) if torch_free_too else FREE_BYTES

    with patch.object(management, "get_free_memory", find_free):
        yield


def measure_memory(model: ModelPatcher, shape: UNetShape) -> dict[str, Any]:
    """The peak of ALE-Edit over the plain one, by number of objects."""

    def peak(patched: ModelPatcher, count: int) -> int:
        guider = guide(patched, count, reuses_source=False)
        sampler = virtual_inversion_sampler()
        return find_peak(lambda: sample(guider, shape.size, sampler, STEPS))

    plain = peak(model, 1)
    ours = {f"k{k}": peak(ale_model(model, k, shape.size), k) for k in COUNTS}
    return {
        "shape": str(shape),
        "plain_bytes": plain,
        **{f"{name}_over_plain": round(found / plain, 4) for name, found in ours.items()},
    }
