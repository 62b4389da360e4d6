"""Training stage 5: the finder, on rendered scenes with blur and noise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .finder import FinderNet
from .render import render_batch
from .scenes import TRAINING_SEEDS, Scene, training_scenes
from .stage import Stage, StagePlan, build_seeded
from .train_judge import degrade, object_labels

_FIRST_SEED = TRAINING_SEEDS.start + 20_000_000
_COUNTS = (1, 2, 3, 4)
_NOTHING = -100  # cross_entropy leaves these pixels out


def train_finder(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> FinderNet:
    """Train (or continue) the finder and return it with averaged weights, in eval mode.

    A new stage begins with the weights `start`, or with random ones.
    """
    net = build_seeded(7, FinderNet, start).to(device)
    stage = Stage(plan, net, out)

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((77, step))
        first = _FIRST_SEED + step * plan.batch
        scenes = training_scenes(range(first, first + plan.batch), _COUNTS, "all")
        images, masks = render_batch(scenes)
        images = degrade(images.permute(0, 3, 1, 2), rng).to(device)
        found = finder_loss(net, images, masks.to(device), pixel_labels(scenes, masks).to(device))
        outlines = fray(object_masks(scenes, masks), rng).to(device)
        shapes = object_labels(scenes)[:, 0].to(device)
        return found + F.cross_entropy(net.shapes(outlines), shapes)

    net.load_state_dict(stage.train(loss_at))
    return net.eval()


def object_masks(scenes: list[Scene], masks: Tensor) -> Tensor:
    """Masks (N, H, W) of all objects, scene by scene, of masks (B, 4, H, W)."""
    return torch.cat([rows[: len(s.objects)] for s, rows in zip(scenes, masks, strict=True)])


def fray(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Masks (N, H, W) with outlines a pixel too wide, or with a few wrong pixels, as found ones."""
    wider = F.max_pool2d(masks[:, None], 3, 1, 1)[:, 0]
    is_wider = torch.from_numpy(rng.random(len(masks)) < 0.3)[:, None, None]
    flipped = torch.from_numpy(rng.random(masks.shape) < 0.3)
    edge = (wider > 0.5) & (masks <= 0.5)
    return torch.where(is_wider | (edge & flipped), wider, masks)


def pixel_labels(scenes: list[Scene], masks: Tensor) -> Tensor:
    """Indices (B, 2, H, W) of color and material of each pixel's object, or a number that
    cross_entropy ignores; masks (B, 4, H, W)."""
    labels = torch.full((len(scenes), 2, *masks.shape[2:]), _NOTHING)
    of_objects = iter(object_labels(scenes)[:, 1:])
    for b, scene in enumerate(scenes):
        for k in range(len(scene.objects)):
            labels[b, :, masks[b, k] > 0.5] = next(of_objects)[:, None]
    return labels


def finder_loss(net: FinderNet, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Of images (B, 3, H, W): whether a pixel is an object's, and of which color and material."""
    is_object, *kinds = net(images)
    loss = F.binary_cross_entropy_with_logits(is_object, (masks.amax(1) > 0.5).float())
    for i, logits in enumerate(kinds):
        loss = loss + 0.3 * F.cross_entropy(logits, labels[:, i], ignore_index=_NOTHING)
    return loss
