"""LEDITS++ by the pack equals an independent loop on diffusers' UNet, scheduler and inversion step
at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ale_edit.editors import ledits
from ale_edit.regions.regions import Regions, make_regions
from ale_edit.tests.tiny import edits_of

from .editor_edit import BATCH, PAIRS, PROMPTS, SMALL, run_oracle
from .editor_edit import Method as EditorMethod
from .ledits_diffusers import Settings, edit
from .planted import Mistake
from .whole_edit import SEED, Scene, Step, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2
PHRASES = tuple(target for _, target in PAIRS)
LARGE = Scene(PAIRS, (), (32, 34), batch=1)
"""Whose maps are those of the coarser of two grids."""


def translate(settings: Settings) -> ledits.LEDITSSettings:
    scales = zip(PHRASES, settings.scales, strict=True)
    return ledits.LEDITSSettings(
        steps=settings.steps,
        strength=1 - settings.skip,
        scales=", ".join(f"{phrase}: {scale}" for phrase, scale in scales),
        threshold=settings.threshold,
        places=settings.places,  # type: ignore[arg-type]
    )


LEDITS = EditorMethod(
    ledits.EDITOR,
    translate,
    edit,
    prompts=lambda settings: (PHRASES[0], PHRASES[1]),
    adds_result=True,
)


def masks_of(settings: Settings, scene: Scene) -> list[Any]:
    """Of each edit, at the size of the image."""
    masks = []
    for rows in settings.given:
        mask = None if rows is None else torch.zeros(8 * scene.size[0], 8 * scene.size[1])
        if mask is not None and rows is not None:
            mask[: 8 * rows] = 1
        masks.append(mask)
    return masks


def run_pack(scene: Scene, settings: Settings) -> list[Step]:
    from ale_edit.host import editing
    from ale_edit.host.sampling.schedule import sigmas_of

    pack, masks = twins(), masks_of(settings, scene)
    given = [mask for mask in masks if mask is not None]
    regions: Regions | None = None
    if given:
        regions = make_regions(given, [f"mask {k}" for k in range(len(given))], 0.0)
    edits = edits_of(PAIRS, masks, source_prompt=PROMPTS[0], target_prompt=PROMPTS[1])
    opened = editing.open_edit(
        ledits.EDITOR, translate(settings), pack.model, pack.clip, edits, regions=regions,
        reuses_source=False,
    )  # fmt: skip
    sigmas = sigmas_of(pack.model, opened.plan.schedule)
    record: list[Step] = []

    def callback(step: int, denoised: Any, x: Any, total: int) -> None:
        record.append(Step(x / (1 + sigmas[step] ** 2) ** 0.5, denoised.clone()))

    with torch.inference_mode():
        result = opened.sample(scene.latents / pack.latent_scale, SEED, callback)
    return [*record, Step(record[-1].z, result * pack.latent_scale)]


def worst_error(scene: Scene, settings: Settings) -> float:
    found = errors(run_pack(scene, settings), run_oracle(LEDITS, scene, settings), scene)
    print(" ".join(f"{error:.1e}" for error in found))
    return max(found)


PLAIN = Settings()
CASES = [
    (BATCH, PLAIN),
    (SMALL, Settings(places="attention", threshold=0.75, scales=(8.0, -3.0))),
    (SMALL, Settings(places="guidance", skip=0.3, steps=4)),
    (SMALL, Settings(places="everywhere", scales=(2.0, 3.0))),
    (SMALL, Settings(given=(None, 3), threshold=0.5)),
    (LARGE, replace(PLAIN, steps=3)),
]


@pytest.mark.parametrize(("scene", "settings"), CASES, ids=str)
def test_every_step_equals_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(scene, settings) <= BOUND


def test_scale_0_gives_the_image_back():
    result = run_pack(BATCH, replace(PLAIN, scales=(0.0, 0.0)))[-1].p
    error = float((result - BATCH.latents).abs().max() / BATCH.latents.std())
    print(f"error of reconstruction: {error:.1e}")
    assert error <= 1e-5


def test_a_threshold_of_0_acts_everywhere():
    everywhere = run_pack(SMALL, replace(PLAIN, places="everywhere"))[-1].p
    for places in ("both", "attention", "guidance"):
        made = run_pack(SMALL, replace(PLAIN, places=places, threshold=0.0))[-1].p
        assert float((made - everywhere).abs().max()) < 1e-6


def test_a_full_mask_of_an_edit_is_none():
    full = run_pack(SMALL, replace(PLAIN, given=(SMALL.size[0], SMALL.size[0])))[-1].p
    assert torch.equal(full, run_pack(SMALL, PLAIN)[-1].p)


def ignoring(right: Any) -> Any:
    """A first-order step: nothing is extrapolated."""
    return lambda denoised, before, sigmas: denoised


MISTAKES = [
    Mistake(
        "steps of the first order in the edit",
        "host.inverting.sampler:extrapolate",
        ignoring,
        PLAIN,
    ),
    Mistake(
        "steps of the first order in the inversion",
        "host.inverting.edit_friendly:extrapolate",
        ignoring,
        PLAIN,
    ),
    Mistake(
        "extrapolated to the end of the step",
        "inversion.second_order:log",
        lambda right: lambda x: right(x) ** 1.5 if right(x) > 0 else right(x),
        PLAIN,
    ),
    Mistake(
        "the time steps of DDIM",
        "inversion.second_order:TRAIN_STEPS",
        lambda _: 980,
        PLAIN,
    ),
    Mistake(
        "the maps not smoothed",
        "editors.ledits:smooth",
        lambda right: lambda maps: maps,
        PLAIN,
    ),
    Mistake(
        "the least places",
        "editors.ledits:greatest_places",
        lambda right: lambda values, q: ~right(values, 1 - q),
        PLAIN,
    ),
    Mistake(
        "maps of the steps before as well",
        "attention.word_maps:WordMaps.forget",
        lambda right: lambda self: None,
        replace(PLAIN, steps=8, places="attention"),
    ),
    Mistake(
        "an edit removed instead of added",
        "editors.ledits:parse_factors",
        lambda right: lambda *args: [(name, -factor) for name, factor in right(*args)],
        PLAIN,
    ),
    Mistake(
        "the start token among the words",
        "editors.ledits:_rows_of",
        lambda right: lambda edit: (0, *right(edit)),
        PLAIN,
    ),
    Mistake(
        "the noise of the next image",
        "host.inverting.edit_friendly:ItemNoise",
        lambda right: lambda seed, shape: right(seed + 1, shape),
        PLAIN,
    ),
    Mistake(
        "an edit's own mask upside down",
        "editors.ledits:find_mask_cells",
        lambda right: lambda *args: ~right(*args),
        Settings(given=(None, 3), threshold=0.5),
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    assert worst_error(SMALL, mistake.settings) > FAR
