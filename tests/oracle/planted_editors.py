"""Mistakes to plant in InfEdit and MasaCtrl, one at a time: each must push the error of the whole
edit far above its bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ale_edit.attention.control import Route, Step

from . import infedit_diffusers, masactrl_diffusers
from .planted import Mistake

INFEDIT = "editors.infedit"
CONTROL = f"{INFEDIT}:InfEditControl"
# The thresholds are at least 5e-5 away from every place's clearness, which other processors round
# in another way.
BLEND = infedit_diffusers.Settings(
    edit_words="goat ball", keep_words="house", edit_threshold=0.64, keep_threshold=0.58
)
RESHAPE = replace(BLEND, edit_words="goat house")
MASACTRL = masactrl_diffusers.Settings()


def routed(**changed: Route | None) -> Any:
    """routes with those of some branches replaced, or left out."""

    def plant(right: Any) -> Any:
        def wrong(*args: Any) -> Any:
            routes = {**right(*args), **{b: r for b, r in changed.items() if b in right(*args)}}
            return {branch: route for branch, route in routes.items() if route is not None}

        return wrong

    return plant


def conditional_only(right: Any) -> Any:
    def wrong(self: Any, layer: Any, step: Any, is_cond: bool) -> Any:
        return right(self, layer, step, is_cond) if is_cond else {}

    return wrong


def both_halves(right: Any) -> Any:
    return lambda self, layer, step, is_cond: right(self, layer, step, True)


def later(right: Any) -> Any:
    """As one step further on."""
    return lambda settings, step: right(settings, replace(step, number=step.number + 1))


def unaligned_too(right: Any) -> Any:
    return lambda source, own, mapper: right(source, own, mapper.clamp(min=0))


def normalised(right: Any) -> Any:
    def wrong(*args: Any) -> Any:
        found = right(*args)
        return found / found.sum(-1, keepdim=True)

    return wrong


def exchanged_branches(right: Any) -> Any:
    def wrong(self: Any, layer: Any, maps: Any) -> Any:
        other = {"source": maps["layout"], "layout": maps["source"]}
        width = min(m.shape[-1] for m in maps.values())
        return right(self, layer, {name: m[..., :width] for name, m in other.items()})

    return wrong


def latest_only(right: Any) -> Any:
    def wrong(self: Any, layer: Any, maps: Any) -> Any:
        self._sums = {}
        return right(self, layer, maps)

    return wrong


def blended_at(number: Any) -> Any:
    """Blend as if a step had another number."""

    def plant(right: Any) -> Any:
        def wrong(self: Any, denoised: Any, step: Step) -> Any:
            return right(self, denoised, replace(step, number=number(step)))

        return wrong

    return plant


INFEDIT_MISTAKES = [
    Mistake("layout not exchanged", f"{CONTROL}.routes", routed(layout=None), BLEND),
    Mistake(
        "target's values from the source",
        f"{CONTROL}.routes",
        routed(target=Route("source", "source", "source")),
        BLEND,
    ),
    Mistake(
        "target's own queries",
        f"{CONTROL}.routes",
        routed(target=Route("target", "source", "target")),
        BLEND,
    ),
    Mistake(
        "routes in one half alone",
        f"{CONTROL}.routes",
        conditional_only,
        infedit_diffusers.Settings(self_=0.7),
    ),
    Mistake("self share a step too short", f"{INFEDIT}:is_self_step", later, BLEND),
    Mistake("cross share a step too short", f"{INFEDIT}:is_cross_step", later, BLEND),
    Mistake(
        "steps that strength leaves out not counted",
        f"{INFEDIT}:_place",
        lambda _: lambda settings, step: step.number + 1,
        replace(BLEND, strength=0.7),
    ),
    Mistake("cross control in both halves", f"{CONTROL}.acts", both_halves, BLEND),
    Mistake("unaligned words have a map of the source", f"{INFEDIT}:refine", unaligned_too, BLEND),
    Mistake("maps normalised", f"{INFEDIT}:refine", normalised, BLEND),
    Mistake(
        "no words aligned by likeness",
        f"{INFEDIT}:align_by_likeness",
        lambda _: lambda source, target, variant: align_of(source, target),
        BLEND,
    ),
    Mistake(
        "the published code's rows compared",
        f"{INFEDIT}:align_by_likeness",
        lambda right: lambda source, target, _: right(source, target, "published code"),
        BLEND,
    ),
    Mistake(
        "maps of the finest grid",
        "attention.word_maps:fitness",
        lambda _: lambda grid: (True, grid[0] * grid[1]),
        replace(BLEND, steps=4),
        scene="large",
    ),
    Mistake("maps of the last step alone", "attention.word_maps:WordMaps.add", latest_only, BLEND),
    Mistake(
        "maps of source and layout exchanged",
        "attention.word_maps:WordMaps.add",
        exchanged_branches,
        replace(BLEND, edit_words="goat"),
    ),
    Mistake(
        "threshold not rising with the noise",
        f"{INFEDIT}:edit_threshold",
        lambda _: lambda settings, sigma: settings.target_threshold,
        BLEND,
    ),
    Mistake(
        "first step blended",
        f"{CONTROL}.blend",
        blended_at(lambda step: max(step.number, 1)),
        BLEND,
    ),
    Mistake(
        "result blended",
        f"{CONTROL}.blend",
        blended_at(lambda step: min(step.number, step.count - 2)),
        BLEND,
    ),
    Mistake(
        "words of both blends kept as the source",
        "prompts.blend_words:BlendRows.fixed_rows",
        lambda _: property(lambda self: self.kept),
        RESHAPE,
    ),
    Mistake(
        "words of both blends not kept in the end",
        "prompts.blend_words:BlendRows.common_rows",
        lambda _: property(lambda self: ()),
        RESHAPE,
    ),
]


def align_of(source: Any, target: Any) -> Any:
    from ale_edit.prompts.alignment import align

    return align(source.tokens, target.tokens)


MASA_ROUTES = "editors.masactrl:MasaCtrlControl.routes"
MASACTRL_MISTAKES = [
    Mistake(
        "target's queries from the source",
        MASA_ROUTES,
        routed(target=Route("source", "source", "source")),
        MASACTRL,
    ),
    Mistake(
        "target's own values",
        MASA_ROUTES,
        routed(target=Route("target", "source", "target")),
        MASACTRL,
    ),
    Mistake(
        "target's own keys",
        MASA_ROUTES,
        routed(target=Route("target", "target", "source")),
        MASACTRL,
    ),
    Mistake("conditional half alone", MASA_ROUTES, conditional_only, MASACTRL),
    Mistake(
        "from the first step on",
        "editors.masactrl:first_step",
        lambda _: lambda *_: 0,
        MASACTRL,
    ),
    Mistake(
        "a layer too late",
        "editors.masactrl:start_layer",
        lambda right: lambda *args: right(*args) + 1,
        MASACTRL,
    ),
    Mistake(
        "a layer too early",
        "editors.masactrl:start_layer",
        lambda right: lambda *args: right(*args) - 1,
        MASACTRL,
    ),
]
