"""DiffEdit's mask and its edit by the pack equal an independent loop on diffusers' UNet at every
step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import IMAGE
from ale_edit.editors import diffedit
from ale_edit.inversion.stored import Schedule
from ale_edit.regions.regions import Regions, make_regions
from ale_edit.tests.tiny import edits_of

from .diffedit_diffusers import Settings, edit, find_shares
from .editor_edit import BATCH, PAIRS, PROMPTS, SMALL, Method, run_pack, worst_error
from .planted import Mistake
from .whole_edit import SEED, Scene, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2
CELL = 8
HOST = "host.segmenting.disagreement"


def translate(settings: Settings) -> diffedit.DiffEditSettings:
    return diffedit.DiffEditSettings(
        steps=settings.steps,
        strength=settings.strength,
        target_guidance=settings.guidance,
        time_steps=settings.spacing,  # type: ignore[arg-type]
        source_prompt=settings.source_prompt,  # type: ignore[arg-type]
        mask_maps=settings.maps,
        mask_strength=settings.mask_strength,
        mask_threshold=settings.threshold,
        mask_clamp=settings.clamp,
    )


def edits() -> Any:
    return edits_of(PAIRS, source_prompt=PROMPTS[0], target_prompt=PROMPTS[1])


def find_regions(settings: Settings, scene: Scene) -> Regions:
    """As edit_image gives them to open_edit."""
    from ale_edit.host.segmenting import disagreement

    pack = twins()
    size = (CELL * scene.size[0], CELL * scene.size[1])
    if settings.given is not None:
        mask = torch.zeros(size)
        mask[: CELL * settings.given] = 1
        return make_regions([mask], ["the edit"], 0.0)
    with torch.inference_mode():
        return disagreement.find_place(
            pack.model, pack.clip, edits(), scene.latents / pack.latent_scale,
            translate(settings).mask, SEED, size,
        )  # fmt: skip


DIFFEDIT = Method(diffedit.EDITOR, translate, edit, adds_result=True, regions=find_regions)
PLAIN = Settings()
CASES = [
    PLAIN,
    Settings(strength=0.6, guidance=1.0, source_prompt="edits"),
    Settings(maps=1, mask_strength=0.9, threshold=0.4),
    Settings(clamp=1.2, threshold=0.9, mask_guidance=3.0),
    Settings(spacing="LCM", guidance=2.0),
    Settings(given=3),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_step_equals_the_oracles(settings: Settings):
    assert worst_error(DIFFEDIT, BATCH if settings == PLAIN else SMALL, settings) <= BOUND


@pytest.mark.parametrize("settings", CASES[:4], ids=str)
def test_the_disagreement_equals_the_oracles_at_any_guidance(settings: Settings):
    from ale_edit.host.segmenting.disagreement import compare_prompts

    pack = twins()
    with torch.inference_mode():
        ours = compare_prompts(
            pack.model, pack.clip, [edits()], BATCH.latents / pack.latent_scale,
            translate(settings).mask, SEED,
        )[:, 0]  # fmt: skip
    theirs = torch.stack(
        [
            find_shares(pack.network, pack.encoder, PROMPTS, x0, SEED + j, settings)
            for j, x0 in enumerate(BATCH.latents)
        ]
    )
    assert float((ours - theirs).abs().max()) <= BOUND
    inside = (theirs > settings.threshold).float().mean((1, 2))
    assert bool((inside > 0.02).all() and (inside < 0.98).all())


def test_in_a_full_mask_the_edit_is_that_of_the_inverted_image():
    """The target prompt from the same inversion, by the nodes' functions."""
    from ale_edit.host.inverting.invert import invert_image
    from ale_edit.host.inverting.sampler import inversion_sampler
    from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
    from ale_edit.host.sampling.schedule import sigmas_of
    from ale_edit.host.text.embedding import encode_text

    pack, schedule = twins(), Schedule(PLAIN.steps, PLAIN.strength)
    latents = SMALL.latents / pack.latent_scale
    nothing, target = (encode_text(pack.clip, text) for text in ("", PROMPTS[1]))
    with torch.inference_mode():
        inversion = invert_image(pack.model, nothing, latents, schedule, "")
        guider = BranchGuider(
            pack.model, (Branch("target", target, 7.5),), nothing, reuses_source=False
        )
        bare = guider.sample(
            torch.zeros_like(latents), latents, inversion_sampler(inversion),
            sigmas_of(pack.model, schedule), seed=0,
        )  # fmt: skip
    full = run_pack(DIFFEDIT, SMALL, Settings(given=SMALL.size[0]))[-1].p
    assert float((full - bare * pack.latent_scale).abs().max() / SMALL.latents.std()) < 1e-6


def test_outside_the_mask_the_image_comes_back_exactly():
    result = run_pack(DIFFEDIT, SMALL, Settings(given=3))[-1].p
    error = (result - SMALL.latents).abs() / SMALL.latents.std()
    assert float(error[..., 3:, :].max()) < 1e-6
    assert float(error[..., :3, :].max()) > 0.1


def squared(right: Any) -> Any:
    return lambda total, source, target: total + (target - source).square().mean(1)


def by_the_greatest(right: Any) -> Any:
    return lambda disagreement, clamp: disagreement / disagreement.amax((-1, -2), keepdim=True)


def of_the_batch(right: Any) -> Any:
    """As diffusers: one mean for all images."""

    def wrong(disagreement: Tensor, clamp: float) -> Tensor:
        return (disagreement / (clamp * disagreement.mean())).clamp(max=1)

    return wrong


def blended(change: Any) -> Any:
    """DiffEditControl.blend_latents of changed latents."""

    def plant(right: Any) -> Any:
        def wrong(self: Any, latents: Any, step: Any) -> Any:
            return right(self, change(self, latents, step), step)

        return wrong

    return plant


def a_level_late(self: Any, latents: Any, step: Any) -> Any:
    before = getattr(self, "before", latents[IMAGE])
    self.before = latents[IMAGE]
    return {**latents, IMAGE: before}


def not_in_the_end(self: Any, latents: Any, step: Any) -> Any:
    is_last = step.number == step.count - 1
    return {**latents, IMAGE: latents["target"]} if is_last else latents


def one_noise(right: Any) -> Any:
    class Same(right):
        def draw(self, like: Tensor) -> Tensor:
            self.drawn = getattr(self, "drawn", None)
            self.drawn = super().draw(like) if self.drawn is None else self.drawn
            return self.drawn

    return Same


MISTAKES = [
    Mistake("the difference squared", f"{HOST}:add_disagreement", squared, PLAIN),
    Mistake("a share of the greatest", f"{HOST}:clamp_disagreement", by_the_greatest, PLAIN),
    Mistake("the mean of the batch", f"{HOST}:clamp_disagreement", of_the_batch, PLAIN, "batch"),
    Mistake("one noise for all maps", f"{HOST}:ItemNoise", one_noise, PLAIN),
    Mistake(
        "the noise of the next image",
        f"{HOST}:ItemNoise",
        lambda right: lambda seed, shape: right(seed + 1, shape),
        PLAIN,
    ),
    Mistake(
        "compared with less noise",
        "editors.diffedit:MASK_STEPS",
        lambda _: 40,
        replace(PLAIN, mask_strength=0.88),
    ),
    Mistake(
        "inside and outside exchanged",
        "editors.diffedit:find_mask_cells",
        lambda right: lambda *args: ~right(*args),
        PLAIN,
    ),
    Mistake(
        "the image a level too late",
        "editors.diffedit:DiffEditControl.blend_latents",
        blended(a_level_late),
        PLAIN,
    ),
    Mistake(
        "the last step not blended",
        "editors.diffedit:DiffEditControl.blend_latents",
        blended(not_in_the_end),
        replace(PLAIN, spacing="LCM"),  # the last step of DDIM's spacing goes nowhere
    ),
    Mistake(
        "inverted with the source prompt",
        "editors.diffedit:source_text",
        lambda _: lambda settings: "source",
        PLAIN,
    ),
    Mistake(
        "the source prompt in the edit",
        "editors.diffedit:TARGET",
        lambda right: replace(right, text="source"),
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    scene = BATCH if mistake.scene == "batch" else SMALL
    assert worst_error(DIFFEDIT, scene, mistake.settings) > FAR
