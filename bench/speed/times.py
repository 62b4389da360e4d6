"""Times, as ratios. The sampling runs of the plain and of the patched models are open at once, each
round evaluates every one of them, and the median over the rounds of the ratio counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...editors.ale import SCHEDULES
from ...host.sampling.branch_guider import BranchGuider
from ...host.sampling.branch_sampler import BranchSampler
from ...host.sampling.source_branch import forget
from ...host.sampling.virtual_inversion import virtual_inversion_sampler
from .models import COUNTS, FAMILY_SIZES, GUIDANCE, UNetShape, ale_model, guide, sample, unet_model

RATIOS = {f"k{k}_over_plain": k for k in COUNTS}
FEWEST_ROUNDS, ENOUGH_S = 3, 10.0
RE_EDITED = ("object", "color")
RE_EDIT_ROUNDS = 3

Evaluation = Callable[[], Any]
"""One evaluation of a guided model in an open sampling run, at the run's first sigma."""


def open_runs(
    guiders: Sequence[BranchGuider], size: int, use: Callable[[list[Evaluation]], None]
) -> None:
    """Open a sampling run of every guider, each inside the one before, and use their models."""
    opened: list[Evaluation] = []

    def open_next() -> None:
        if len(opened) < len(guiders):
            sample(guiders[len(opened)], size, BranchSampler(enter))
        else:
            use(opened)

    def enter(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        args = {name: extra_args[name] for name in ("model_options", "seed")}
        branches, sigma = torch.cat([x, x]), sigmas[0] * x.new_ones(2)
        opened.append(lambda: model(branches, sigma, denoise_mask=None, **args))
        open_next()
        return x

    open_next()


def seconds(evaluate: Evaluation) -> float:
    finish_queue()
    start = clock()
    evaluate()
    finish_queue()
    return clock() - start


def clock() -> float:
    """Seconds; those that the process has worked where it has one thread of a CPU, which other
    programs on the machine hardly change."""
    is_single = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if is_single else time.perf_counter()


def finish_queue() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_in_turn(evaluations: Sequence[Evaluation], rounds: int) -> list[list[float]]:
    """Seconds of each evaluation in each round; the order turns by one from round to round. Slow
    ones get fewer rounds, but FEWEST_ROUNDS, of which a median can leave out the worst."""
    count = len(evaluations)
    times: list[list[float]] = [[] for _ in evaluations]
    for evaluate in evaluations:
        evaluate()
    start = time.perf_counter()
    for r in range(rounds):
        if r >= FEWEST_ROUNDS and time.perf_counter() - start > ENOUGH_S:
            break
        for i in ((r + j) % count for j in range(count)):
            times[i].append(seconds(evaluations[i]))
    return times


def ratio_of(times: Sequence[float], base: Sequence[float]) -> float:
    """The median ratio of two series of times of the same rounds."""
    return round(statistics.median(t / b for t, b in zip(times, base, strict=True)), 4)


def measure_ratios(model: ModelPatcher, shape: UNetShape, rounds: int) -> dict[str, Any]:
    """One ALE evaluation over a plain one of the same four rows, by number of objects."""
    guiders = [guide(model), *(guide(ale_model(model, k, shape.size), k) for k in COUNTS)]
    found: dict[str, Any] = {"shape": str(shape)}

    def use(evaluations: list[Evaluation]) -> None:
        plain, *ours = time_in_turn(evaluations, rounds)
        found["plain_seconds"] = round(statistics.median(plain), 5)
        for name, times in zip(RATIOS, ours, strict=True):
            found[name] = ratio_of(times, plain)

    open_runs(guiders, shape.size, use)
    return found


def measure_families(is_quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The same ratios on the other families, one size each."""
    is_full = torch.cuda.is_available() and not is_quick
    channels, dtype = (320, torch.float16) if is_full else (64, torch.float32)
    found = []
    for family, sizes in FAMILY_SIZES.items():
        size = 8 if is_quick else sizes[is_full]
        name = family if is_full else f"{family}, {channels} channels"
        model = unet_model(family, channels, dtype)
        found.append(measure_ratios(model, UNetShape(name, size, dtype), rounds))
    return found


class SavingGuider(BranchGuider):
    """Leaves out the source's unconditional row on every device, at every size."""

    def _is_one_call(self, *_: Any) -> bool:
        return False


def measure_row_policies(model: ModelPatcher, shape: UNetShape, rounds: int) -> dict[str, Any]:
    """A step without injection: the source's unconditional row left out (three rows in two calls)
    over kept (four rows in one)."""
    patched = ale_model(model, 3, shape.size, schedule=0.0)
    guiders = [guide(patched, 3), guide(patched, 3, GUIDANCE, SavingGuider)]
    found: dict[str, Any] = {"shape": str(shape)}

    def use(evaluations: list[Evaluation]) -> None:
        kept, left_out = time_in_turn(evaluations, rounds)
        found["four_rows_seconds"] = round(statistics.median(kept), 5)
        found["three_over_four_rows"] = ratio_of(left_out, kept)

    open_runs(guiders, shape.size, use)
    return found


def measure_re_edit(model: ModelPatcher, shape: UNetShape, rounds: int) -> dict[str, Any]:
    """A whole sampling run of the same image again, its source branch kept, over the first run, by
    type of edit."""
    found: dict[str, Any] = {"shape": str(shape)}
    for name in RE_EDITED:
        patched = ale_model(model, 3, shape.size, SCHEDULES[name])
        guider = guide(patched, 3, GUIDANCE)

        def run(guider: BranchGuider = guider) -> Tensor:
            return sample(guider, shape.size, virtual_inversion_sampler())

        first, again = [], []
        start = time.perf_counter()
        for _ in range(rounds):
            if first and time.perf_counter() - start > ENOUGH_S:
                break
            forget(model.model)
            first.append(seconds(run))
            again.append(seconds(run))
        found[f"{name}_first_seconds"] = round(statistics.median(first), 3)
        found[f"{name}_again_over_first"] = ratio_of(again, first)
    forget(model.model)
    return found
