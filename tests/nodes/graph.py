"""Runs the pack's nodes as ComfyUI does, with their widgets' defaults, and wires them into graphs.

Imported by tests as `ale_edit.tests.nodes.graph`.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import torch
from torch import Tensor

import ale_edit
from ale_edit.tests.tiny import PAIRS, randn, two_boxes

TEXT = "\n".join(f"{source} -> {target}" for source, target in PAIRS)


@cache
def nodes() -> dict[str, Any]:
    """Every node class of the pack by node id."""

    async def load() -> dict[str, Any]:
        extension = await ale_edit.comfy_entrypoint()
        return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}

    return asyncio.run(load())


def schema(node_id: str) -> Any:
    return nodes()[node_id].GET_SCHEMA()


def run(node_id: str, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of one node; a widget that is not given has its default, but reuse_source is off,
    so that equal runs are equal bit for bit."""
    defaults = {
        entry.id: entry.default
        for entry in schema(node_id).inputs
        if getattr(entry, "default", None) is not None
    }
    if "reuse_source" in defaults:
        defaults["reuse_source"] = False
    return nodes()[node_id].execute(**{**defaults, **inputs}).args


def one(node_id: str, **inputs: Any) -> Any:
    """The first output of one node."""
    return run(node_id, **inputs)[0]


def edits_with_masks(height: int = 64, width: int = 64) -> Any:
    """The tiny world's two edits, each with a mask of its own."""
    edits = None
    for (source, target), mask in zip(PAIRS, two_boxes(height, width), strict=True):
        edits = one("ALEEditObject", source=source, target=target, previous=edits, mask=mask[None])
    return edits


def picture(batch: int = 1, height: int = 64, width: int = 64, seed: int = 11) -> Tensor:
    """IMAGE (batch, height, width, 3) of smooth colours; item j alone is item 0 at seed + j."""
    coarse = torch.cat([randn(1, 3, 5, 5, seed=seed + j) for j in range(batch)])
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return smooth.sigmoid().movedim(1, -1).contiguous()


def edit_by_single_nodes(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    edits: Any,
    seed: int,
    steps: int,
    reuse_source: bool = False,
) -> Tensor:
    """The graph of workflows/ale_edit.json: the decoded image."""
    from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

    source, target = run("ALEObjectRestrictedEmbeddings", clip=clip, edits=edits)
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    regions = one("ALERegions", edits=edits, image=image)
    patched = one("ALERegionCrossAttention", model=model, regions=regions)
    patched = one("ALESelfAttentionInjection", model=patched)
    patched = one("ALEBackgroundBlending", model=patched, regions=regions)
    branches = {"source": source, "target": target, "negative": negative}
    guider = one("ALETwoBranchGuider", model=patched, **branches, reuse_source=reuse_source)
    sigmas = one("ALELCMSchedule", model=model, steps=steps)
    sampler = one("ALEVirtualInversion")
    noise = RandomNoise.execute(noise_seed=seed).args[0]
    latent = {"samples": vae.encode(image)}
    samples = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
    return vae.decode(samples["samples"])
