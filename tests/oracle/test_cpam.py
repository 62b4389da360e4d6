"""CPAM by the pack equals an independent loop on diffusers' UNet, at every step."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Control
from ale_edit.editors import cpam
from ale_edit.editors.cpam_masks import Masks
from ale_edit.regions.regions import ImageRegions, grow_by_area
from ale_edit.tests.tiny import box_mask

from .cpam_diffusers import EXPANSIONS, Settings, edit
from .editor_edit import BATCH, PAIRS, PROMPTS, SMALL, Method, run_oracle, run_pack, worst_error
from .inverted_diffusers import Sampling
from .planted import Mistake
from .whole_edit import Scene, errors

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> cpam.CPAMSettings:
    sampling = settings.sampling
    expansion = cpam.BY_STRATEGY if settings.expansion is None else float(settings.expansion)
    return cpam.CPAMSettings(
        strategy=settings.strategy,  # type: ignore[arg-type]
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        expansion=expansion,
        plain_share=settings.plain,
        start_step_share=float(settings.start_step),
        start_layer_share=float(settings.start_layer),
        mask_threshold=settings.threshold,
        object_texts="each its own" if settings.phrases else "whole prompt",
    )


def regions(settings: Settings, scene: Scene) -> ImageRegions:
    height, width = (8 * n for n in scene.size)
    masks = torch.stack(
        [
            box_mask(height, width, top=top, left=left, bottom=bottom, right=right)
            for top, left, bottom, right in settings.boxes
        ]
    )
    return ImageRegions(masks, masks, tuple(s or t for s, t in pairs_of(settings)))


OF_TASK = {
    "change": ("grey wolf", "brown goat"),
    "remove": ("yellow moon", ""),
    "add": ("", "yellow ball"),
}


def pairs_of(settings: Settings) -> tuple[tuple[str, str], ...]:
    return tuple(OF_TASK[task] for task in settings.tasks) or PAIRS[: len(settings.boxes)]


def prompts_of(settings: Settings) -> tuple[str, str]:
    """Of tasks, what the editor joins itself."""
    if not settings.tasks:
        return PROMPTS
    sources, targets = (
        [phrase for phrase in side if phrase] for side in zip(*pairs_of(settings), strict=True)
    )
    return " and ".join(sources), " and ".join(targets)


CPAM = Method(
    cpam.EDITOR,
    translate,
    edit,
    adds_result=True,
    regions=regions,
    pairs=pairs_of,
    prompts=prompts_of,
    full_prompts=lambda settings: (None, None) if settings.tasks else PROMPTS,
)
REPLACE = Settings()
POSE = Settings("pose / view", threshold=0.42)
TALL = ((10, 6, 50, 30), (50, 20, 75, 44))  # of the scene BATCH
# The wolf's mask grows into the moon's, and that of the ball into the wolf's.
MIXED = Settings(
    boxes=((6, 26, 42, 52), (10, 54, 50, 78), (16, 4, 60, 24)),
    tasks=("change", "remove", "add"),
    expansion="0.5",
    threshold=0.42,
    words="brown goat",
)
MIXED_POSE = replace(MIXED, strategy="pose / view", start_step=Fraction(1, 5))


@pytest.mark.parametrize(
    ("settings", "scene"),
    [
        (replace(REPLACE, plain=0.1), SMALL),
        (replace(POSE, boxes=TALL, plain=0.1), BATCH),
        (MIXED_POSE, SMALL),
    ],
    ids=["replace", "pose", "one kept, one removed, one added"],
)
def test_every_step_equals_the_oracles(settings: Settings, scene: Scene):
    assert worst_error(CPAM, scene, settings) <= BOUND


OTHERS = [
    *(Settings(strategy, threshold=0.42) for strategy in EXPANSIONS),
    *(Settings(strategy, variant="published code", threshold=0.42) for strategy in EXPANSIONS),
    replace(REPLACE, expansion="0.5"),
    replace(REPLACE, sampling=Sampling(method="DDIM", source_guidance=1.0)),
    replace(REPLACE, sampling=Sampling(spacing="LCM", strength=0.7, target_guidance=2.0)),
    replace(POSE, start_step=Fraction(0), start_layer=Fraction(0), plain=0.5),
    replace(REPLACE, boxes=((17, 9, 20, 12),)),  # less than a cell of any grid
    replace(REPLACE, boxes=((0, 0, 1000, 1000),)),
    *(replace(MIXED, strategy=s) for s in ("add", "replace", "replace (refined)")),
    replace(MIXED, expansion=None),
    replace(MIXED_POSE, variant="published code"),
    replace(MIXED, tasks=("remove", "remove", "remove")),
    replace(MIXED, tasks=("remove", "add", "add"), strategy="pose / view"),
]


@pytest.mark.ci
@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(settings: Settings):
    assert worst_error(CPAM, SMALL, settings, settings.variant) <= BOUND


@pytest.mark.parametrize("strategy", EXPANSIONS)
def test_the_oracle_depends_on_its_control(strategy: str):
    settings = Settings(strategy)
    without = run_oracle(CPAM, SMALL, replace(settings, has_control=False))
    assert max(errors(without, run_oracle(CPAM, SMALL, settings), SMALL)) > FAR


# -- settings under which it is another method -----------------------------------------------------

ALL = ((0, 0, 1000, 1000),)


def test_a_mask_that_is_everything_is_the_plain_edit_bit_for_bit():
    settings = replace(REPLACE, boxes=ALL)
    bare = replace(CPAM, editor=replace(cpam.EDITOR, make_control=lambda *_: Control()))
    ours, plain = (run_pack(method, SMALL, settings) for method in (CPAM, bare))
    assert errors(ours, plain, SMALL) == [0.0] * len(plain)


def test_plain_share_1_leaves_self_attention_alone_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    settings = replace(REPLACE, plain=1.0)
    ours = run_pack(CPAM, SMALL, settings)
    monkeypatch.setattr(cpam.CPAMControl, "kinds", frozenset(("cross",)))
    other = run_pack(CPAM, SMALL, settings)
    assert errors(ours, other, SMALL) == [0.0] * len(other)


@pytest.mark.parametrize("late", [{"start_layer": Fraction(1)}, {"start_step": Fraction(1)}])
def test_an_object_that_is_kept_in_no_layer_or_step_is_replaced_bit_for_bit(late: Any):
    ours = run_pack(CPAM, SMALL, replace(POSE, **late))
    other = run_pack(CPAM, SMALL, replace(POSE, strategy="replace (refined)"))
    assert errors(ours, other, SMALL) == [0.0] * len(other)
    assert max(errors(ours, run_pack(CPAM, SMALL, POSE), SMALL)) > FAR


def test_the_prompt_does_not_matter_where_objects_are_removed():
    remove, pairs = Settings("remove"), ("grey wolf over a house", "yellow ball")
    other = replace(CPAM, full_prompts=lambda settings: pairs)
    ours, theirs = (run_pack(method, SMALL, remove) for method in (CPAM, other))
    assert errors(ours, theirs, SMALL) == [0.0] * len(ours)


def test_objects_that_are_all_removed_are_removed_as_by_the_strategy_bit_for_bit():
    settings = replace(MIXED, tasks=("remove",) * 3, strategy="pose / view")
    ours = run_pack(CPAM, SMALL, settings)
    theirs = run_pack(CPAM, SMALL, replace(settings, strategy="remove"))
    assert errors(ours, theirs, SMALL) == [0.0] * len(ours)


# -- planted mistakes ------------------------------------------------------------------------------


def latest_only(right: Any) -> Any:
    def wrong(self: Any, *args: Any) -> None:
        self._sum, self._count = None, 0
        right(self, *args)

    return wrong


def without_minimum(_: Any) -> Any:
    return lambda self, threshold: self._sum / self._sum.amax((-1, -2), keepdim=True) > threshold


def of_first_image(right: Any) -> Any:
    def wrong(self: Any, call: Any) -> Any:
        found = right(self, call)
        return found[:1].expand(len(found))

    return wrong


def exchange(cells: Masks) -> Masks:
    return cells._replace(source=cells.target, target=cells.source)


def without(cells: Masks, name: str) -> Masks:
    return cells._replace(**{name: torch.zeros_like(cells[0])})


def grow_over(masks: Masks, raw: Tensor, strategy: Any, expansion: float) -> Masks:
    return masks._replace(target=torch.maximum(masks.target, grow_by_area(raw[0], expansion)))


MODULE = "editors.cpam"
CONTROL = f"{MODULE}:CPAMControl"
MASKS = "editors.cpam_masks"
FEW = replace(REPLACE, sampling=replace(REPLACE.sampling, steps=5))
FEW_POSE = replace(POSE, sampling=FEW.sampling, start_step=Fraction(1, 5))
FEW_CODE = replace(FEW, variant="published code")
FEW_REMOVE, FEW_BACKGROUND = (replace(FEW, strategy=s) for s in ("remove", "background"))
FEW_PLAIN = replace(FEW, plain=0.3, boxes=TALL)
FEW_MIXED, FEW_MIXED_POSE = (replace(s, sampling=FEW.sampling) for s in (MIXED, MIXED_POSE))
MISTAKES = [
    Mistake(
        "background reads the object",
        f"{MODULE}:_rest",
        lambda right: lambda source: right(torch.zeros_like(source)),
        FEW,
    ),
    Mistake(
        "background reads the edit",
        f"{MODULE}:_rest",
        lambda right: lambda source: (right(source)[0], "target"),
        FEW,
    ),
    Mistake(
        "object kept that is replaced",
        f"{CONTROL}._keeps_object",
        lambda _: lambda *_: True,
        FEW,
    ),
    Mistake(
        "masks of source and target exchanged",
        f"{MODULE}:adapt",
        lambda right: lambda cells, keeps: right(exchange(cells), keeps),
        replace(FEW, expansion="0.5"),
    ),
    Mistake(
        "the rest attends to the prompt",
        f"{MODULE}:extract",
        lambda right: lambda cells: right(cells._replace(target=torch.ones_like(cells.target))),
        FEW,
    ),
    Mistake(
        "extraction by the source's mask",
        f"{MODULE}:extract",
        lambda right: lambda cells: right(exchange(cells)),
        replace(FEW, expansion="0.5"),
    ),
    Mistake(
        "conditional half alone",
        f"{CONTROL}.acts",
        lambda _: lambda self, layer, step, is_cond: is_cond,
        FEW,
    ),
    Mistake("mask not grown", f"{MASKS}:grow_by_area", lambda _: lambda mask, share: mask, FEW),
    Mistake(
        "inverted with the source prompt",
        f"{MODULE}:plan_inversion",
        lambda right: lambda settings, prompt: right(settings, "source"),
        FEW,
    ),
    Mistake(
        "object kept in every layer", f"{MODULE}:first_layer", lambda _: lambda *_: 0, FEW_POSE
    ),
    Mistake("object kept in every step", f"{MODULE}:first_step", lambda _: lambda *_: 0, FEW_POSE),
    Mistake(
        "object reads the whole source",
        f"{MODULE}:_object",
        lambda right: lambda target, keeps: right(torch.ones_like(target), keeps),
        FEW_POSE,
    ),
    Mistake(
        "mask not refined",
        "attention.refined_mask:RefinedMask.mask",
        lambda _: lambda *_: None,
        FEW_POSE,
    ),
    Mistake(
        "maps of the last layer alone",
        "attention.refined_mask:RefinedMask.add",
        latest_only,
        FEW_POSE,
    ),
    Mistake(
        "maps not from their least place",
        "attention.refined_mask:RefinedMask.mask",
        without_minimum,
        FEW_POSE,
    ),
    Mistake(
        "maps of the words behind",
        f"{MODULE}:_find_rows",
        lambda right: lambda *args: tuple(row + 3 for row in right(*args)),
        FEW_POSE,
    ),
    Mistake(
        "the prompt where objects are removed",
        f"{CONTROL}._draw_cells",
        lambda right: lambda *args: right(*args)._replace(target=right(*args).source),
        FEW_REMOVE,
    ),
    Mistake(
        "the object changed in place of the background",
        f"{CONTROL}._draw_cells",
        lambda right: lambda *args: type(right(*args))(*(~cells for cells in right(*args))),
        FEW_BACKGROUND,
    ),
    Mistake("hard masks in the published code", f"{MODULE}:LEAST_SHARE", lambda _: 0.0, FEW_CODE),
    Mistake(
        "plain layers of the first image for all",
        f"{CONTROL}._draw_plain",
        of_first_image,
        FEW_PLAIN,
        scene="batch",
    ),
    Mistake(
        "a removed object changed",
        f"{MODULE}:find_tasks",
        lambda right: lambda *args: tuple("change" if t == "remove" else t for t in right(*args)),
        FEW_MIXED,
    ),
    Mistake(
        "an added object left out",
        f"{MODULE}:find_tasks",
        lambda right: lambda *args: tuple("remove" if t == "add" else t for t in right(*args)),
        FEW_MIXED,
    ),
    Mistake(
        "a removed object in the prompt",
        "host.editing:_encode_sides",
        lambda right: (
            lambda *args: right(
                *args[:-1], replace(args[-1], target_prompt="brown goat and yellow moon and ball")
            )
        ),
        FEW_MIXED,
    ),
    Mistake(
        "an object that grows into one that is removed",
        f"{MODULE}:make_masks",
        lambda right: lambda raw, tasks, *args: grow_over(right(raw, tasks, *args), raw, *args),
        FEW_MIXED,
    ),
    Mistake(
        "an added object with the look of the source",
        f"{MODULE}:_objects",
        lambda right: (
            lambda readers, cells, keeps: right(
                readers, cells._replace(added=torch.zeros_like(cells.added)), keeps
            )
        ),
        FEW_MIXED_POSE,
    ),
    Mistake(
        "an added object whose mask follows the words",
        f"{CONTROL}._draw_cells",
        lambda right: lambda *args: without(right(*args), "added"),
        FEW_MIXED_POSE,
    ),
    Mistake(
        "a mask that follows the words to an object that is removed",
        f"{CONTROL}._draw_cells",
        lambda right: lambda *args: without(right(*args), "removed"),
        FEW_MIXED_POSE,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    settings = mistake.settings
    scene = BATCH if mistake.scene == "batch" else SMALL
    run_oracle(CPAM, scene, settings)
    mistake.plant(monkeypatch)
    assert worst_error(CPAM, scene, settings, settings.variant) > FAR
