"""Training stage 1: the autoencoder, on 64x64 crops with latent noise; then its decoder alone."""

from collections.abc import Iterator, Mapping
from itertools import count as count_from
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import SD15_SCALE, DemoAutoencoder
from .render import render_batch
from .scenes import CHECK_SEEDS, TRAINING_SEEDS, Scene, make_scene
from .stage import Stage, StagePlan, build_seeded

CROP = 64
POOL = 6_000  # scenes rendered once, then cropped again and again
LATENT_NOISE = 0.06  # of the normalised latent, so that small errors of the UNet do not show
_COUNTS = (1, 2, 3, 3, 4, 4)
_FINEST = "wool"  # learned last, so that two of three pool scenes hold it


def scene_pool(count: int, first_seed: int) -> Tensor:
    """Rendered scenes (count, 3, H, W) as uint8."""
    scenes = list(islice(_pool_scenes(first_seed), count))
    parts = []
    for start in range(0, count, 100):
        images, _ = render_batch(scenes[start : start + 100])
        parts.append((images.permute(0, 3, 1, 2) * 255).round().byte())
    return torch.cat(parts) if parts else torch.empty(0, 3, CROP, CROP, dtype=torch.uint8)


def _pool_scenes(first_seed: int) -> Iterator[Scene]:
    made = 0
    for seed in count_from(first_seed):
        scene = make_scene(seed, _COUNTS[seed % len(_COUNTS)], distinct_colors=False)
        if made % 3 == 0 or any(o.material == _FINEST for o in scene.objects):
            made += 1
            yield scene


def random_crops(pool: Tensor, step: int, batch: int) -> Tensor:
    """Crops (batch, 3, 64, 64) in [-1, 1] that depend on the step alone."""
    rng = np.random.default_rng((11, step % 2**32))
    picks = rng.integers(0, len(pool), batch).tolist()
    corners = rng.integers(0, (pool.shape[2] - CROP) // 4 + 1, (batch, 2)) * 4
    crops = [
        pool[i, :, y : y + CROP, x : x + CROP]
        for i, (y, x) in zip(picks, corners.tolist(), strict=True)
    ]
    return torch.stack(crops).float() / 127.5 - 1


def reconstruction_loss(result: Tensor, target: Tensor) -> Tensor:
    """L1 + 4 MSE + differences of neighbouring pixels, images (B, 3, H, W)."""
    error = result - target
    across = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * across


def train_autoencoder(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> DemoAutoencoder:
    """Train (or continue) the autoencoder and return it with averaged weights, in eval mode.

    A new stage begins with the weights `start`, or with random ones.
    """
    net = build_seeded(1, DemoAutoencoder, start)
    # Module.to takes a memory format; torch's type stubs leave that call out.
    net = net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    stage = Stage(plan, net, out)
    pool = _pool(stage)

    def loss_at(step: int, position: float) -> Tensor:
        images = random_crops(pool, step, plan.batch).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            result = net.decode(_jitter(net.encode(images), step))
        return reconstruction_loss(result.float(), images)

    net.load_state_dict(stage.train(loss_at))
    return net.eval()


def train_decoder(
    plan: StagePlan, out: Path, device: torch.device, net: DemoAutoencoder
) -> DemoAutoencoder:
    """Give the decoder more time with the encoder, and so the latents, fixed."""
    stage = Stage(plan, net.decoder, out)
    pool = _pool(stage)

    def loss_at(step: int, position: float) -> Tensor:
        images = random_crops(pool, -step - 1, plan.batch)
        images = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                latent = _jitter(net.encode(images), step)
            result = net.decode(latent)
        return reconstruction_loss(result.float(), images)

    net.decoder.load_state_dict(stage.train(loss_at))
    return net.eval()


def _pool(stage: Stage) -> Tensor:
    """The scenes a stage crops from; none where it is finished."""
    count = min(POOL, stage.plan.samples)
    return scene_pool(count if stage.position < 1 else 0, TRAINING_SEEDS.start)


def _jitter(latent: Tensor, step: int) -> Tensor:
    """Latents with noise that depends on the step alone."""
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(step))
    return latent + noise.to(latent.device) * (LATENT_NOISE / SD15_SCALE)


def psnr(net: DemoAutoencoder, count: int = 64) -> float:
    """Mean PSNR in dB of whole two-object scenes that training never saw."""
    images, _ = render_batch([make_scene(CHECK_SEEDS[i], triples="all") for i in range(count)])
    pixels = images.permute(0, 3, 1, 2).to(next(net.parameters()).device)
    with torch.inference_mode():
        result = (net.decode(net.encode(pixels * 2 - 1)) * 0.5 + 0.5).clamp(0, 1)
    mse = F.mse_loss(result, pixels, reduction="none").mean((1, 2, 3))
    return float((-10 * mse.log10()).mean())
