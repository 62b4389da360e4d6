"""How Object-Restricted Embeddings travel inside ComfyUI's CONDITIONING, and how a run finds them
again.

A CONDITIONING is a list of [tensor (1, N, D), dict]; keys of the dict that ComfyUI does not know
survive until sampling, where each entry also has a uuid that attention patches see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

from torch import Tensor

from ..prompts.edits import MethodSettings
from ..prompts.ore import ObjectRestrictedEmbeddings

ORE_KEY = "ale_edit_ore"
BRANCHES_KEY = "ale_edit_branches"


@dataclass(frozen=True, eq=False)
class OREEntry:
    """One conditioning entry of a run that carries our embeddings.

    is_two_branch: its rows are [source x B, target x B] and only the target's are ours; otherwise
        all its rows are.
    """

    ore: ObjectRestrictedEmbeddings
    is_two_branch: bool


def make_conditioning(
    ore: ObjectRestrictedEmbeddings,
    pooled: Tensor | None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> list[list[Any]]:
    """A CONDITIONING whose tensor is e'_base, for any sampler, and which carries the whole bundle
    for RGB-CAM.

    options: what else CLIP Text Encode puts beside a text, such as hooks.
    """
    return [[ore.base[None], {**options, "pooled_output": pooled, ORE_KEY: ore}]]


def ore_entries(conds: dict[str, list[dict[str, Any]]]) -> dict[UUID, OREEntry]:
    """Every entry of a guider's conds that carries our embeddings, by uuid."""
    return {
        cond["uuid"]: OREEntry(cond[ORE_KEY], cond.get(BRANCHES_KEY, False))
        for entries in conds.values()
        for cond in entries
        if ORE_KEY in cond and bool(cond["cross_attn"].any())  # Conditioning Zero Out is plain
    }


def run_settings(conds: dict[str, list[dict[str, Any]]]) -> MethodSettings:
    """The method's settings of a run: those that its conditioning was made with, else the
    defaults."""
    entries = list(ore_entries(conds).values())
    return entries[0].ore.settings if entries else MethodSettings()
