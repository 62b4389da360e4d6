"""MAG-Edit by the pack equals an independent loop on diffusers' UNet: its losses, the gradient of
every update, and every step of a whole edit."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention import map_losses
from ale_edit.editors import mag_edit
from ale_edit.regions.regions import Regions, make_regions
from ale_edit.tests.tiny import box_mask

from . import mag_diffusers
from .editor_edit import BATCH, PAIRS, SMALL, Method, run_oracle, run_pack, worst_error
from .mag_diffusers import Optimiser, Settings
from .planted import Mistake
from .test_p2p import LARGE
from .whole_edit import Scene, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> mag_edit.MagEditSettings:
    sampling = settings.sampling
    return mag_edit.MagEditSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        constraint=settings.constraint,  # type: ignore[arg-type]
        scale=settings.scale,
        iterations=settings.iterations,
        optimise_share=settings.optimised,
        early_stop=settings.stops,
        edit_words=settings.words,
        negative_words=settings.negative,
        negative_scale=settings.negative_scale,
        cross_share=settings.cross,
        self_share=settings.self_,
        blend_share=settings.blended,
    )


def regions(settings: Settings, scene: Scene) -> Regions:
    height, width = (8 * n for n in scene.size)
    masks = [
        box_mask(height, width, top=top, left=left, bottom=bottom, right=right)
        for top, left, bottom, right in settings.boxes
    ]
    return make_regions(masks, [source for source, _ in PAIRS], 0.0)


MAG = Method(mag_edit.EDITOR, translate, mag_diffusers.edit, adds_result=True, regions=regions)
# Rounding alone grows with the guidance, the number of updates and their scale.
PLAIN = Settings(
    mag_diffusers.Sampling(steps=4, source_guidance=3.0, target_guidance=5.0),
    scale=1.0,
    iterations=2,
    blended=0.5,
)
SPATIAL = replace(PLAIN, constraint="spatial ratio", scale=0.25)
AVOIDING = replace(PLAIN, negative="grey house", negative_scale=0.5)
TALL = replace(PLAIN, boxes=((8, 8, 40, 40), (48, 0, 80, 48)))
WHOLE = replace(PLAIN, boxes=((8, 8, 120, 200), (130, 140, 256, 256)), optimised=0.25, blended=0.25)
SCENES = {"small": SMALL, "large": LARGE}


@pytest.mark.parametrize(
    ("scene", "settings"),
    [(SMALL, PLAIN), (SMALL, SPATIAL), (BATCH, TALL)],
    ids=["token", "spatial", "batch"],
)
def test_every_step_equals_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(MAG, scene, settings) <= BOUND


def sampled(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, sampling=replace(settings.sampling, **changed))


OTHERS = [
    (SMALL, AVOIDING),
    (SMALL, replace(AVOIDING, constraint="spatial ratio", scale=0.25, negative_scale=0.05)),
    (LARGE, WHOLE),  # maps of the second of three grids
    (SMALL, replace(PLAIN, words="goat ball")),
    (SMALL, replace(PLAIN, cross=0.0, self_=0.0)),
    (SMALL, replace(PLAIN, optimised=1.0, cross=0.5, self_=1.0, iterations=1)),
    (SMALL, replace(SPATIAL, stops=True, iterations=8)),
    (BATCH, replace(TALL, stops=True, iterations=8)),
    (SMALL, sampled(PLAIN, method="negative-prompt")),
    (SMALL, sampled(PLAIN, method="direct")),
    (SMALL, sampled(PLAIN, method="edit-friendly")),
    (SMALL, sampled(replace(PLAIN, scale=0.25, iterations=1), spacing="LCM", source_guidance=1.0)),
    (SMALL, sampled(PLAIN, strength=0.5)),
]


@pytest.mark.ci
@pytest.mark.parametrize(("scene", "settings"), OTHERS, ids=str)
def test_other_settings_equal_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(MAG, scene, settings) <= BOUND


@pytest.mark.parametrize(
    "changed",
    [{"iterations": 0}, {"blended": 0.0}, {"cross": 0.0}, {"self_": 0.0}, {"words": "goat ball"}],
    ids=str,
)
def test_the_oracle_depends_on_every_component(changed: dict[str, Any]):
    without = run_oracle(MAG, SMALL, replace(PLAIN, **changed))
    assert max(errors(without, run_oracle(MAG, SMALL, PLAIN), SMALL)) > FAR


# -- losses and updates ----------------------------------------------------------------------------


@dataclass(eq=False)
class Seen:
    """What the pack did before a step of one image, as the network sees latents (C, h, w)."""

    z_s: Tensor
    z_t: Tensor
    after: Tensor
    gradients: list[Tensor]
    losses: list[list[float]]


def see_updates(settings: Settings, scene: Scene, patch: pytest.MonkeyPatch) -> list[Seen]:
    """The updates of a whole edit by the pack."""
    found: list[Seen] = []
    gradients: list[Tensor] = []
    losses: list[list[float]] = []
    control = mag_edit.MagEditControl
    move, look, optimise = mag_edit.move_down, control._losses, control.optimise

    def see_losses(self: Any, branch: str, *args: Any) -> Tensor:
        values = look(self, branch, *args)
        if branch == "target":
            losses.append(values.detach()[0].tolist())
        return values

    def see_gradient(x: Tensor, gradient: Tensor, where: Tensor, sigma: float) -> Tensor:
        gradients.append(gradient[0] * (1 + sigma**2) ** 0.5)
        return move(x, gradient, where, sigma)

    def see_step(self: Any, latents: Any, step: Any, evaluate: Any) -> Any:
        after = optimise(self, latents, step, evaluate)
        z_s, z_t, z_after = (
            x[0] / (1 + step.sigma**2) ** 0.5
            for x in (latents["source"], latents["target"], after["target"])
        )
        found.append(Seen(z_s, z_t, z_after, gradients.copy(), losses.copy()))
        gradients.clear()
        losses.clear()
        return after

    patch.setattr(mag_edit, "move_down", see_gradient)
    patch.setattr(control, "_losses", see_losses)
    patch.setattr(control, "optimise", see_step)
    run_pack(MAG, scene, settings)
    return found


def optimiser_in_double(settings: Settings, scene: Scene) -> Optimiser:
    both = twins()
    unet = copy.deepcopy(both.network.unet).double()
    return Optimiser(replace(both.network, unet=unet), both.encoder, settings, scene.size)


@pytest.mark.parametrize(
    ("settings", "bound"),
    [(PLAIN, 1e-5), (SPATIAL, 1e-5), (AVOIDING, 5e-5)],
    ids=["token", "spatial", "words"],
)
def test_losses_gradients_and_updates_equal_the_oracles_in_double_precision(
    settings: Settings, bound: float, monkeypatch: pytest.MonkeyPatch
):
    """From the pack's own latents: the first loss and gradient of each step, and the way of the
    latents through all of its updates. The pack computes in single precision, and with negative
    words takes the difference of two gradients, whose rounding errors stay."""
    seen = see_updates(settings, SMALL, monkeypatch)
    assert [len(step.gradients) for step in seen] == [2, 2]
    oracle, steps = optimiser_in_double(settings, SMALL), settings.sampling.timesteps()
    for number, step in enumerate(seen):
        z_s, z_t = step.z_s.double(), step.z_t.double()
        after = oracle(z_s, z_t, number, len(steps), steps[number])
        first, gradient = oracle.updates[0], oracle.updates[0].gradient
        way = float((after - z_t).abs().max())
        errors_found = {
            "loss": max(abs(a - b) for a, b in zip(step.losses[0], first.losses, strict=True)),
            "gradient": float((step.gradients[0] - gradient).abs().max() / gradient.abs().max()),
            "way": float((step.after - after).abs().max()) / way,
        }
        print(f"way {way:.1e}", {name: f"{error:.1e}" for name, error in errors_found.items()})
        assert errors_found["loss"] <= 1e-5 and errors_found["gradient"] <= bound
        assert errors_found["way"] <= BOUND and way > 1e-3
        oracle.updates.clear()


def maps_of(heads: int, seed: int) -> Tensor:
    """(2, heads, 24, 77) in double precision; rows do not sum up to 1, as after injection."""
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, heads, 24, 77, generator=draws, dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize("constraint", mag_edit.CONSTRAINTS)
def test_losses_of_maps_and_their_gradients_equal_loops(constraint: str):
    """Of two layers with other numbers of heads, and words of one and of three tokens."""
    region = torch.zeros(2, 24, dtype=torch.float64)
    region[0, 3:9] = region[1, 10:] = 1
    words = [[4], [6, 7, 8]]
    layers = [maps_of(2, 1).requires_grad_(), maps_of(3, 2).requires_grad_()]
    found = map_losses.mean_loss(mag_edit.LOSSES[constraint], layers, region, words)
    gradients = torch.autograd.grad(found.sum(), layers)
    for j in range(2):
        own = [maps[j].detach().requires_grad_() for maps in layers]
        expected = mag_diffusers.loss_of_object(constraint, own, region[j], words)
        assert float(found[j]) == pytest.approx(float(expected), abs=1e-12)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, own), strict=True):
            torch.testing.assert_close(ours[j], theirs, rtol=0, atol=1e-12)


# -- planted mistakes ------------------------------------------------------------------------------


def moved(**changed: Any) -> Any:
    """An update with other arguments, made from its own."""

    def plant(right: Any) -> Any:
        def wrong(x: Tensor, gradient: Tensor, where: Tensor, sigma: float) -> Tensor:
            given = {"x": x, "gradient": gradient, "where": where, "sigma": sigma}
            return right(**{**given, **{name: f(given) for name, f in changed.items()}})

        return wrong

    return plant


def without_source_maps(right: Any) -> Any:
    """The new words are optimised without the source's self-attention."""

    def wrong(self: Any, layer: Any, step: Any, is_cond: bool) -> Any:
        return {} if self._is_optimising else right(self, layer, step, is_cond)

    return wrong


def from_the_target(right: Any) -> Any:
    """The maps of the source come from the target's latents."""

    def wrong(self: Any, latents: Any, step: Any, evaluate: Any) -> Any:
        return {
            **latents,
            "target": right(self, {**latents, "source": latents["target"]}, step, evaluate)[
                "target"
            ],
        }

    return wrong


def blended_at(number: Any) -> Any:
    def plant(right: Any) -> Any:
        def wrong(self: Any, latents: Any, step: Any) -> Any:
            return right(self, latents, replace(step, number=number(step)))

        return wrong

    return plant


def negated(right: Any) -> Any:
    def wrong(self: Any, branch: str, *args: Any) -> Tensor:
        found = right(self, branch, *args)
        return -found if branch == "source" else found

    return wrong


MAG_EDIT = "editors.mag_edit"
CONTROL = f"{MAG_EDIT}:MagEditControl"
STRONG = replace(PLAIN, scale=3.0)
MISTAKES = [
    Mistake(
        "the gradient by x as if it were by z",
        f"{MAG_EDIT}:move_down",
        moved(gradient=lambda given: given["gradient"] / (1 + given["sigma"] ** 2)),
        PLAIN,
    ),
    Mistake(
        "half of the change of variables",
        f"{MAG_EDIT}:move_down",
        moved(gradient=lambda given: given["gradient"] / (1 + given["sigma"] ** 2) ** 0.5),
        PLAIN,
    ),
    Mistake(
        "the update without sigma, as before the release",
        f"{MAG_EDIT}:move_down",
        moved(gradient=lambda given: given["gradient"] / given["sigma"]),
        PLAIN,
    ),
    Mistake(
        "uphill", f"{MAG_EDIT}:move_down", moved(gradient=lambda given: -given["gradient"]), PLAIN
    ),
    Mistake(
        "the whole image is updated",
        f"{MAG_EDIT}:move_down",
        moved(where=lambda given: torch.ones_like(given["where"])),
        PLAIN,
    ),
    Mistake(
        "objects in each other's place",
        f"{CONTROL}._regions",
        lambda right: lambda *args: right(*args).flip(1),
        PLAIN,
    ),
    Mistake(
        "maps without the source's self-attention", f"{CONTROL}.routes", without_source_maps, PLAIN
    ),
    Mistake("the source's maps are the target's", f"{CONTROL}.optimise", from_the_target, STRONG),
    Mistake(
        "maps of the finest grid",
        "attention.word_maps:fitness",
        lambda _: lambda grid: (True, grid[0] * grid[1]),
        WHOLE,
        scene="large",
    ),
    Mistake("negative words gain", f"{CONTROL}._losses", negated, AVOIDING),
    Mistake(
        "a step of optimisation too few",
        f"{CONTROL}.optimises",
        lambda right: lambda self, step: right(self, replace(step, number=step.number + 1)),
        PLAIN,
    ),
    Mistake(
        "blended a step too late",
        f"{CONTROL}.blend_latents",
        blended_at(lambda step: step.number - 1),
        PLAIN,
    ),
    Mistake(
        "blended outside the masks alone",
        f"{MAG_EDIT}:max_pool2d",
        lambda _: lambda mask, *args, **kwargs: mask,
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    run_oracle(MAG, SCENES[mistake.scene], mistake.settings)
    mistake.plant(monkeypatch)
    assert worst_error(MAG, SCENES[mistake.scene], mistake.settings) > FAR
