"""How Object-Restricted Embeddings travel inside ComfyUI's CONDITIONING, and how a run finds them
again.

A CONDITIONING is a list of [tensor (1, N, D), dict]; keys of the dict that ComfyUI does not know
survive until sampling, where each entry also has a uuid that attention patches see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from torch import Tensor

from ...prompts.edits import MethodSettings
from ...prompts.ore import ObjectRestrictedEmbeddings
from ..comfy_types import Cond, Conditioning, Conds

ORE_KEY = "ale_edit_ore"
BRANCHES_KEY = "ale_edit_branches"
"""Key of a guider's own entries with the EntryBranches that says what their rows are."""
TARGET = "target"
"""The branch that the rows of any other sampler are."""


@dataclass(frozen=True, eq=False)
class EntryBranches:
    """What the rows of a conditioning entry are.

    branches: names; each has an equal share of the entry's rows, in this order. texts: the
        Object-Restricted Embeddings that came with a branch's text. tokens: how many tokens a
        branch's text has, where ComfyUI may repeat it to the length of another.
    """

    branches: tuple[str, ...]
    texts: Mapping[str, ObjectRestrictedEmbeddings] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)

    def cut_text(self, branch: str, text: Tensor) -> Tensor:
        """(B, N, C) of a text whose repetitions are left out; they do not change attention."""
        count = self.tokens.get(branch, text.shape[1])
        return text if text.shape[1] % count else text[:, :count]


def make_conditioning(
    ore: ObjectRestrictedEmbeddings,
    pooled: Tensor | None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Conditioning:
    """A CONDITIONING whose tensor is e'_base, for any sampler, and which carries the whole bundle
    for RGB-CAM.

    options: what else CLIP Text Encode puts beside a text, such as hooks.
    """
    return [[ore.base[None], {**options, "pooled_output": pooled, ORE_KEY: ore}]]


def carry_embeddings(plain: Conditioning, embedded: Conditioning) -> Conditioning:
    """A plain prompt of one text that carries the bundle of the same prompt's embeddings."""
    ((text, options),), ((_, carried),) = plain, embedded
    return [[text, {**options, ORE_KEY: carried[ORE_KEY]}]]


def branch_entries(conds: Conds) -> dict[UUID, EntryBranches]:
    """Every entry of a guider's conds whose rows a control may act on, by uuid: those of a guider
    of ours, and those that carry our embeddings."""
    found: dict[UUID, EntryBranches] = {}
    for entries in conds.values():
        for cond in entries:
            texts = {TARGET: cond[ORE_KEY]} if carries_embeddings(cond) else {}
            given: EntryBranches | None = cond.get(BRANCHES_KEY)
            if given is not None:
                kept = {branch: text for branch, text in texts.items() if branch in given.branches}
                found[cond["uuid"]] = replace(given, texts=kept)
            elif texts:
                found[cond["uuid"]] = EntryBranches((TARGET,), texts)
    return found


def carries_embeddings(cond: Cond) -> bool:
    """Whether an entry carries our embeddings; Conditioning Zero Out makes it plain."""
    return ORE_KEY in cond and bool(cond["cross_attn"].any())


def run_settings(conds: Conds) -> MethodSettings:
    """The method's settings of a run: those that its conditioning was made with, else the
    defaults."""
    texts = (text for entry in branch_entries(conds).values() for text in entry.texts.values())
    return next((text.settings for text in texts), MethodSettings())
