"""Training stage 7: the mini CLIP, by contrast of rendered images and their captions.

Half of the images show one object alone on black, as TE and TI cut them out; a few show a
background without objects, which no caption fits. A caption that is true of another image of the
batch is no counter-example there, so truth is read off the labels.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .caption_sampler import CaptionSampler, TokenizedCaptions
from .latents import labels_of
from .mini_clip import MiniClipNet
from .models import tokenize
from .render import render_batch
from .scenes import BACKGROUNDS, COLORS, MATERIALS, SHAPES, TRAINING_SEEDS, Scene, training_scenes
from .stage import Stage, StagePlan, build_seeded
from .text_encoder import TrainableText
from .train_judge import degrade

_FIRST_SEED = TRAINING_SEEDS.start + 30_000_000
_COUNTS = (1, 2, 2, 3, 3, 4)
_ALONE = 0.5  # share of images that show one object on black
_BARE = 8  # one more image in so many samples shows a background only


def is_true(captions: TokenizedCaptions, labels: Tensor, backgrounds: Tensor) -> Tensor:
    """Whether caption i says nothing wrong about image j, (T, B).

    labels (B, 4, 3) of the objects that image j shows (-1: none), backgrounds (B,), -1: not shown.
    """
    shows = torch.full((len(labels), len(SHAPES), 2), -1)
    for k in range(labels.shape[1]):
        row = (labels[:, k, 0] >= 0).nonzero()[:, 0]
        shows[row, labels[row, k, 0]] = labels[row, k, 1:]
    said, color, material = captions.contents[:, None].unbind(-1)  # (T, 1, 8) each
    fits = (shows[None, ..., 0] >= 0) & ((color == len(COLORS)) | (color == shows[None, ..., 0]))
    fits = fits & ((material == len(MATERIALS)) | (material == shows[None, ..., 1]))
    place = captions.background[:, None]
    has_place = (place == len(BACKGROUNDS)) | (place == backgrounds[None])
    return ((said == 0) | fits).all(-1) & has_place


def contrast_loss(scores: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric loss of scores (T, B >= T), pair (i, i), other true pairs left out."""
    pairs = torch.arange(len(scores), device=scores.device)
    others = true.clone()
    others[pairs, pairs] = False
    scores = scores.masked_fill(others, float("-inf"))
    by_text = F.cross_entropy(scores, pairs)
    return (by_text + F.cross_entropy(scores[:, : len(pairs)].T, pairs)) / 2


def train_mini_clip(
    plan: StagePlan, out: Path, device: torch.device, text: TrainableText
) -> MiniClipNet:
    """Train (or continue) the mini CLIP beside the frozen text encoder; averaged, in eval mode."""
    captions_of = CaptionSampler(tokenize)
    net = build_seeded(8, MiniClipNet).to(device)
    stage = Stage(plan, net, out)

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((88, step))
        first = _FIRST_SEED + step * plan.batch
        scenes = training_scenes(range(first, first + plan.batch), _COUNTS)
        images, labels, backgrounds = _views(scenes, rng)
        captions = captions_of.draw(labels[: plan.batch], backgrounds[: plan.batch], rng)
        true = is_true(captions, torch.from_numpy(labels), torch.from_numpy(backgrounds))
        with torch.no_grad():
            states = text(captions.ids.to(device))
        ends = captions.is_end.float().argmax(1)
        pooled = states[torch.arange(len(ends), device=device), ends.to(device)]
        vectors = net.image_vectors(degrade(images, rng).to(device))
        scores = net.log_scale.exp().clamp(max=100) * net.text_vectors(pooled) @ vectors.T
        return contrast_loss(scores, true.to(device))

    net.load_state_dict(stage.train(loss_at))
    return net.eval()


def _views(scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Images (B', 3, H, W) of the scenes, some cut out, with what each shows; B' > B."""
    images, masks = render_batch(scenes)
    images = images.permute(0, 3, 1, 2)
    labels = np.stack([labels_of(scene) for scene in scenes])
    backgrounds = np.array([BACKGROUNDS.index(scene.background.kind) for scene in scenes])
    bare = np.arange(0, len(scenes), _BARE)
    cut = images[bare] * (1 - masks[bare].amax(1, keepdim=True))
    for b in np.flatnonzero(rng.random(len(scenes)) < _ALONE).tolist():
        k = int(rng.integers(0, len(scenes[b].objects)))
        images[b] = images[b] * masks[b, k]
        labels[b, np.arange(labels.shape[1]) != k] = -1
        backgrounds[b] = -1
    nothing = np.full((len(bare), *labels.shape[1:]), -1)
    return (
        torch.cat([images, cut]),
        np.concatenate([labels, nothing]),
        np.concatenate([backgrounds, backgrounds[bare]]),
    )
