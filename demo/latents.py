"""Training stage 3: scenes rendered and encoded once, into a memory-mapped shard with labels."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import SD15_SCALE, DemoAutoencoder
from .render import IMAGE_SIZE, render_batch
from .scenes import (
    BACKGROUNDS,
    COLORS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    TRAINING_SEEDS,
    Scene,
    training_scenes,
)
from .stage import REPORT_EVERY_S

log = logging.getLogger(__name__)

CELLS = IMAGE_SIZE // 8
_FIRST_SEED = TRAINING_SEEDS.start + 1_000_000
_COUNTS = (0, 1, 1, 1, *(2,) * 9, *(3,) * 5, 4, 4)  # objects of consecutive scenes
_CHUNK = 100

_RECORD = np.dtype(
    [
        ("latent", np.float16, (4, CELLS, CELLS)),
        ("masks", np.uint8, (MAX_OBJECTS, CELLS, CELLS)),
        ("labels", np.int8, (MAX_OBJECTS, 3)),
        ("background", np.int8),
    ]
)


@dataclass(frozen=True)
class LatentBatch:
    """B samples of the shard."""

    latents: Tensor  # (B, 4, h, w), unit variance, as the UNet sees them
    masks: Tensor  # (B, 4, h, w) share of each cell that the object covers
    labels: np.ndarray  # (B, 4, 3) shape, color, material; -1: no object
    backgrounds: np.ndarray  # (B,)


class LatentShard:
    """Read access to a finished shard file."""

    def __init__(self, path: Path):
        self._records = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._records)

    def batch(self, picks: np.ndarray) -> LatentBatch:
        rows = self._records[picks]
        return LatentBatch(
            torch.from_numpy(rows["latent"].astype(np.float32)),
            torch.from_numpy(rows["masks"].astype(np.float32) / 255),
            rows["labels"].astype(np.int64),
            rows["background"].astype(np.int64),
        )


def make_shard(net: DemoAutoencoder, count: int, path: Path) -> LatentShard:
    """Write the shard of `count` training scenes, or complete an interrupted one."""
    if path.exists() and len(np.load(path, mmap_mode="r")) == count:
        return LatentShard(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    is_resumed = part.exists() and len(np.load(part, mmap_mode="r")) == count
    records = np.lib.format.open_memmap(
        part, "r+" if is_resumed else "w+", _RECORD, None if is_resumed else (count,)
    )
    reported = time.monotonic()
    for start in range(0, count, _CHUNK):
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            log.info("latents: %d of %d scenes", start, count)
        stop = min(start + _CHUNK, count)
        if not records["latent"][stop - 1].any():
            records[start:stop] = _encode_scenes(
                net, range(_FIRST_SEED + start, _FIRST_SEED + stop)
            )
    records.flush()
    del records
    part.replace(path)
    return LatentShard(path)


def _encode_scenes(net: DemoAutoencoder, seeds: range) -> np.ndarray:
    scenes = training_scenes(seeds, _COUNTS)
    images, masks = render_batch(scenes)
    device = next(net.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        latents = net.encode(images.permute(0, 3, 1, 2).to(device) * 2 - 1).float() * SD15_SCALE
    rows = np.zeros(len(scenes), _RECORD)
    rows["latent"] = latents.half().cpu().numpy()
    rows["masks"] = (F.avg_pool2d(masks, 8) * 255).round().byte().numpy()
    for row, scene in zip(rows, scenes, strict=True):
        row["labels"], row["background"] = (
            labels_of(scene),
            BACKGROUNDS.index(scene.background.kind),
        )
    return rows


def labels_of(scene: Scene) -> np.ndarray:
    """Indices (4, 3) of the objects' shape, color, material; -1: no object."""
    labels = np.full((MAX_OBJECTS, 3), -1)
    for k, o in enumerate(scene.objects):
        labels[k] = SHAPES.index(o.shape), COLORS.index(o.color), MATERIALS.index(o.material)
    return labels
