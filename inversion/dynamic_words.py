"""Dynamic Prompt Learning: at each step, the embeddings of the nouns of a prompt under which the
attention maps of the nouns show their objects.

Wang, Yang, Yang, Butt, van de Weijer: Dynamic Prompt Learning: Addressing Cross-Attention Leakage
for Text-Based Image Editing, NeurIPS 2023 (arXiv 2309.15664), with the numbers of the published
code, and those of LocInv (Tang, Wang, van de Weijer, arXiv 2405.01496). Each step starts from the
embeddings of the one before, and takes AdamW's updates until every loss is below its threshold,
which falls from step to step. For another number of steps than 50, step i counts as its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .null_text import PUBLISHED_STEPS, NullTextSettings

Pace = Literal["paper", "cheap"]
PACES: tuple[str, ...] = get_args(Pace)
CHEAP_EVERY = 2
"""With the cheap schedule, one of so many steps has updates."""
CHEAP_UPDATES = 4
"""With the cheap schedule, a step has this part of the updates."""
CHEAP_NULL_UPDATES = 10
"""Most updates of the negative text in a step of the cheap schedule, which ends early as null-text
inversion does."""
LOSS_SCALE = 256.0
"""Gradients of the loss are computed this much larger, so that half precision holds them."""


@dataclass(frozen=True)
class LossTerm:
    """One loss: its weight, the threshold of the first step, and by how many steps of 50 that falls
    to 1/e of it."""

    name: str
    weight: float
    threshold: float
    decay: float

    def limit_at(self, step: int, steps: int) -> float:
        return self.threshold * math.exp(-step * PUBLISHED_STEPS / steps / self.decay)


BALANCE = LossTerm("attention balancing", 1.0, 0.3, 25)
LEAKAGE = LossTerm("background leakage", 0.05, 0.7, 50)
DISJOINT = LossTerm("disjoint objects", 0.05, 0.9, 25)
SIMILARITY = LossTerm("similarity to the masks", 1.0, 0.7, 50)
OVERLAP = LossTerm("overlap with the masks", 1.0, 0.7, 25)
BINDING = LossTerm("adjective binding", 2.0, 0.1, 50)
CLUSTER_TERMS = (BALANCE, LEAKAGE, DISJOINT)
MASK_TERMS = (SIMILARITY, OVERLAP)


@dataclass(frozen=True)
class LearningSettings:
    """updates: most updates a step. null_updates: updates of the negative text a step. thresholds:
    factor on the thresholds of the losses. schedule: "cheap" takes fewer updates in fewer steps.
    learning_rate: of AdamW, whose weight decay is torch's."""

    updates: int = 21
    null_updates: int = 51
    thresholds: float = 1.0
    schedule: Pace = "paper"
    learning_rate: float = 1e-3

    def updates_at(self, step: int) -> int:
        if self.schedule == "paper":
            return self.updates
        return -(-self.updates // CHEAP_UPDATES) if step % CHEAP_EVERY == 0 else 0

    def null_text(self, guidance: float) -> NullTextSettings:
        """How the negative text of each step is found; the paper's has no early stop."""
        if self.schedule == "paper":
            return NullTextSettings(self.null_updates, tolerance=0.0, guidance=guidance)
        return NullTextSettings(min(self.null_updates, CHEAP_NULL_UPDATES), guidance=guidance)


def fit_words(
    vectors: Tensor,
    measure: Callable[[Tensor], Tensor],
    terms: Sequence[LossTerm],
    settings: LearningSettings,
    step: int,
    steps: int,
) -> Tensor:
    """The embeddings (B, K, D) of one step; to be called where autograd records.

    vectors: (B, K, D), where the search starts. measure: embeddings -> the losses (B, T) of the
        terms. An image whose losses are all below their thresholds keeps its embeddings while
        others go on.

    Raises ValueError, with the step, when a loss or its gradient is not finite.
    """
    vectors = vectors.float().detach().clone().requires_grad_()
    adam = torch.optim.AdamW([vectors], lr=settings.learning_rate)
    is_done = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    limits, weights = (
        torch.tensor(values, device=vectors.device)
        for values in (
            [settings.thresholds * term.limit_at(step, steps) for term in terms],
            [term.weight for term in terms],
        )
    )
    for _ in range(settings.updates_at(step)):
        losses = measure(vectors).float().to(vectors.device)
        for term, values in zip(terms, losses.detach().T, strict=True):
            _require_finite(f"loss of {term.name}", values, step, steps)
        is_done = is_done | (losses.detach() < limits).all(1)
        if bool(is_done.all()):
            break
        total = (losses * weights).sum() * LOSS_SCALE
        (gradient,) = torch.autograd.grad(total, vectors)
        _require_finite("gradient of each image", gradient.abs().amax((1, 2)), step, steps)
        vectors.grad = gradient / LOSS_SCALE
        before = vectors.detach().clone()
        adam.step()
        with torch.no_grad():
            vectors[is_done] = before[is_done]
    return vectors.detach()


def _require_finite(name: str, values: Tensor, step: int, steps: int) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"at step {step + 1} of {steps}, the {name} is {values.tolist()}. Run the model in "
            "fp32 or bf16."
        )
