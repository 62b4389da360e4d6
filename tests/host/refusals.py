"""Runs that must be refused before the first step.

Imported by tests as `ale_edit.tests.host.refusals`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.tests.tiny import source_latent


def refuses(words: list[str], run: Callable[[], Any], *models: Any) -> None:
    """run() raises a ValueError with these words, on one line, before any UNet call."""
    with pytest.raises(ValueError) as error:
        run()
    text = str(error.value)
    assert [word for word in words if word not in text] == [], text
    assert text.endswith(".") and "\n" not in text
    assert all(not model.calls for model in models)


def sample(guider: Any, latent: Any = None, sampler: Any = None, sigmas: Any = None) -> Any:
    latent = source_latent() if latent is None else latent
    sampler = sampler or virtual_inversion_sampler()
    sigmas = lcm_sigmas(guider.model_patcher, 4, 1.0) if sigmas is None else sigmas
    return guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True)
