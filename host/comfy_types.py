"""Names for what ComfyUI passes around in dicts and lists without types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

Conditioning: TypeAlias = Sequence[Sequence[Any]]
"""A CONDITIONING: entries of [text (B, N, D), options]."""
Cond: TypeAlias = dict[str, Any]
"""An entry of a guider's conds, or the options of an entry of a CONDITIONING."""
Conds: TypeAlias = dict[str, list[Cond]]
"""All entries of a run, as a guider has them: by "positive", "negative" and others."""
Options: TypeAlias = dict[str, Any]
"""model_options, or the transformer_options in them."""
StepCallback: TypeAlias = Callable[[dict[str, object]], object]
"""What a sampler calls after each step, with its latents under names."""
RunCallback: TypeAlias = Callable[[int, Tensor, Tensor, int], object]
"""What a guider calls after each step: (step, prediction, latents, number of steps)."""
