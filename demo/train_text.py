"""Training stage 2: the text encoder alone, against the symbolic scene, then frozen.

Each word token predicts what its object has been given so far. End-of-text and padding tokens
predict the contents of the whole caption, so that they carry its meaning as CLIP's do.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .caption_sampler import NO_OBJECT, CaptionSampler, TokenizedCaptions
from .models import new_text_model, tokenize
from .scenes import BACKGROUNDS, COLORS, MATERIALS, MAX_OBJECTS, SHAPES, is_held_out
from .stage import Stage, StagePlan, build_seeded
from .text_encoder import CONTEXT_DIM, TrainableText

_ANCHOR = 30.0  # weight of the states' distance from those of the weights that a stage begins with
_UNKNOWN_WORD = 0.1  # share of captions into which an unknown word is put in
_CLASSES = (len(SHAPES) + 1, len(COLORS) + 1, len(MATERIALS) + 1)  # the last of each: not said
_TRIPLES = np.array(
    [
        (s, c, m)
        for s, shape in enumerate(SHAPES)
        for c, color in enumerate(COLORS)
        for m, material in enumerate(MATERIALS)
        if not is_held_out(shape, color, material)
    ]
)


class _TextWithHeads(nn.Module):
    """The encoder and the linear read-outs that exist only while it trains."""

    def __init__(self, text: TrainableText):
        super().__init__()
        self.text = text
        self.said = nn.Linear(CONTEXT_DIM, sum(_CLASSES))
        self.contents = nn.Linear(CONTEXT_DIM, len(SHAPES) * (2 + _CLASSES[1] + _CLASSES[2]))
        self.background = nn.Linear(CONTEXT_DIM, len(BACKGROUNDS) + 1)

    def loss(self, captions: TokenizedCaptions) -> Tensor:
        states = self.text(captions.ids)
        words = states[captions.owner != NO_OBJECT]  # (L, 128)
        targets = captions.said[captions.owner != NO_OBJECT]
        heads = self.said(words).split(_CLASSES, -1)
        losses = (F.cross_entropy(h, targets[:, i]) for i, h in enumerate(heads))
        loss = cast("Tensor", sum(losses))
        row, position = captions.is_end.nonzero(as_tuple=True)
        pick = torch.arange(
            0, len(row), 5, device=row.device
        )  # a fifth of the end tokens is enough
        end_states = states[row[pick], position[pick]]
        loss = loss + F.cross_entropy(self.background(end_states), captions.background[row[pick]])
        ends = self.contents(end_states).unflatten(-1, (len(SHAPES), -1))
        targets = captions.contents[row[pick]]
        for i, h in enumerate(ends.split((2, *_CLASSES[1:]), -1)):
            loss = loss + 2 * F.cross_entropy(h.flatten(0, 1), targets[..., i].flatten())
        return loss


def random_labels(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (count, 4, 3) of 1..4 objects, trained triples only; backgrounds (count,)."""
    labels = np.full((count, MAX_OBJECTS, 3), -1)
    for row in labels:
        objects = rng.choice((1, 2, 3, 4), p=(0.2, 0.4, 0.3, 0.1))
        while len(set(row[:objects, 0].tolist()) - {-1}) < objects:
            row[:objects] = _TRIPLES[rng.integers(0, len(_TRIPLES), objects)]
    return labels, rng.integers(0, len(BACKGROUNDS), count)


def drift(text: TrainableText, anchor: TrainableText, captions: TokenizedCaptions) -> Tensor:
    """Mean squared distance of the states that `anchor` knows how to make: those of object words,
    and all of a caption without a background.
    """
    is_known = (captions.owner != NO_OBJECT) | (captions.background == len(BACKGROUNDS))[:, None]
    with torch.no_grad():
        before = anchor(captions.ids)
    return F.mse_loss(text(captions.ids)[is_known], before[is_known])


def _insert_word(captions: TokenizedCaptions, row: int, place: int, word: int) -> None:
    """Put a word that says nothing into one caption of the batch, in place."""
    for tokens in (captions.ids, captions.owner, captions.said, captions.is_end):
        tokens[row, place + 1 :] = tokens[row, place:-1].clone()
    if not captions.is_end[row, place]:
        captions.ids[row, place] = word
        captions.owner[row, place] = NO_OBJECT


def new_text() -> TrainableText:
    """The encoder with random weights and a table of the captions' words."""
    return TrainableText(new_text_model(), CaptionSampler(tokenize).token_ids)


def train_text(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> TrainableText:
    """Train (or continue) the text encoder and return it frozen, with averaged weights.

    A new stage begins with random weights, or with the weight file's tensors `start`: new words are
    added to its table, and the states of captions without a background stay close to what they
    were, because a UNet has learned to read them.
    """
    sampler = CaptionSampler(tokenize)
    net = build_seeded(2, lambda: _TextWithHeads(new_text())).to(device)
    if start is not None:
        net.text.adopt(start)
    anchor = deepcopy(net.text).requires_grad_(False) if start is not None else None
    stage = Stage(plan, net, out)

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((22, step))
        captions = sampler.draw(*random_labels(rng, plan.batch), rng).to(device)
        for row in np.flatnonzero(rng.random(plan.batch) < _UNKNOWN_WORD).tolist():
            _insert_word(captions, row, int(rng.integers(1, 12)), net.text.unknown)
        loss = net.loss(captions)
        return loss if anchor is None else loss + _ANCHOR * drift(net.text, anchor, captions)

    net.load_state_dict(stage.train(loss_at))
    return net.text.eval().requires_grad_(False)
