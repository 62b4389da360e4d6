"""Which rows of a UNet batch belong to which conditioning entry and branch.

ComfyUI batches one chunk of rows per conditioning entry, in any order and possibly in several
calls; inside a chunk of the two-branch guider the rows are [source x B, target x B].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from .conditioning import OREEntry

STEP_KEY = "ale_edit_step"
"""Entry of transformer_options with the 0-based step; set by the two-branch guider once a step."""


@dataclass(frozen=True)
class BranchRows:
    """Rows of one chunk: equally many of the source and of the target."""

    source: slice
    target: slice


def chunk_rows(rows: int, options: Mapping[str, Any]) -> list[slice]:
    """The rows of each chunk of a batch of `rows`, in the order of options["cond_or_uncond"]."""
    count = len(options["cond_or_uncond"])
    size = rows // count
    return [slice(c * size, (c + 1) * size) for c in range(count)]


def branch_rows(chunk: slice) -> BranchRows:
    """Source and target rows of a two-branch chunk."""
    middle = (chunk.start + chunk.stop) // 2
    return BranchRows(slice(chunk.start, middle), slice(middle, chunk.stop))


def ore_rows(
    rows: int, options: Mapping[str, Any], entries: Mapping[UUID, OREEntry]
) -> list[tuple[slice, OREEntry]]:
    """The rows of a batch that RGB-CAM acts on, with the embeddings of each."""
    found = []
    for chunk, uuid in zip(chunk_rows(rows, options), options["uuids"], strict=True):
        entry = entries.get(uuid)
        if entry is not None:
            found.append((branch_rows(chunk).target if entry.is_two_branch else chunk, entry))
    return found


def step_index(options: Mapping[str, Any]) -> int:
    """The 0-based step of the running sampler, found by its sigma."""
    sigma = options["sigmas"].flatten()[0]
    schedule = options["sample_sigmas"].to(sigma)
    return int((schedule - sigma).abs().argmin())
