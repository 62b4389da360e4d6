"""Training stage 4: the judge, on crops of ground truth with box errors, blur and noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .judge import JudgeNet, crop_regions, region_boxes
from .render import render_batch
from .scenes import COLORS, MATERIALS, SHAPES, TRAINING_SEEDS, Scene, training_scenes
from .stage import Stage, StagePlan, build_seeded

_FIRST_SEED = TRAINING_SEEDS.start + 10_000_000
_COUNTS = (1, 2, 2, 3, 3, 4)


def object_crops(
    scenes: list[Scene], images: Tensor, masks: Tensor, jitter: np.random.Generator | None
) -> Tensor:
    """One crop per object (K, 3, 48, 48); images (B, H, W, 3), masks (B, 4, H, W)."""
    owner = [b for b, scene in enumerate(scenes) for _ in scene.objects]
    slot = [k for scene in scenes for k in range(len(scene.objects))]
    boxes = region_boxes(masks[owner, slot])
    if jitter is not None:
        shift = torch.from_numpy(jitter.uniform(-0.08, 0.08, (len(boxes), 2))).float()
        boxes[:, :2] += shift * boxes[:, 2:]
        boxes[:, 2] *= torch.from_numpy(jitter.uniform(0.92, 1.2, len(boxes))).float()
    return crop_regions(images.permute(0, 3, 1, 2)[owner], boxes)


def object_labels(scenes: list[Scene]) -> Tensor:
    """Indices (K, 3) of shape, color, material, scene by scene."""
    return torch.tensor(
        [
            (SHAPES.index(o.shape), COLORS.index(o.color), MATERIALS.index(o.material))
            for scene in scenes
            for o in scene.objects
        ]
    )


def train_judge(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> JudgeNet:
    """Train (or continue) the judge and return it with averaged weights, in eval mode.

    A new stage begins with the weights `start`, or with random ones.
    """
    net = build_seeded(5, JudgeNet, start).to(device)
    stage = Stage(plan, net, out)

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((55, step))
        first = _FIRST_SEED + step * plan.batch
        scenes = training_scenes(range(first, first + plan.batch), _COUNTS, "all")
        images, masks = render_batch(scenes)
        crops = degrade(object_crops(scenes, images, masks, rng), rng).to(device)
        labels = object_labels(scenes).to(device)
        logits = net(crops)
        losses = (F.cross_entropy(row, labels[:, i]) for i, row in enumerate(logits))
        return cast("Tensor", sum(losses))

    net.load_state_dict(stage.train(loss_at))
    return net.eval()


def degrade(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur a random half of the crops a little and add noise."""
    is_blurred = torch.from_numpy(rng.random(len(crops)) < 0.5)
    blurred = F.avg_pool2d(F.pad(crops, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.from_numpy(rng.uniform(0.2, 0.9, len(crops))).float() * is_blurred
    mixed = torch.lerp(crops, blurred, share[:, None, None, None])
    level = rng.uniform(0, 0.05, (len(crops), 1, 1, 1))
    noise = torch.from_numpy((rng.standard_normal(crops.shape) * level).astype(np.float32))
    return (mixed + noise).clamp(0, 1)
