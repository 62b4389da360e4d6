"""One training stage: rate by samples done, averaged weights, checkpoints, progress, curve.

How far a stage goes is counted in samples, not in time: a busy machine trains later, not less.
"""

import csv
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..progress import ProgressBar

Network = TypeVar("Network", bound=nn.Module)

CHECKPOINT_EVERY_S = 90.0
REPORT_EVERY_S = 15.0
CURVE_COLUMNS = ("samples", "seconds", "loss")


@dataclass(frozen=True)
class StagePlan:
    """How one stage is trained."""

    name: str  # also names its checkpoint and its curve
    samples: int  # over all sessions
    batch: int  # samples a step
    learning_rate: float  # peak
    decay_from: float = 0.5  # share of the stage after which the rate falls to 0 along a cosine
    ema: float = 0.997  # decay of the moving average of the weights, which is what ships


def build_seeded(
    seed: int, build: Callable[[], Network], start: Mapping[str, Tensor] | None = None
) -> Network:
    """A network with the weights `start`, or with random ones that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        net = build()
    if start is not None:
        net.load_state_dict(start)
    return net


def save_atomically(content: object, path: Path) -> None:
    """torch.save that leaves either the old file or the complete new one.

    Raises OSError, with the file and what to do, where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        torch.save(content, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        part.unlink(missing_ok=True)
        raise OSError(
            f"The checkpoint {path} could not be written ({error}). The one before it is whole. "
            "Make room on the disk, or give another folder with --out, and run the command again."
        ) from error


class Stage:
    """State of a stage in progress: `net` trains, `ema` is the averaged copy of its state dict."""

    def __init__(self, plan: StagePlan, net: nn.Module, out: Path):
        self.plan, self.net = plan, net
        self.path = out / f"{plan.name}.pt"
        self.curve_path = out / f"{plan.name}.csv"
        trained = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
        )
        self.step, self.elapsed_s = 0, 0.0
        self.ema = {k: v.detach().clone() for k, v in net.state_dict().items()}
        if self.path.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = next(self.net.parameters()).device
        self.ema = {k: v.to(device) for k, v in state["ema"].items()}
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]

    def checkpoint(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        save_atomically(state, self.path)

    @property
    def samples(self) -> int:
        """Samples done."""
        return self.step * self.plan.batch

    @property
    def position(self) -> float:
        """How much of the stage is done, 0..1."""
        return min(self.samples / self.plan.samples, 1.0)

    def train(self, loss_at: Callable[[int, float], Tensor]) -> dict[str, Tensor]:
        """Minimise loss_at(step, position) until all samples are done; the averaged weights."""
        if self.position >= 1:
            self.net.eval()
            return self.ema
        self.net.train()
        with ProgressBar(
            self.plan.name,
            self.plan.samples,
            "sample",
            initial=self.samples,
            every_s=REPORT_EVERY_S,
        ) as bar:
            self._train(loss_at, bar)
        self.checkpoint()
        self.net.eval()
        return self.ema

    def _train(self, loss_at: Callable[[int, float], Tensor], bar: ProgressBar) -> None:
        mark = saved = reported = time.monotonic()
        losses: list[Tensor] = []
        while self.position < 1:
            losses.append(self._descend(loss_at(self.step, self.position)))
            now = time.monotonic()
            self.elapsed_s += now - mark
            mark = now
            if now - reported > REPORT_EVERY_S:
                self._report(losses, bar)
                reported = now
                losses.clear()
            if now - saved > CHECKPOINT_EVERY_S:
                self.checkpoint()
                saved = now

    def _descend(self, loss: Tensor) -> Tensor:
        start = self.plan.decay_from
        fall = max(self.position - start, 0) / (1 - start)
        rate = 0.5 * (1 + cos(pi * fall))
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * rate * min(1.0, (self.step + 1) / 100)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        self._average(1 - keep)
        return loss.detach()

    @torch.no_grad()
    def _average(self, share: float) -> None:
        """Move the averaged weights by `share` towards the present ones; counters are copied."""
        for key, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.ema[key].lerp_(value, share)
            else:
                self.ema[key].copy_(value)

    def _report(self, losses: list[Tensor], bar: ProgressBar) -> None:
        loss = torch.stack(losses).mean().item()
        bar.move_to(min(self.samples, self.plan.samples), note=f"loss {loss:.4f}")
        is_new = not self.curve_path.exists()
        with self.curve_path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(CURVE_COLUMNS)
            writer.writerow((self.samples, f"{self.elapsed_s:.0f}", f"{loss:.5f}"))
