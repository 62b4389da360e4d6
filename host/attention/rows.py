"""Which rows of a UNet batch belong to which conditioning entry and branch.

ComfyUI batches one chunk of rows per conditioning entry, in any order and possibly in several
calls. Inside a chunk of a guider of ours each branch has B rows, in the order of the branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import torch
from torch import Tensor

from ...attention.control import Step
from ..comfy_types import Options
from ..text.conditioning import EntryBranches

STEP_KEY = "ale_edit_step"
"""Entry of transformer_options with the 0-based step; set by the two-branch guider once a step."""
LATENT_KEY = "ale_edit_latent"
"""Entry of transformer_options with the shape (rows, C, h, w) of the latents that a call of the
model is made for, before ComfyUI puts the chunks of several conditionings together. Missing where
another pack's sampler calls the model past its guider."""


@dataclass(frozen=True, eq=False)
class RowChunk:
    """The rows of one conditioning entry in a batch.

    half: ComfyUI's cond_or_uncond, 0 conditional and 1 unconditional. rows: the rows of each
        branch.
    """

    entry: EntryBranches
    half: int
    rows: Mapping[str, slice]

    @property
    def is_cond(self) -> bool:
        return self.half == 0


def chunks_of(rows: int, options: Options, entries: Mapping[UUID, EntryBranches]) -> list[RowChunk]:
    """The chunks of a batch of `rows` that belong to the given entries."""
    halves, uuids = options["cond_or_uncond"], options["uuids"]
    size = rows // len(halves)
    return [
        RowChunk(entry, half, branch_rows(slice(c * size, (c + 1) * size), entry.branches))
        for c, (half, uuid) in enumerate(zip(halves, uuids, strict=True))
        if (entry := entries.get(uuid)) is not None
    ]


def branch_rows(chunk: slice, branches: Sequence[str]) -> dict[str, slice]:
    """Each branch's equal share of the rows of a chunk."""
    size = (chunk.stop - chunk.start) // len(branches)
    starts = [chunk.start + size * i for i in range(len(branches))]
    return {b: slice(start, start + size) for b, start in zip(branches, starts, strict=True)}


def take_branches(rows: Tensor, branches: Sequence[str], taken: Sequence[str]) -> Tensor:
    """The rows of some of the branches, which have equal shares of `rows`, in the order of
    `taken`."""
    if tuple(taken) == tuple(branches):
        return rows
    parts = dict(zip(branches, rows.chunk(len(branches)), strict=True))
    return torch.cat([parts[name] for name in taken])


def require_options(options: Options, keys: Sequence[str], node: str) -> None:
    """Raises ValueError when a call of the model lacks what ComfyUI's samplers and UNets write into
    its transformer_options, as where another pack calls the model with options of its own."""
    if missing := [key for key in keys if key not in options]:
        raise ValueError(
            f"{node}: another node calls the model with transformer_options of its own, without "
            f"{', '.join(missing)}. Without them a call does not say which step and which rows it "
            f"is for. Remove that node, or sample without {node}."
        )


def run_options(model_options: Options, node: str) -> Options:
    """The transformer_options of one step of a run. Raises ValueError for options of no run."""
    options = model_options.get("transformer_options", {})
    require_options(options, ("sample_sigmas",), node)
    return options


def add_latent(model_options: Options, latents: Tensor, node: str) -> Options:
    """The options of calls of the model for `latents` (rows, C, h, w)."""
    options = {**run_options(model_options, node), LATENT_KEY: tuple(latents.shape)}
    return {**model_options, "transformer_options": options}


def require_whole_batch(found: int, options: Options, node: str) -> None:
    """Raises ValueError when a UNet call holds another number of rows than the sampler asked for,
    so that chunks and branches could not be told apart."""
    require_options(options, ("cond_or_uncond",), node)
    latents = options.get(LATENT_KEY)
    rows = latents[0] * len(options["cond_or_uncond"]) if latents else found
    if found != rows:
        raise ValueError(
            f"{node}: another node on the model turned the {rows} rows of a model call into "
            f"{found}. Remove what splits, repeats or windows the batch (such as Tiled Diffusion, "
            f"Context Windows or an attention couple), or bypass {node}."
        )


def require_whole_latents(size: Sequence[int], options: Options, node: str) -> None:
    """Raises ValueError when a UNet call sees another part of the latents than the sampler asked
    for, so that the regions would not fit. size: (h, w) of the call."""
    expected = options.get(LATENT_KEY, (0, 0, *size))[2:]
    if tuple(size) != tuple(expected):
        raise ValueError(
            f"{node}: another node on the model turned latents of {_describe(expected)} (height x "
            f"width) into {_describe(size)}. Remove what cuts latents into tiles (such as Tiled "
            f"Diffusion), or bypass {node}."
        )


def _describe(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def add_step(model_options: Options, timestep: Tensor, node: str) -> Options:
    """The options of one step: patches read its number instead of each asking the device."""
    options = dict(run_options(model_options, node))
    options[STEP_KEY] = step_index(options, timestep)
    return {**model_options, "transformer_options": options}


def step_of(options: Options) -> Step:
    """The step of options made by add_step."""
    schedule = options["sample_sigmas"]
    return Step(options[STEP_KEY], len(schedule) - 1, float(schedule[options[STEP_KEY]]))


def step_index(options: Options, sigmas: Tensor) -> int:
    """The 0-based step of the running sampler, found by its sigma: `sigmas` has one for each row,
    all alike."""
    sigma = sigmas.flatten()[0]
    schedule = options["sample_sigmas"].to(sigma)
    return int((schedule - sigma).abs().argmin())
