"""Runs of the tiny model through ComfyUI's own sampling: KSampler and the two-branch guider.

Imported by tests as `ale_edit.tests.host.runs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import pytest
import torch
from comfy.ldm.modules import attention as comfy_attention
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.comfy_types import Conditioning
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.host.text.embedding import embed_side
from ale_edit.prompts.edits import Edits
from ale_edit.regions.regions import Regions
from ale_edit.tests.tiny import edits_of, randn, source_latent, two_regions

STEPS = 4


def plain(clip: Any, prompt: str) -> Conditioning:
    """As CLIPTextEncode."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def side(clip: Any, edits: Edits, name: Any) -> Conditioning:
    """As Object-Restricted Embeddings: name is "source" or "target"."""
    return embed_side(clip, edits, name)


def patched(model: Any, regions: Regions | None = None, schedule: float = 0.5) -> Any:
    """The three model nodes of the main job."""
    regions = regions or two_regions()
    model = apply_self_injection(apply_rgb_cam(model, regions), schedule)
    return apply_background_blending(model, regions)


def two_branch_guider(
    model: Any,
    source: Conditioning,
    target: Conditioning,
    negative: Conditioning,
    guidance: tuple[float, float] = (1.0, 2.0),
    reuses_source: bool = True,
) -> BranchGuider:
    """As the node Two-Branch Guider."""
    branches = (Branch("source", source, guidance[0]), Branch("target", target, guidance[1]))
    return BranchGuider(model, branches, negative, reuses_source=reuses_source)


def guide(
    model: Any,
    clip: Any,
    edits: Edits | None = None,
    guidance: tuple[float, float] = (1.0, 2.0),
    negative: str = "",
    reuses_source: bool = False,
) -> BranchGuider:
    """reuses_source is off, unlike in the nodes, so that equal runs are equal bit for bit."""
    edits = edits or edits_of()
    source, target = side(clip, edits, "source"), side(clip, edits, "target")
    return two_branch_guider(model, source, target, plain(clip, negative), guidance, reuses_source)


def edit(
    guider: Any,
    latent: Tensor | None = None,
    *,
    seed: int = 5,
    steps: int = STEPS,
    strength: float = 1.0,
    eta: float = 1.0,
    noise_mask: Tensor | None = None,
    callback: Callable[..., None] | None = None,
    sampler: Any = None,
) -> Tensor:
    """As SamplerCustomAdvanced with Virtual Inversion, or another sampler, and LCM Schedule."""
    latent = source_latent() if latent is None else latent
    return guider.sample(
        torch.zeros_like(latent),
        latent,
        sampler or virtual_inversion_sampler(eta),
        lcm_sigmas(guider.model_patcher, steps, strength),
        denoise_mask=noise_mask,
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )


def generate(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    *,
    shape: tuple[int, int, int, int] = (1, 4, 8, 8),
    noise: Tensor | None = None,
    steps: int = 2,
    cfg: float = 3.0,
    seed: int = 5,
    sampler: str = "euler",
    callback: Callable[..., None] | None = None,
) -> Tensor:
    """As KSampler on an empty latent."""
    noise = randn(*shape, seed=seed) if noise is None else noise
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        "normal",
        positive,
        negative,
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )


def with_option(model: Any, change: Callable[[Any], None]) -> Any:
    """A clone of a MODEL after a stock patching call, as another pack's node makes it."""
    clone = model.clone()
    # in a graph ComfyUI's cache keeps every model; here only the first one lives on
    clone.parent = model.parent or model
    change(clone)
    return clone


def use_opaque_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ComfyUI have selected an attention without gradients."""
    selected = comfy_attention.optimized_attention

    @comfy_attention.wrap_attn
    def opaque(q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any) -> Tensor:
        return selected(q.detach(), k.detach(), v.detach(), *args, **named)

    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy_attention, name, opaque)


def relative_error(made: Tensor, expected: Tensor) -> float:
    """The largest difference, in standard deviations of what is expected."""
    return float((made - expected).abs().max() / expected.std())
