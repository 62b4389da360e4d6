"""One training stage: rate by time spent, averaged weights, checkpoints, progress line."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 90.0
REPORT_EVERY_S = 15.0


@dataclass(frozen=True)
class StagePlan:
    """How one stage is trained."""

    name: str  # also names its checkpoint
    minutes: float  # training time, over all sessions
    batch: int  # samples a step
    learning_rate: float  # peak; falls to 0 along a cosine in the second half
    ema: float = 0.997  # decay of the moving average of the weights, which is what ships
    max_steps: int | None = None  # a smoke run stops here


def save_atomically(content: object, path: Path) -> None:
    """torch.save that leaves either the old file or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    os.replace(part, path)


class Stage:
    """State of a stage in progress: `net` trains, `ema` is the averaged copy of its state dict."""

    def __init__(self, plan: StagePlan, net: nn.Module, out: Path):
        self.plan, self.net = plan, net
        self.path = out / f"{plan.name}.pt"
        trained = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
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
    def position(self) -> float:
        """How much of the stage is done, 0..1."""
        done = self.elapsed_s / (60 * self.plan.minutes)
        if self.plan.max_steps is not None:
            done = max(done, self.step / self.plan.max_steps)
        return min(done, 1.0)

    def train(self, loss_at: Callable[[int, float], Tensor]) -> dict[str, Tensor]:
        """Minimise loss_at(step, position) until the time is spent; the averaged weights."""
        mark = saved = reported = time.monotonic()
        recent, first_step = 0.0, self.step
        self.net.train()
        while self.position < 1:
            loss = loss_at(self.step, self.position)
            self._descend(loss)
            now = time.monotonic()
            self.elapsed_s += now - mark
            mark = now
            recent = loss.item() if recent == 0 else 0.98 * recent + 0.02 * loss.item()
            if now - reported > REPORT_EVERY_S:
                rate = self.plan.batch * (self.step - first_step) / (now - reported)
                self._report(recent, rate)
                reported, first_step = now, self.step
            if now - saved > CHECKPOINT_EVERY_S:
                self.checkpoint()
                saved = now
        self.checkpoint()
        self.net.eval()
        return self.ema

    def _descend(self, loss: Tensor) -> None:
        position = self.position
        rate = 1.0 if position < 0.5 else 0.5 * (1 + cos(2 * pi * (position - 0.5)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * rate * min(1.0, (self.step + 1) / 100)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.net.state_dict().items():
                if value.is_floating_point():
                    self.ema[key].lerp_(value, 1 - keep)
                else:
                    self.ema[key].copy_(value)

    def _report(self, loss: float, rate: float) -> None:
        left_s = 60 * self.plan.minutes - self.elapsed_s
        log.info(
            "%s: %d samples, loss %.4f, %.0f samples/s, %.0f %%, %d:%02d left",
            self.plan.name, self.step * self.plan.batch, loss, rate,
            100 * self.position, left_s // 60, left_s % 60,
        )  # fmt: skip
