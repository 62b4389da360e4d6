"""MasaCtrl with masks, drawn or from words, equals an independent loop on diffusers' UNet, at every
step."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch

from ale_edit.editors import masactrl
from ale_edit.regions.regions import ImageRegions
from ale_edit.tests.tiny import box_mask

from . import masactrl_diffusers
from .editor_edit import BATCH, PAIRS, PROMPTS, SMALL, Method, run_oracle, run_pack, worst_error
from .masactrl_diffusers import Settings
from .planted import Mistake
from .planted_editors import latest_only
from .test_masactrl import BOUND, FAR, translate
from .whole_edit import Scene, errors

pytestmark = pytest.mark.comfy

MASKS = ("source_mask", "target_mask")


def regions(settings: Settings, scene: Scene) -> ImageRegions | None:
    if settings.boxes is None:
        return None
    height, width = (8 * n for n in scene.size)
    masks = torch.stack(
        [
            box_mask(height, width, top=top, left=left, bottom=bottom, right=right)
            for top, left, bottom, right in settings.boxes
        ]
    )
    return ImageRegions(masks, masks, MASKS)


def translate_masked(settings: Settings) -> masactrl.MasaCtrlSettings:
    source, target = settings.words or ("", "")
    return replace(
        translate(settings),
        source_prompt="empty" if settings.words is None else "edits",
        source_words=source,
        target_words=target,
        mask_threshold=settings.threshold,
    )


def prompts(settings: Settings) -> tuple[str, str]:
    return ("" if settings.words is None else PROMPTS[0], PROMPTS[1])


METHOD = Method(
    masactrl.EDITOR, translate_masked, masactrl_diffusers.edit, prompts, regions=regions
)
DRAWN = Settings(boxes=((6, 9, 42, 40), (20, 21, 60, 46)))
WORDS = Settings(words=("wolf", "goat"), threshold=0.42)
ALL = (0, 0, 1000, 1000)


@pytest.mark.parametrize("settings", [DRAWN, WORDS], ids=["drawn", "words"])
@pytest.mark.parametrize("scene", [SMALL, BATCH], ids=["one", "batch"])
def test_every_step_equals_the_oracles(settings: Settings, scene: Scene):
    assert worst_error(METHOD, scene, settings) <= BOUND


OTHERS = [
    replace(DRAWN, start_step=Fraction(0), start_layer=Fraction(0)),
    replace(DRAWN, variant="published code"),
    replace(DRAWN, source_guidance=1.5, strength=0.7),
    replace(DRAWN, boxes=((17, 9, 20, 12), (20, 21, 60, 46))),  # less than a cell of any grid
    replace(DRAWN, boxes=(ALL, (20, 21, 60, 46))),  # no background to read
    replace(DRAWN, boxes=((6, 9, 42, 40), ALL)),
    replace(WORDS, start_step=Fraction(0), start_layer=Fraction(0)),
    replace(WORDS, start_step=Fraction(1, 15), start_layer=Fraction(0)),
    replace(WORDS, source_guidance=1.5, strength=0.7),
    replace(WORDS, words=("grey wolf", "ball"), threshold=0.1),
    replace(WORDS, threshold=1.0),
]


@pytest.mark.ci
@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(settings: Settings):
    assert worst_error(METHOD, SMALL, settings, settings.variant) <= BOUND


@pytest.mark.ci
@pytest.mark.parametrize("settings", [DRAWN, WORDS], ids=["drawn", "words"])
@pytest.mark.parametrize("size", [(48, 80), (72, 72), (48, 48)], ids=["640x384", "576", "384"])
def test_other_sizes_equal_the_oracles(settings: Settings, size: tuple[int, int]):
    settings = replace(settings, steps=2, start_step=Fraction(1, 2))
    if settings.boxes is not None:
        settings = replace(settings, boxes=((50, 30, 250, 170), (100, 150, 350, 320)))
    assert worst_error(METHOD, Scene(PAIRS, (), size, batch=1), settings) <= BOUND


@pytest.mark.parametrize(
    ("masked", "bound"),
    [(replace(DRAWN, boxes=(ALL, ALL)), 0), (replace(WORDS, threshold=0.0), BOUND)],
    ids=["drawn", "words"],
)
def test_a_foreground_that_is_everything_equals_the_editor_without_masks(
    masked: Settings, bound: float
):
    """Drawn masks bit for bit; masks from words let the halves of guidance run in two calls, which
    round in another way."""
    plain = replace(masked, boxes=None, words=None)
    source_prompt = translate_masked(masked).source_prompt
    method = replace(
        METHOD,
        translate=lambda settings: replace(translate_masked(settings), source_prompt=source_prompt),
    )
    found = errors(run_pack(METHOD, SMALL, masked), run_pack(method, SMALL, plain), SMALL)
    print(f"{max(found):.1e}")
    assert max(found) <= bound


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        (DRAWN, replace(DRAWN, boxes=None)),
        (WORDS, replace(WORDS, threshold=0.0)),
        (WORDS, replace(WORDS, words=("moon", "ball"))),
    ],
    ids=["drawn", "words", "other words"],
)
def test_the_oracle_depends_on_its_masks(settings: Settings, other: Settings):
    found = errors(run_oracle(METHOD, SMALL, settings), run_oracle(METHOD, SMALL, other), SMALL)
    assert max(found) > FAR


def split(change: Any) -> Any:
    """The positions of other masks of reader and other."""
    return lambda right: lambda reader, other: right(*change(reader, other))


def named(change: Any) -> Any:
    """The maps of another branch."""
    return lambda right: lambda self, name, *args: right(self, change[name], *args)


def shifted(right: Any) -> Any:
    return lambda prompt, word: tuple(row + 1 for row in right(prompt, word))


def of_branch(branch: str) -> Any:
    return lambda right: lambda self, call, _: right(self, call, branch)


def other_side(right: Any) -> Any:
    """For one branch: what both have exchanged pairs the same places."""

    def wrong(self: Any, name: str, *args: Any) -> Any:
        found = right(self, name, *args)
        return ~found if name == "source" and found is not None else found

    return wrong


def without_minimum(_: Any) -> Any:
    def wrong(self: Any, name: str, size: Any, threshold: float) -> Any:
        if name not in self._sums:
            return None
        return self.mask(name, range(self._sums[name].shape[-1]), size, threshold)[:, 0]

    return wrong


EXCHANGED = {"source": "target", "target": "source"}
SPLIT = "editors.masactrl:split_positions"
FOREGROUND = "attention.word_maps:WordMaps.foreground"
CONTROL = "editors.masactrl"
LARGE = Scene(PAIRS, (), (40, 40), batch=1)
FEW, FEW_WORDS = (replace(s, steps=4, start_step=Fraction(1, 4)) for s in (DRAWN, WORDS))
MISTAKES = [
    *(
        mistake
        for settings in (FEW, FEW_WORDS)
        for mistake in (
            Mistake("foreground reads background", SPLIT, split(lambda r, o: (r, ~o)), settings),
            Mistake("source mask for the target", SPLIT, split(lambda r, o: (o, o)), settings),
            Mistake("target mask for the source", SPLIT, split(lambda r, o: (r, r)), settings),
            Mistake("masks exchanged", SPLIT, split(lambda r, o: (o, r)), settings),
            Mistake(
                "in the conditional half alone",
                f"{CONTROL}:MasaCtrlControl.acts",
                lambda right: lambda self, layer, step, c: c and right(self, layer, step, c),
                settings,
            ),
            Mistake("in every layer", f"{CONTROL}:start_layer", lambda _: lambda *_: 0, settings),
            Mistake("in every step", f"{CONTROL}:first_step", lambda _: lambda *_: 0, settings),
        )
    ),
    Mistake(
        "masks by nearest sampling",
        f"{CONTROL}:coverage",
        lambda right: lambda mask, h, w, _: right(mask, h, w, "published code"),
        FEW,
    ),
    Mistake(
        "threshold on the wrong side, for the source",
        FOREGROUND,
        other_side,
        FEW_WORDS,
    ),
    Mistake("maps not normalised by their least place", FOREGROUND, without_minimum, FEW_WORDS),
    Mistake("maps exchanged", FOREGROUND, named(EXCHANGED), FEW_WORDS),
    Mistake(
        "the source's maps for both", FOREGROUND, named(dict.fromkeys(EXCHANGED, "source")), WORDS
    ),
    Mistake(
        "the source's attention for both",
        f"{CONTROL}:WordMaskControl._map",
        of_branch("source"),
        FEW_WORDS,
    ),
    Mistake("the word behind", f"{CONTROL}:find_everywhere", shifted, FEW_WORDS),
    Mistake(
        "maps of all steps",
        "attention.word_maps:WordMaps.forget",
        lambda _: lambda self: None,
        FEW_WORDS,
    ),
    Mistake(
        "maps of the last layer alone", "attention.word_maps:WordMaps.add", latest_only, FEW_WORDS
    ),
    Mistake(
        "maps of the finest grid",
        "attention.word_maps:fitness",
        lambda _: lambda grid: (True, grid[0] * grid[1]),
        FEW_WORDS,
        scene="large",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.name}, {m.settings.words}")
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    scene = LARGE if mistake.scene == "large" else SMALL
    run_oracle(METHOD, scene, mistake.settings)
    mistake.plant(monkeypatch)
    assert worst_error(METHOD, scene, mistake.settings) > FAR
