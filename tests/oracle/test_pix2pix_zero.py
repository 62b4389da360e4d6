"""pix2pix-zero by the pack equals an independent loop on diffusers' UNet with the parts of
diffusers' own pipeline: its losses, the gradient of every update, and every step of a whole edit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import pix2pix_zero

from . import pix2pix_zero_diffusers
from .editor_edit import BATCH, SMALL, Method, run_oracle, run_pack, worst_error
from .inverted_diffusers import Sampling
from .pix2pix_zero_diffusers import Guidance, Settings
from .planted import Mistake
from .test_p2p import LARGE
from .whole_edit import Scene, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> pix2pix_zero.Pix2PixZeroSettings:
    sampling = settings.sampling
    own = settings.sentences or ((), ())
    return pix2pix_zero.Pix2PixZeroSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        attention_guidance=settings.amount,
        source_sentences="\n".join(own[0]),
        target_sentences="\n".join(own[1]),
    )


P2Z = Method(
    pix2pix_zero.EDITOR,
    translate,
    pix2pix_zero_diffusers.edit,
    adds_result=True,
    negative=lambda settings: settings.negative,
)
PLAIN = Settings(
    Sampling(
        steps=4,
        source_guidance=1.0,
        target_guidance=2.0,
        method="regularised",
        is_published=False,
    )
)


def sampled(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, sampling=replace(settings.sampling, **changed))


DDIM = sampled(PLAIN, method="DDIM")
OWN = replace(
    DDIM,
    sentences=(
        ("a wolf under the moon", "the wolf howls"),
        ("a goat plays", "the goat jumps over a ball", "goats"),
    ),
)
BLURRY = replace(DDIM, negative="blurry house")
SCENES = {"small": SMALL, "batch": BATCH}


@pytest.mark.parametrize(
    ("scene", "settings"),
    [(SMALL, PLAIN), (SMALL, DDIM), (BATCH, PLAIN)],
    ids=["regularised", "DDIM", "batch"],
)
def test_every_step_equals_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(P2Z, scene, settings) <= BOUND


# Rounding alone grows with the guidance, and with the size of the updates: by 1 + sigma^2.
OTHERS = [
    (SMALL, OWN),
    (SMALL, BLURRY),
    (BATCH, replace(BLURRY, sentences=OWN.sentences)),
    (LARGE, sampled(DDIM, steps=3)),
    (SMALL, sampled(DDIM, method="direct")),
    (SMALL, sampled(DDIM, method="edit-friendly")),
    (SMALL, sampled(replace(DDIM, amount=0.001), spacing="LCM")),
    (SMALL, sampled(DDIM, strength=0.5)),
    (SMALL, sampled(replace(DDIM, amount=0.02), target_guidance=5.0)),
    (SMALL, replace(DDIM, amount=0.0)),
    (SMALL, replace(DDIM, amount=0.02)),
]


@pytest.mark.ci
@pytest.mark.parametrize(("scene", "settings"), OTHERS, ids=str)
def test_other_settings_equal_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(P2Z, scene, settings) <= BOUND


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 0.0},
        {"sentences": OWN.sentences},
        {"negative": ""},
        {"pairs": Settings().pairs[:1]},
        {"sampling": DDIM.sampling},
        {"is_balanced": False},
    ],
    ids=str,
)
def test_the_oracle_depends_on_every_component(changed: dict[str, Any]):
    without = run_oracle(P2Z, SMALL, replace(PLAIN, **changed))
    assert max(errors(without, run_oracle(P2Z, SMALL, PLAIN), SMALL)) > FAR


# -- losses and updates ----------------------------------------------------------------------------


@dataclass(eq=False)
class Seen:
    """What the pack did to a copy of the latents before a step of one image, as the network sees
    latents (C, h, w)."""

    branch: str
    z: Tensor
    source: Tensor
    gradient: Tensor
    after: Tensor
    loss: float


def see_updates(settings: Settings, scene: Scene, patch: pytest.MonkeyPatch) -> list[list[Seen]]:
    """The updates of a whole edit by the pack, step by step."""
    found: list[list[Seen]] = []
    values: list[tuple[Tensor, float]] = []
    find = pix2pix_zero.find_gradient
    optimise = pix2pix_zero.Pix2PixZeroControl.optimise

    def see_gradient(loss: Tensor, x: Tensor, step: Any, name: str) -> Tensor:
        gradient = find(loss, x, step, name)
        values.append((gradient[0] * (1 + step.sigma**2) ** 0.5, float(loss[0].detach())))
        return gradient

    def see_step(self: Any, latents: Any, step: Any, evaluate: Any) -> Any:
        after = optimise(self, latents, step, evaluate)
        scale = (1 + step.sigma**2) ** 0.5
        found.append(
            [
                Seen(branch, latents["target"][0] / scale, latents["source"][0] / scale, gradient,
                     after[branch][0] / scale, loss)
                for branch, (gradient, loss) in zip(("target", "away"), values, strict=True)
            ]
        )  # fmt: skip
        values.clear()
        return after

    patch.setattr(pix2pix_zero, "find_gradient", see_gradient)
    patch.setattr(pix2pix_zero.Pix2PixZeroControl, "optimise", see_step)
    run_pack(P2Z, scene, settings)
    return found


@pytest.mark.parametrize("settings", [DDIM, BLURRY], ids=["plain", "negative"])
def test_losses_gradients_and_updates_equal_the_oracles_in_double_precision(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """From the pack's own latents. The pack computes in single precision, whose rounding errors of
    a sum over all maps stay in the gradients."""
    seen = see_updates(settings, SMALL, monkeypatch)
    assert len(seen) == 4
    both = twins()
    network = replace(both.network, unet=copy.deepcopy(both.network.unet).double())
    oracle = Guidance(network, both.encoder, settings)
    with pix2pix_zero_diffusers.watched(network.unet):
        for number, (target, away) in enumerate(seen):
            t = settings.sampling.timesteps()[number]
            oracle.reconstruct(target.source.double(), t)
            oracle.move(target.z.double(), number, t)
            update = oracle.updates[-1]
            found = {"loss": abs(target.loss + away.loss - update.loss) / update.loss}
            for own, row in ((away, 0), (target, 1)):
                gradient, way = update.gradient[row], update.after[row] - update.z[row]
                if number == row == 0:
                    assert not gradient.any() and not own.gradient.any()  # it is the source's
                    continue
                error = (own.gradient - gradient).norm() / gradient.norm()
                found[f"gradient {own.branch}"] = float(error)
                found[f"way {own.branch}"] = float((own.after - own.z - way).norm() / own.z.norm())
            print(f"loss {update.loss:.2e}", {name: f"{e:.1e}" for name, e in found.items()})
            assert update.loss > 1e-6 and found.pop("loss") <= 1e-5
            assert max(found.values()) <= 2e-5


# -- planted mistakes ------------------------------------------------------------------------------


def stepped(**changed: Any) -> Any:
    """A step of descent with other arguments, made from its own."""

    def plant(right: Any) -> Any:
        def wrong(x: Tensor, gradient: Tensor, rate: float, sigma: float) -> Tensor:
            given = {"x": x, "gradient": gradient, "rate": rate, "sigma": sigma}
            return right(**{**given, **{name: f(given) for name, f in changed.items()}})

        return wrong

    return plant


def from_the_target(right: Any) -> Any:
    """The maps that are kept come from the target's latents."""

    def wrong(self: Any, branch: str, latents: Any, evaluate: Any) -> None:
        right(self, branch, {**latents, "source": latents["target"]}, evaluate)

    return wrong


def one_copy(branch: str) -> Any:
    """Both halves of guidance have the copy of one."""

    def plant(right: Any) -> Any:
        def wrong(self: Any, latents: Any, step: Any, evaluate: Any) -> Any:
            after = right(self, latents, step, evaluate)
            self._apart = None
            return {**after, "target": after[branch], "away": after[branch]}

        return wrong

    return plant


def without_shift(right: Any) -> Any:
    """Guidance of predictions as if they were of the same latents."""

    def wrong(self: Any, *args: Any) -> Any:
        self._apart = None
        return right(self, *args)

    return wrong


def on_from_the_target(right: Any) -> Any:
    return lambda self, latents, step: dict(latents)


def without_middle(right: Any) -> Any:
    def wrong(self: Any, layer: Any, *args: Any) -> bool:
        return layer.block[0] != "middle" and right(self, layer, *args)

    return wrong


def summed(right: Any) -> Any:
    """Sums over sentences in place of means."""
    return lambda source, target: len(source) * right(source, target)


def of_words_alone(right: Any) -> Any:
    """The rows of the first tokens move, those of the padding stay."""

    def wrong(text: Tensor, direction: Tensor) -> Tensor:
        words = torch.arange(len(direction)) < 9
        return right(text, direction * words[:, None])

    return wrong


def without_last(right: Any) -> Any:
    return lambda settings, phrases: right(settings, phrases)[:1]


def halved_shifts(right: Any) -> Any:
    return lambda self, noise: [(shifts + 1) // 2 for shifts in right(self, noise)]


def without_pyramid(right: Any) -> Any:
    return lambda noise, shifts: right(noise, shifts[:1])


P2Z_FILE = "editors.pix2pix_zero"
CONTROL = f"{P2Z_FILE}:Pix2PixZeroControl"
DESCEND = f"{P2Z_FILE}:descend"
MISTAKES = [
    Mistake(
        "the gradient by x as if it were by z",
        DESCEND,
        stepped(gradient=lambda given: given["gradient"] / (1 + given["sigma"] ** 2)),
        DDIM,
    ),
    Mistake(
        "half of the change of variables",
        DESCEND,
        stepped(gradient=lambda given: given["gradient"] / (1 + given["sigma"] ** 2) ** 0.5),
        DDIM,
    ),
    Mistake("uphill", DESCEND, stepped(rate=lambda given: -given["rate"]), DDIM),
    Mistake(
        "the update scaled by sigma",
        DESCEND,
        stepped(rate=lambda given: given["rate"] * given["sigma"]),
        DDIM,
    ),
    Mistake("the loss of one half", f"{P2Z_FILE}:HALVES", lambda _: 1, DDIM),
    Mistake("a layer left out", f"{CONTROL}.acts", without_middle, DDIM),
    Mistake("the source's maps are the target's", f"{CONTROL}._keep_inputs", from_the_target, DDIM),
    Mistake("both halves at the prompt's copy", f"{CONTROL}.optimise", one_copy("target"), DDIM),
    Mistake("both halves at the negative's copy", f"{CONTROL}.optimise", one_copy("away"), DDIM),
    Mistake("the copies taken for one", f"{CONTROL}.blend", without_shift, DDIM),
    Mistake("on from the prompt's copy", f"{CONTROL}.blend_latents", on_from_the_target, DDIM),
    Mistake("sums of sentences", "host.text.directions:find_direction", summed, DDIM),
    Mistake("words alone move", "host.text.directions:move_along", of_words_alone, DDIM),
    Mistake(
        "one edit's direction alone",
        "editors.pix2pix_zero:EDITOR",
        lambda right: replace(right, find_sentences=without_last(right.find_sentences)),
        DDIM,
    ),
    Mistake(
        "the negative's maps are the source prompt's",
        f"{CONTROL}.__init__",
        lambda right: lambda self, settings, own: right(self, settings, False),
        BLURRY,
    ),
    Mistake(
        "shifts half as far",
        "inversion.regularised:NoiseRegulariser._draw_shifts",
        halved_shifts,
        sampled(PLAIN, steps=6),
        scene="batch",
    ),
    Mistake(
        "no divergence",
        "inversion.regularised:divergence",
        lambda right: lambda noise: 0 * right(noise),
        PLAIN,
    ),
    Mistake(
        "labels of the next level",
        "host.editing:invert_by",
        lambda right: (
            lambda *args, **named: right(*args, **{**named, "convention": "published code"})
        ),
        DDIM,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    scene = SCENES[mistake.scene]
    run_oracle(P2Z, scene, mistake.settings)
    mistake.plant(monkeypatch)
    method = replace(P2Z, editor=pix2pix_zero.EDITOR)
    ours, theirs = (
        run_pack(method, scene, mistake.settings),
        run_oracle(P2Z, scene, mistake.settings),
    )
    assert max(errors(ours, theirs, scene)) > FAR
