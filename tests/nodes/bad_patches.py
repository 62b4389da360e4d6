"""Patches of other nodes that do not go with ours.

Imported by tests as `ale_edit.tests.nodes.bad_patches`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.host.other_nodes import in_tiles, row_by_row
from ale_edit.tests.host.stock_runs import core_node
from ale_edit.tests.nodes.bad_input import Case, regional
from ale_edit.tests.nodes.graph import one
from ale_edit.tests.versions import HAS_CFG_OVERRIDE


def couple(model: Any) -> Any:
    """Another pack's node that appends a text inside cross-attention."""

    def patch(n: Any, context: Any, value: Any, options: Any) -> Any:
        text = torch.cat([context, context], dim=1)
        return n, text, text

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


def merge_queries(model: Any) -> Any:
    """Another pack's node that leaves out half of the positions of cross-attention."""

    def patch(n: Any, context: Any, value: Any, options: Any) -> Any:
        return n[:, ::2], context, value

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


MAHIRO = core_node("nodes_mahiro", "Mahiro")
CFG_OVERRIDE = core_node("nodes_custom_sampler", "CFGOverride", 4.0)
WINDOWS = core_node(
    "nodes_context_windows",
    *("ContextWindowsManualNode", 2, 0, "standard_static", 1, False, "flat", 0),
)
PATCH_CASES = [
    Case(
        "an attention couple beside RGB-CAM",
        lambda w: w.generate(regional(couple(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "changes the text inside cross-attention",
        ("Region Cross-Attention", "attention couple", "Hypernetwork Loader"),
        calls=1,
    ),
    Case(
        "merged queries beside RGB-CAM",
        lambda w: w.generate(regional(merge_queries(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "changes the rows or positions of cross-attention",
        ("Region Cross-Attention", "2 rows of 64 positions became 2 of 32"),
        calls=1,
    ),
    Case(
        "tiles beside RGB-CAM",
        lambda w: w.generate(in_tiles(regional(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "Remove what cuts latents into tiles",
        ("Region Cross-Attention", "8x8", "8x4", "Tiled Diffusion"),
    ),
    Case(
        "rows one by one beside RGB-CAM",
        lambda w: w.generate(row_by_row(regional(w.model)), w.ore()[1]),
        "ALERegionCrossAttention",
        "Remove what splits, repeats or windows the batch",
        ("Region Cross-Attention", "2 rows of a model call into 1"),
    ),
    Case(
        "rows one by one beside injection",
        lambda w: w.sample(w.guide(row_by_row(one("ALESelfAttentionInjection", model=w.model)))),
        "ALESelfAttentionInjection",
        "Remove what splits, repeats or windows the batch",
        ("Self-Attention Injection", "4 rows of a model call into 1"),
    ),
    Case(
        "Mahiro",
        lambda w: w.sample(w.guide(MAHIRO(w.model))),
        "ALETwoBranchGuider",
        "the model went through Mahiro",
        ("Two-Branch Guider", "averages over all images"),
    ),
    Case(
        "Context Windows",
        lambda w: w.sample(w.guide(WINDOWS(w.model))),
        "ALETwoBranchGuider",
        "the model went through Context Windows",
        ("Two-Branch Guider", "batch of source and edit"),
    ),
    *(
        [
            Case(
                "CFG Override",
                lambda w: w.sample(w.guide(CFG_OVERRIDE(w.model))),
                "ALETwoBranchGuider",
                "the model went through CFG Override",
                ("Two-Branch Guider", "one guidance for all", "source_guidance"),
            )
        ]
        if HAS_CFG_OVERRIDE
        else []
    ),
]
OF_NODES_NOT_HERE = [] if HAS_CFG_OVERRIDE else ["the model went through CFG Override"]
