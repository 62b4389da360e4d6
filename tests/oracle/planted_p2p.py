"""Mistakes to plant in Prompt-to-Prompt, one at a time: each must push the error of the whole edit
far above its bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ale_edit.attention.control import Route, Step

from .p2p_diffusers import Sampling, Settings
from .planted import Mistake
from .planted_editors import both_halves, later, latest_only, normalised, routed, unaligned_too

P2P = "editors.p2p"
CONTROL = f"{P2P}:P2PControl"
# At 7.5, the default, rounding alone comes close to the bound.
PLAIN = Settings(Sampling(source_guidance=3.0, target_guidance=5.0))
REPLACE = replace(PLAIN, mode="replace")
BLEND = replace(PLAIN, blend="wolf goat", subtract="house", threshold=0.62)
# words of one and of several tokens in each other's place, before and behind others
LONG = replace(
    REPLACE,
    prompts=(
        "grey wolf and a yellow moon over a house",
        "grey chinchilla and a yellow gooseberry over a house",
    ),
)


def renumbered(number: Any) -> Any:
    """As if a step had another number."""

    def plant(right: Any) -> Any:
        def wrong(self: Any, latents: Any, step: Step) -> Any:
            return right(self, latents, replace(step, number=number(step)))

        return wrong

    return plant


MISTAKES = [
    Mistake(
        "the source's own self-attention in the target",
        f"{CONTROL}.routes",
        routed(target=Route("source", "source", "source")),
        PLAIN,
    ),
    Mistake(
        "target's own queries",
        f"{CONTROL}.routes",
        routed(target=Route("target", "source", "target")),
        PLAIN,
    ),
    Mistake("self-attention in both halves", f"{CONTROL}.routes", both_halves, PLAIN),
    Mistake(
        "self-attention of the finest grid",
        "attention.control:Layer.is_half_or_coarser",
        lambda _: property(lambda self: True),
        PLAIN,
    ),
    Mistake("self share a step too short", f"{P2P}:is_self_step", later, PLAIN),
    Mistake("cross share a step too short", f"{P2P}:is_cross_step", later, PLAIN),
    Mistake("cross control in both halves", f"{CONTROL}.acts", both_halves, PLAIN),
    Mistake("new words have a map of the source", f"{P2P}:refine", unaligned_too, PLAIN),
    Mistake(
        "maps normalised",
        f"{P2P}:WordMapper.carry",
        normalised,
        replace(PLAIN, factors=(("goat", 2.0),)),
    ),
    Mistake(
        "tokens of a longer word with the whole map",
        f"{P2P}:replacement_shares",
        lambda right: lambda *args: right(*args).ceil(),
        LONG,
    ),
    Mistake(
        "the published code's rows",
        f"{P2P}:replacement_shares",
        lambda right: lambda *args: right(*args[:-1], "published code"),
        LONG,
    ),
    Mistake(
        "factors on the map that stays",
        f"{P2P}:is_cross_step",
        lambda right: lambda settings, step: True,
        replace(PLAIN, factors=(("goat", 2.0),)),
    ),
    Mistake("maps of the last step alone", "attention.word_maps:WordMaps.add", latest_only, BLEND),
    Mistake(
        "maps of the finest grid",
        "attention.word_maps:fitness",
        lambda _: lambda grid: (True, grid[0] * grid[1]),
        replace(BLEND, sampling=replace(BLEND.sampling, steps=4)),
        scene="large",
    ),
    Mistake(
        "no neighbours in the mask",
        "attention.word_maps:max_pool2d",
        lambda _: lambda maps, *args, **kwargs: maps,
        BLEND,
    ),
    Mistake(
        "subtracted words widened",
        "attention.word_maps:WordMaps.mask",
        lambda right: (
            lambda self, name, words, size, threshold, is_widened: right(
                self, name, words, size, threshold, True
            )
        ),
        BLEND,
    ),
    Mistake(
        "the target's words alone",
        f"{P2P}:BlendRows.source",
        lambda _: property(lambda self: (), lambda self, value: None),
        BLEND,
    ),
    Mistake(
        "blended a step too early",
        f"{CONTROL}.blend_latents",
        renumbered(lambda step: step.number + 1),
        BLEND,
    ),
    Mistake(
        "the last step not blended",
        f"{CONTROL}.blend_latents",
        renumbered(lambda step: -1 if step.number == step.count - 1 else step.number),
        BLEND,
    ),
    Mistake(
        "end tokens a row later",
        "host.text.end_tokens:substitute_end_tokens",
        lambda right: (
            lambda prompt, plain: torch.cat([right(prompt, plain)[:1], right(prompt, plain)[:-1]])
        ),
        replace(PLAIN, plain="goat and ball"),
    ),
]
