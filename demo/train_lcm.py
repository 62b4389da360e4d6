"""Training stage 6: latent consistency distillation of the UNet, as a LoRA (LCM-LoRA).

S. Luo et al., Latent Consistency Models (arXiv 2310.04378) and LCM-LoRA (arXiv 2311.05556). The
student's guess of the clean latent at t is pulled to its own guess at t - 20, which the frozen
teacher reaches with one guided DDIM step. The boundary factors of the paper are left out: at the 50
timesteps of ComfyUI's "lcm" sampling (19, 39, .. 999) they are 1 and 0 to within 1e-5.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from .latents import LatentShard
from .stage import Stage, StagePlan, build_seeded
from .text_encoder import TrainableText
from .train_unet import SampleSource, TrainingAttention, alpha_bars, predict_eps

RANK = 16
GUIDANCE = 3.0  # of the teacher; it is distilled in, so the student runs at guidance 1
SKIP = 20  # training timesteps between two of the 50 that a distilled model knows
_HUBER = 0.03  # pseudo-Huber: quadratic below this error of a unit-variance latent


class Lora(nn.Module):
    """Low-rank additions to every convolution and linear layer of a UNet, which stays frozen."""

    def __init__(self, unet: nn.Module, rank: int = RANK):
        super().__init__()
        unet.requires_grad_(False)
        self.rank = rank
        self._is_on = True
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for name, layer in unet.named_modules():
            pair = _low_rank_pair(layer, rank)
            if pair is not None:
                key = name.replace(".", "_")
                self.down[key], self.up[key] = pair
                layer.register_forward_hook(self._adder(*pair))

    def _adder(self, down: nn.Module, up: nn.Module):
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return output + up(down(inputs[0])) if self._is_on else None

        return add

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the UNet is the teacher."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True


def lora_file(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Lora's state dict under the keys that ComfyUI's LoraLoader reads (Kohya's)."""
    tensors = {}
    for key, tensor in weights.items():
        side, layer, _ = key.split(".")
        tensors[f"lora_unet_{layer}.lora_{side}.weight"] = tensor
        if side == "down":
            tensors[f"lora_unet_{layer}.alpha"] = torch.tensor(float(tensor.shape[0]))
    return tensors


def _low_rank_pair(layer: nn.Module, rank: int) -> tuple[nn.Module, nn.Module] | None:
    """The two factors for a layer; the second one starts at zero."""
    if isinstance(layer, nn.Linear):
        down = nn.Linear(layer.in_features, rank, bias=False)
        up = nn.Linear(rank, layer.out_features, bias=False)
    elif isinstance(layer, nn.Conv2d):
        size, step, padding = (
            cast("tuple[int, int]", x) for x in (layer.kernel_size, layer.stride, layer.padding)
        )
        down = nn.Conv2d(layer.in_channels, rank, size, step, padding, bias=False)
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        return None
    nn.init.zeros_(up.weight)
    return down, up


def train_lcm(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    *,
    unet: nn.Module,
    text: TrainableText,
    shard: LatentShard,
) -> dict[str, Tensor]:
    """Train (or continue) the LoRA and return it, averaged, as `lora_file` writes it."""
    lora = build_seeded(6, lambda: Lora(unet.to(device).eval()))
    stage = Stage(plan, lora.to(device), out)
    samples = SampleSource(text, shard, device)
    empty = samples.empty_context()
    schedule = torch.cat([alpha_bars(), torch.ones(1)]).to(device)  # the last one stands for t = -1

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((66, step))
        sample = samples.draw(rng, plan.batch, 0.0)
        index = torch.from_numpy(rng.integers(0, 1000 // SKIP, plan.batch)).to(device)
        t = (index + 1) * SKIP - 1
        alpha_bar = schedule[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * sample.latents + (1 - alpha_bar).sqrt() * sample.noise

        def guess(x: Tensor, at: Tensor) -> Tensor:
            eps = predict_eps(unet, x, at, sample.context, TrainingAttention(sample.hidden))
            return clean_latent(x, eps, schedule[at][:, None, None, None])

        with torch.no_grad():
            with lora.off():
                before = _teacher_step(
                    unet, x_t, t, schedule, torch.cat([sample.context, empty.expand_as(
                        sample.context)]), sample.hidden
                )  # fmt: skip
            target = torch.where(
                (index > 0)[:, None, None, None], guess(before, (t - SKIP).clamp(min=0)), before
            )
        error = guess(x_t, t) - target
        return ((error.square() + _HUBER**2).sqrt() - _HUBER).mean()

    return lora_file(stage.train(loss_at))


def clean_latent(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean latent that x_t and its noise eps imply."""
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def _teacher_step(
    unet: nn.Module, x_t: Tensor, t: Tensor, schedule: Tensor, contexts: Tensor, hidden: Tensor
) -> Tensor:
    """One guided DDIM step from t to t - SKIP; contexts (2B, N, 128): captions, then empty ones."""
    attention = TrainingAttention(torch.cat([hidden, torch.zeros_like(hidden)]))
    eps = predict_eps(unet, x_t.repeat(2, 1, 1, 1), t.repeat(2), contexts, attention)
    named, unnamed = eps.chunk(2)
    eps = unnamed + GUIDANCE * (named - unnamed)
    now, then = schedule[t], schedule[(t - SKIP).clamp(min=-1)]
    now, then = now[:, None, None, None], then[:, None, None, None]
    return then.sqrt() * clean_latent(x_t, eps, now) + (1 - then).sqrt() * eps
