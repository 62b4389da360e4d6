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
    """target: what to replace. wrong: right function -> wrong function. settings: of the edit.
    scene and family: where it shows."""

    name: str
    target: str
    wrong: Callable[[Any], Any]
    settings: Settings = PAPER
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
    Mistake("word rows off by one", "host.text:spans_in_order", shifted_spans),
    Mistake(
        "objects' values exchanged", "host.text:object_restricted_embeddings", exchanged_values
    ),
    Mistake("keys from e'_base", "host.text:object_restricted_embeddings", keys_from_base),
    Mistake("e'_base left plain", "host.text:object_restricted_embeddings", plain_base),
    Mistake(
        "the other variant's embeddings",
        "host.text:object_restricted_embeddings",
        other_variants_embeddings,
    ),
    Mistake(
        "no row bug in the published code",
        "host.text:object_restricted_embeddings",
        no_row_bug,
        CODE,
    ),
    Mistake(
        "end-of-text rows of the base prompt",
        "prompts.ore:end_of_text_rows",
        lambda right: lambda _, *args: right("naive", *args),
    ),
    Mistake("other objects' rows kept", "prompts.ore:_restricted", other_objects_kept, LAST_WINS),
    Mistake(
        '"and" kept in the published code', "prompts.ore:_restricted", joining_words_kept, CODE
    ),
]

# -- regions and cross-attention -----------------------------------------------------------------


def shifted_rows(right: Any) -> Any:
    """The source's rows in place of the target's."""

    def wrong(*args: Any) -> Any:
        back = [(rows, rows.stop - rows.start, entry) for rows, entry in right(*args)]
        return [(slice(r.start - n, r.stop - n), entry) for r, n, entry in back]

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
        "host.rgb_cam:coverage",
        lambda right: lambda *args, **named: right(*args, **named).flip(0),
    ),
    Mistake(
        "grid transposed",
        "host.rgb_cam:coverage",
        lambda right: (
            lambda masks, h, w, *rest, **named: right(masks, w, h, *rest, **named).reshape(-1, h, w)
        ),
    ),
    Mistake("a vanished object lost", "host.rgb_cam:coverage", without_small),
    Mistake("grids sampled in the paper variant", "host.rgb_cam:coverage", grids_of(CODE)),
    Mistake("grids counted in the published code", "host.rgb_cam:coverage", grids_of(PAPER), CODE),
    Mistake(
        "overlap to the last object",
        "host.rgb_cam:cell_groups",
        lambda right: lambda covered, _: right(covered, True),
    ),
    Mistake("no dilation", "regions.regions:dilate", lambda _: lambda masks, _: masks),
    Mistake(
        "every word seen everywhere",
        "attention.rgb_cam:visible_tokens",
        lambda _: lambda owner, _: torch.arange(len(owner)),
    ),
    Mistake("RGB-CAM left out", "host.rgb_cam:ore_rows", lambda _: lambda *_: []),
    Mistake("RGB-CAM on the source's rows", "host.rgb_cam:ore_rows", shifted_rows),
]

# -- self-attention injection --------------------------------------------------------------------


def values_too(right: Any) -> Any:
    """The target's values are the source's as well."""
    from ale_edit.host import rows, self_injection

    def also_values(n: Any, context: Any, value: Any, options: Any) -> Any:
        if not options[self_injection.ACTIVE_KEY](options):
            return n, context, value
        index = torch.arange(len(value))
        for chunk in rows.chunk_rows(len(value), options):
            branches = rows.branch_rows(chunk)
            index[branches.target] = index[branches.source]
        return n, context, value[index]

    def wrong(*args: Any) -> Any:
        model = right(*args)
        model.set_model_attn1_patch(also_values)
        return model

    return wrong


def conditional_only(right: Any) -> Any:
    def wrong(rows: int, options: Any) -> Any:
        kinds = options["cond_or_uncond"]
        return [c for c, kind in zip(right(rows, options), kinds, strict=True) if kind == 0]

    return wrong


INJECTION = [
    Mistake(
        "injection one step longer",
        "host.self_injection:is_injection_step",
        lambda right: lambda step, *args: right(step - 1, *args),
    ),
    Mistake(
        "injection one step shorter",
        "host.self_injection:is_injection_step",
        lambda right: lambda step, *args: right(step + 1, *args),
        CODE,
    ),
    Mistake("values injected too", "host.self_injection:apply_self_injection", values_too),
    Mistake(
        "no injection in the unconditional half", "host.self_injection:chunk_rows", conditional_only
    ),
    Mistake(
        "injection from target to source",
        "host.self_injection:rows_with_source",
        lambda right: lambda rows, pairs: right(rows, [pair[::-1] for pair in pairs]),
    ),
]

# -- blending ------------------------------------------------------------------------------------

BLENDING = [
    Mistake("blending left out", "host.blending:is_blending_step", lambda _: lambda *_: False),
    Mistake(
        "foreground blended",
        "host.blending:background_weights",
        lambda right: lambda *args: ~right(*args),
    ),
    Mistake(
        "the other variant's steps blended",
        "host.blending:is_blending_step",
        lambda right: lambda step, steps, variant: right(step, steps, OTHER[variant]),
    ),
    Mistake(
        "the published code's first step blended",
        "host.blending:is_blending_step",
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
    def wrong(branches: Any, x0: Any, edit: Any, sigma: Any, after: Any, n: Any, eta: Any) -> Any:
        source = right(branches, x0, edit, sigma, after, n, eta).source
        return replace(right(branches, x0, edit, sigma, after, n.flip(-1), eta), source=source)

    return wrong


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
        return {**right(branches, batch), "pooled_output": branches[-1]["pooled_output"]}

    return wrong


def first_items_concat(right: Any) -> Any:
    def wrong(branches: Any, batch: int) -> Any:
        entry = right(branches, batch)
        return {**entry, "concat_latent_image": entry["concat_latent_image"][:1]}

    return wrong


LOOP = [
    Mistake(
        "source and target conditioning exchanged",
        "host.two_branch_guider:branches_entry",
        lambda right: lambda branches, batch: right(branches[::-1], batch),
    ),
    Mistake(
        "source and target prediction exchanged",
        "host.virtual_inversion:predicted_edit",
        lambda right: lambda x0, source, target: right(x0, target, source),
    ),
    Mistake(
        "guidance scales exchanged",
        "host.two_branch_guider:TwoBranchGuider.set_guidance",
        lambda right: lambda self, source, target: right(self, target, source),
    ),
    Mistake("noise not shared", "host.virtual_inversion:ddcm_step", unshared_noise),
    Mistake(
        "every item has the first one's noise",
        "host.virtual_inversion:ItemNoise",
        first_items_noise,
        scene="two objects",
    ),
    Mistake(
        "start from the noised source",
        "host.virtual_inversion:_is_pure_noise",
        lambda _: lambda *_: False,
    ),
    Mistake(
        "old diffusers' time steps",
        "host.schedule:lcm_timesteps",
        lambda right: lambda steps, *_: [999 - 60 * i for i in range(steps)],
    ),
    Mistake(
        "time steps off by one",
        "host.schedule:lcm_timesteps",
        lambda right: lambda *args: [t - 1 for t in right(*args)],
    ),
]

BRANCHES = "host.two_branch_guider:branches_entry"
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
