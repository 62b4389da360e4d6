"""Mistakes to plant in the pack, one at a time: each must push the whole-edit oracle's error far
above its bound.

A mistake names a function of the pack ("module:name") and makes a wrong one out of the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from .ale_diffusers import Settings
from .masks_by_hand import on_grid, shares

PAPER = Settings()
CODE = Settings(variant="published code")
LAST_WINS = Settings(overlap="last object")
OTHER = {"paper": "published code", "published code": "paper"}


@dataclass(frozen=True)
class Mistake:
    """target: what to replace. wrong: right function -> wrong function. settings: of the edit, as
    its oracle takes them. scene and family: where it shows."""

    name: str
    target: str
    wrong: Callable[[Any], Any]
    settings: Any = PAPER
    scene: str = "small"
    family: str | None = None

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        module, name = self.target.split(":")
        *owners, attribute = name.split(".")
        owner = resolve_name(":".join([f"ale_edit.{module}", ".".join(owners)]))
        patch.setattr(owner, attribute, self.wrong(getattr(owner, attribute)))


# -- text ----------------------------------------------------------------------------------------


def shifted_spans(right: Any) -> Any:
    return lambda *args: [replace(s, start=s.start + 1, stop=s.stop + 1) for s in right(*args)]


def exchanged_values(right: Any) -> Any:
    def wrong(*args: Any) -> Any:
        ore = right(*args)
        return replace(ore, values=torch.cat([ore.values[:-1].flip(0), ore.values[-1:]]))

    return wrong


def keys_from_base(right: Any) -> Any:
    def wrong(*args: Any) -> Any:
        ore = right(*args)
        return replace(ore, keys=ore.base)

    return wrong


def plain_base(right: Any) -> Any:
    def wrong(*args: Any) -> Any:
        ore = right(*args)
        return replace(ore, values=torch.cat([ore.values[:-1], ore.keys[None]]))

    return wrong


def other_variants_embeddings(right: Any) -> Any:
    def wrong(base: Any, phrases: Any, empty: Any, settings: Any) -> Any:
        other = replace(settings, variant=OTHER[settings.variant])
        return replace(right(base, phrases, empty, other), settings=settings)

    return wrong


def no_row_bug(right: Any) -> Any:
    def wrong(base: Any, phrases: Any, empty: Any, settings: Any) -> Any:
        ore = right(base, phrases, empty, settings)
        aligned = right(base, phrases, empty, replace(settings, variant="paper"))
        return replace(ore, values=torch.cat([ore.values[:-1], aligned.values[-1:]]))

    return wrong


def other_objects_kept(right: Any) -> Any:
    def wrong(chunk: Any, substituted: Any, index: int, phrases: Any, *rest: Any) -> Any:
        out = right(chunk, substituted, index, phrases, *rest)
        for other in phrases[:index] + phrases[index + 1 :]:
            out[other.span.rows] = substituted[other.span.rows]
        return out

    return wrong


def joining_words_kept(right: Any) -> Any:
    def wrong(chunk: Any, substituted: Any, index: int, phrases: Any, *rest: Any) -> Any:
        out = right(chunk, substituted, index, phrases, *rest)
        words = torch.arange(len(out)) < chunk.end
        for phrase in phrases:
            words[phrase.span.rows] = False
        return torch.where(words[:, None], substituted, out)

    return wrong


TEXT = [
    Mistake("word rows off by one", "host.text.embedding:find_spans_in_order", shifted_spans),
    Mistake(
        "objects' values exchanged",
        "host.text.embedding:restrict_embeddings",
        exchanged_values,
    ),
    Mistake("keys from e'_base", "host.text.embedding:restrict_embeddings", keys_from_base),
    Mistake("e'_base left plain", "host.text.embedding:restrict_embeddings", plain_base),
    Mistake(
        "the other variant's embeddings",
        "host.text.embedding:restrict_embeddings",
        other_variants_embeddings,
    ),
    Mistake(
        "no row bug in the published code",
        "host.text.embedding:restrict_embeddings",
        no_row_bug,
        CODE,
    ),
    Mistake(
        "end-of-text rows of the base prompt",
        "prompts.ore:end_of_text_rows",
        lambda right: lambda _, *args: right("naive", *args),
    ),
    Mistake("other objects' rows kept", "prompts.ore:_restrict", other_objects_kept, LAST_WINS),
    Mistake('"and" kept in the published code', "prompts.ore:_restrict", joining_words_kept, CODE),
]

# -- regions and cross-attention -----------------------------------------------------------------


def sources_rows(right: Any) -> Any:
    """The source's rows in place of the target's."""

    def wrong(self: Any, call: Any) -> Any:
        if "source" not in call.running:
            return right(self, call)
        out = right(self, replace(call, q={"target": call.q["source"]}))
        return {"source": out["target"]} if out else {}

    return wrong


def grids_of(settings: Settings) -> Callable[[Any], Any]:
    def wrong(masks: Any, height: int, width: int, *_: Any) -> Any:
        return torch.from_numpy(on_grid(masks.numpy() > 0.5, height, width, settings.variant))

    return lambda _: wrong


def without_small(_: Any) -> Any:
    def wrong(masks: Any, height: int, width: int, *_: Any) -> Any:
        return (
            torch.stack([torch.from_numpy(shares(m.numpy(), height, width)) for m in masks]) >= 0.25
        )

    return wrong


REGIONS = [
    Mistake(
        "masks exchanged",
        "editors.ale:coverage",
        lambda right: lambda *args, **named: right(*args, **named).flip(0),
    ),
    Mistake(
        "grid transposed",
        "editors.ale:coverage",
        lambda right: (
            lambda masks, h, w, *rest, **named: right(masks, w, h, *rest, **named).reshape(-1, h, w)
        ),
    ),
    Mistake("a vanished object lost", "editors.ale:coverage", without_small),
    Mistake("grids sampled in the paper variant", "editors.ale:coverage", grids_of(CODE)),
    Mistake("grids counted in the published code", "editors.ale:coverage", grids_of(PAPER), CODE),
    Mistake(
        "overlap to the last object",
        "editors.ale:cell_groups",
        lambda right: lambda covered, _: right(covered, True),
    ),
    Mistake("no dilation", "regions.regions:dilate", lambda _: lambda masks, _: masks),
    Mistake(
        "every word seen everywhere",
        "attention.rgb_cam:visible_tokens",
        lambda _: lambda owner, _: torch.arange(len(owner)),
    ),
    Mistake("RGB-CAM left out", "editors.ale:RegionControl.outputs", lambda _: lambda *_: {}),
    Mistake("RGB-CAM on the source's rows", "editors.ale:RegionControl.outputs", sources_rows),
]

# -- self-attention injection --------------------------------------------------------------------


def routed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Any], Any]:
    """The routes of injection, changed."""
    return lambda right: lambda self, *place: change(right(self, *place))


def values_too(routes: dict[str, Any]) -> dict[str, Any]:
    """The target's values are the source's as well."""
    return {branch: replace(route, v="source") for branch, route in routes.items()}


def from_target(routes: dict[str, Any]) -> dict[str, Any]:
    return (
        {"source": replace(routes["target"], q="target", k="target", v="source")} if routes else {}
    )


def conditional_only(right: Any) -> Any:
    def wrong(self: Any, layer: Any, step: Any, is_cond: bool) -> Any:
        return right(self, layer, step, is_cond) if is_cond else {}

    return wrong


ROUTES = "editors.ale:InjectionControl.routes"
INJECTION = [
    Mistake(
        "injection one step longer",
        "editors.ale:is_injection_step",
        lambda right: lambda step, *args: right(step - 1, *args),
    ),
    Mistake(
        "injection one step shorter",
        "editors.ale:is_injection_step",
        lambda right: lambda step, *args: right(step + 1, *args),
        CODE,
    ),
    Mistake("values injected too", ROUTES, routed(values_too)),
    Mistake("no injection in the unconditional half", ROUTES, conditional_only),
    Mistake("injection from target to source", ROUTES, routed(from_target)),
]

# -- blending ------------------------------------------------------------------------------------

BLENDING = [
    Mistake("blending left out", "editors.ale:is_blending_step", lambda _: lambda *_: False),
    Mistake(
        "foreground blended",
        "editors.ale:background_weights",
        lambda right: lambda *args: ~right(*args),
    ),
    Mistake(
        "the other variant's steps blended",
        "editors.ale:is_blending_step",
        lambda right: lambda step, steps, variant: right(step, steps, OTHER[variant]),
    ),
    Mistake(
        "the published code's first step blended",
        "editors.ale:is_blending_step",
        lambda right: lambda step, *args: step == 0 or right(step, *args),
        CODE,
    ),
    Mistake(
        "the published code's foreground not grown",
        "editors.ale:latent_background",
        lambda right: lambda masks, h, w, _: right(masks, h, w, "paper"),
        CODE,
    ),
]

# -- branches, guidance, noise, schedule ---------------------------------------------------------


def unshared_noise(right: Any) -> Any:
    def wrong(self: Any, *args: Any) -> Any:
        *rest, n = args
        return {**right(self, *rest, n.flip(-1)), "source": right(self, *args)["source"]}

    return wrong


def exchanged_guidance(right: Any) -> Any:
    def wrong(self: Any, model: Any, branches: Any, *args: Any, **options: Any) -> None:
        scales = [branch.guidance for branch in branches][::-1]
        exchanged = [replace(b, guidance=g) for b, g in zip(branches, scales, strict=True)]
        right(self, model, exchanged, *args, **options)

    return wrong


def exchanged_branches(right: Any) -> Any:
    def wrong(branches: Any, batch: int) -> Any:
        conds = list(branches.values())[::-1]
        return right(dict(zip(branches, conds, strict=True)), batch)

    return wrong


def spread_by(name: str, wrong: Any) -> Any:
    """SPREADS with a wrong way to spread time steps under one name."""
    return lambda right: right | {name: wrong(right[name])}


def first_items_noise(right: Any) -> Any:
    def wrong(seed: int, shape: Any) -> Any:
        noise = right(seed, shape)
        noise._generators = [torch.Generator().manual_seed(seed) for _ in noise._generators]
        return noise

    return wrong


def exchanged_pooled(right: Any) -> Any:
    def wrong(branches: Any, batch: int) -> Any:
        entry = right(branches, batch)
        return {**entry, "pooled_output": entry["pooled_output"].roll(batch, 0)}

    return wrong


def targets_pooled(right: Any) -> Any:
    def wrong(branches: Any, batch: int) -> Any:
        return {**right(branches, batch), "pooled_output": branches["target"]["pooled_output"]}

    return wrong


def first_items_concat(right: Any) -> Any:
    def wrong(branches: Any, batch: int) -> Any:
        entry = right(branches, batch)
        return {**entry, "concat_latent_image": entry["concat_latent_image"][:1]}

    return wrong


LOOP = [
    Mistake(
        "source and target conditioning exchanged",
        "host.sampling.branch_guider:make_branches_entry",
        exchanged_branches,
    ),
    Mistake(
        "source and target prediction exchanged",
        "host.sampling.virtual_inversion:predict_edit",
        lambda right: lambda x0, source, target: right(x0, target, source),
    ),
    Mistake(
        "guidance scales exchanged",
        "host.sampling.branch_guider:BranchGuider.__init__",
        exchanged_guidance,
    ),
    Mistake("noise not shared", "inversion.update_rule:UpdateRule.advance", unshared_noise),
    Mistake(
        "every item has the first one's noise",
        "host.sampling.virtual_inversion:ItemNoise",
        first_items_noise,
        scene="two objects",
    ),
    Mistake(
        "start from the noised source",
        "host.sampling.virtual_inversion:is_largest",
        lambda _: lambda *_: False,
    ),
    Mistake(
        "old diffusers' time steps",
        "host.sampling.schedule:SPREADS",
        spread_by("LCM", lambda right: lambda steps, *_: [999 - 60 * i for i in range(steps)]),
    ),
    Mistake(
        "time steps off by one",
        "host.sampling.schedule:SPREADS",
        spread_by("LCM", lambda right: lambda *args: [t - 1 for t in right(*args)]),
    ),
]

BRANCHES = "host.sampling.branch_guider:make_branches_entry"
FAMILY = [
    Mistake("pooled vectors exchanged", BRANCHES, exchanged_pooled, family="SDXL"),
    Mistake("the target's pooled vector for both", BRANCHES, targets_pooled, family="SDXL"),
    Mistake(
        "every item has the first one's hidden image",
        BRANCHES,
        first_items_concat,
        scene="two objects",
        family="SDXL inpainting",
    ),
]

MISTAKES = [*TEXT, *REGIONS, *INJECTION, *BLENDING, *LOOP, *FAMILY]
