"""Dynamic Prompt Learning and LocInv by the pack equal an independent loop on diffusers' UNet and
transformers' CLIPTextModel: losses and their gradients, the updates of a step, every text of a
short run, and every step of an edit.

AdamW divides a gradient by its size, as Adam does (see test_null_text.py), so embeddings and texts
are compared by the root mean square of an image's, and runs are short. The rate is greater than the
published one, so that what was learned is far above rounding errors.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention import clusters, word_losses
from ale_edit.editors import dpl
from ale_edit.inversion.dynamic_words import LearningSettings

from . import dpl_diffusers as oracle
from .dpl_diffusers import Learner, Settings
from .dpl_losses import losses_of
from .dpl_runs import (
    LEAST_SCORE,
    averaged_by_oracle,
    find_background,
    run_oracle,
    run_pack,
    worst_errors,
)
from .editor_edit import BATCH, PROMPTS, SMALL
from .planted import Mistake
from .whole_edit import Scene, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of embeddings as a share of what was learned, of others in standard deviations
FAR = 1e-2
PLAIN = Settings(
    oracle.Sampling(steps=3, source_guidance=3.0, target_guidance=5.0), rate=0.02, factor=0.0
)
MASKS = replace(PLAIN, priors="masks")
BOUND_WORDS = replace(MASKS, binds=True)
TALL = replace(PLAIN, boxes=((8, 8, 40, 40), (48, 0, 80, 48)))
KEEPS = replace(
    PLAIN,
    prompts=(PROMPTS[0], "brown wolf and yellow ball over a house"),
    pairs=(("grey wolf", "brown wolf"), ("yellow moon", "yellow ball")),
)
STOPS = replace(PLAIN, updates=12, factor=1.45, sampling=replace(PLAIN.sampling, steps=4))
SCENES = {"small": SMALL, "batch": BATCH}


@pytest.fixture(autouse=True)
def _background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "LEAST_SCORE", LEAST_SCORE)


CASES = [(SMALL, PLAIN), (SMALL, BOUND_WORDS), (BATCH, TALL)]


@pytest.mark.parametrize(("scene", "settings"), CASES, ids=["clusters", "masks", "batch"])
def test_every_text_and_every_step_of_the_edit_equals_the_oracles(
    scene: Scene, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    assert (
        max(worst_errors(run_pack(scene, settings, monkeypatch), scene, settings).values()) <= BOUND
    )


def sampled(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, sampling=replace(settings.sampling, **changed))


OTHERS = [
    KEEPS,
    STOPS,
    MASKS,
    replace(PLAIN, binds=True),
    replace(PLAIN, is_cheap=True, updates=6, nulls=12),
    replace(PLAIN, updates=0),
    replace(PLAIN, nulls=0, blend="wolf goat", cross=0.5, self_=1.0),
    sampled(
        replace(PLAIN, updates=1), spacing="LCM", source_guidance=1.5, target_guidance=2.0
    ),  # from a much higher noise level, where rounding errors grow
    sampled(PLAIN, strength=0.67),
]


@pytest.mark.ci
@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_other_settings_equal_the_oracles(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    run = run_pack(SMALL, settings, monkeypatch)
    assert max(worst_errors(run, SMALL, settings).values()) <= BOUND


def test_the_oracle_stops_where_its_losses_are_small_enough():
    ((learned, _),) = run_oracle(SMALL, STOPS)
    print(learned.updates, learned.losses)
    assert min(learned.updates) < max(learned.updates) and 0 < sum(learned.updates) < 4 * 12


# -- maps, losses and one step ---------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_averaged_maps_and_the_background_equal_the_oracles(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    run = run_pack(scene, replace(PLAIN, updates=0, nulls=0), monkeypatch)
    ((selves, crosses),) = run.maps
    for j, x0 in enumerate(scene.latents):
        theirs = averaged_by_oracle(PLAIN, x0)
        torch.testing.assert_close(selves[j], theirs[0], rtol=0, atol=1e-5)
        scale = crosses[j].mean() / theirs[1].mean()  # ours are summed
        torch.testing.assert_close(crosses[j] / scale, theirs[1], rtol=0, atol=1e-5)
        background = find_background(scene, PLAIN, x0)
        assert background is not None and torch.equal(run.backgrounds[0][j], background)
        assert 0.05 < float(background.mean()) < 0.95


def attention(seed: int) -> Tensor:
    """(2, 4, 6, 77) in double precision."""
    draws = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(2, 4, 6, 77, generator=draws, dtype=torch.float64)).softmax(-1)


@pytest.mark.parametrize("priors", dpl.PRIORS)
def test_losses_of_maps_and_their_gradients_equal_loops(priors: str):
    """Of nouns of one and of two tokens, with a background and masks that are empty in places."""
    nouns, adjectives = [[4], [7, 8], [12]], [[3], [6], [10, 11]]
    draws = torch.Generator().manual_seed(5)
    background = (torch.rand(2, 4, 6, generator=draws) > 0.5).double()
    regions = (torch.rand(2, 3, 4, 6, generator=draws) > 0.5).double()
    a = attention(1).requires_grad_()
    maps = word_losses.maps_of(a, nouns)
    if priors == "clusters":
        ours = [
            word_losses.balance_loss(a, nouns),
            word_losses.leakage_loss(maps, background),
            word_losses.overlap_loss(maps),
        ]
    else:
        ours = [
            word_losses.region_similarity_loss(maps, regions),
            word_losses.region_overlap_loss(maps, regions),
        ]
    ours.append(word_losses.binding_loss(maps, word_losses.maps_of(a, adjectives)))
    for number, loss in enumerate(ours):
        (gradient,) = torch.autograd.grad(loss.sum(), a, retain_graph=True)
        assert float(gradient.abs().max()) > 1e-6
        for j in range(2):
            own = a[j].detach().requires_grad_()
            other = background[j] if priors == "clusters" else None
            expected = losses_of(own, nouns, adjectives, other, list(regions[j]))[number]
            assert loss[j].item() == pytest.approx(expected.item(), abs=1e-12)
            (theirs,) = torch.autograd.grad(expected, own)
            torch.testing.assert_close(gradient[j], theirs, rtol=0, atol=1e-10)


def learner_in_double(settings: Settings, scene: Scene, background: Tensor | None) -> Learner:
    both = twins()
    unet = copy.deepcopy(both.network.unet).double()
    model = copy.deepcopy(both.encoder.model).double()
    return Learner(
        replace(both.network, unet=unet), replace(both.encoder, model=model), settings,
        scene.size, background,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [PLAIN, BOUND_WORDS], ids=["clusters", "masks"])
def test_losses_gradients_and_updates_equal_the_oracles_in_double_precision(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """From the pack's own latents and embeddings, at the published rate: the first loss and
    gradient of each step, and the embeddings after all of its updates. The pack computes in single
    precision, in which the oracle's own gradient is off by 1e-5 of the greatest."""
    settings = replace(settings, rate=LearningSettings().learning_rate)
    run = run_pack(SMALL, settings, monkeypatch)
    (x0,) = SMALL.latents
    background = find_background(SMALL, settings, x0)
    exact = learner_in_double(settings, SMALL, background)
    single = Learner(twins().network, twins().encoder, settings, SMALL.size, background)
    schedule = settings.sampling.timesteps()
    for number, step in enumerate(run.searches):
        t = schedule[number]
        losses, gradient = exact.gradient(step.z[0].double(), t, step.before[0].double())
        _, rounded = single.gradient(step.z[0], t, step.before[0])
        after, _, updates = exact.search(
            step.z[0].double(), t, step.before[0].double(), number, len(schedule)
        )
        pairs = zip(step.losses[0][0].tolist(), losses, strict=True)
        learned = (after - step.before[0]).abs().max()
        found = {
            "losses": max(abs(ours - theirs) for ours, theirs in pairs),
            "gradient": relative(step.gradients[0][0], gradient),
            "rounding": relative(rounded, gradient),
            "embeddings": float((step.after[0] - after).abs().max() / learned),
        }
        print({name: f"{error:.1e}" for name, error in found.items()})
        assert updates == 3 and found["losses"] <= 1e-5
        assert found["gradient"] <= max(1e-5, 2 * found["rounding"]) <= 1e-4
        assert found["embeddings"] <= FAR


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# -- planted mistakes ------------------------------------------------------------------------------


def from_the_word(right: Any) -> Any:
    """Each step starts from the words' own embeddings."""

    def wrong(self: Any, batch: int) -> Tensor:
        kept, self.vectors = self.vectors, []
        try:
            return right(self, batch)
        finally:
            self.vectors = kept

    return wrong


def without_target(right: Any) -> Any:
    def wrong(self: Any, inversion: Any) -> Any:
        return {"source": right(self, inversion)["source"]}

    return wrong


def a_step_late(right: Any) -> Any:
    def wrong(self: Any, inversion: Any) -> Any:
        return {name: text.roll(1, 0) for name, text in right(self, inversion).items()}

    return wrong


def weighted(*weights: float) -> Any:
    def plant(terms: Any) -> Any:
        return tuple(replace(term, weight=w) for term, w in zip(terms, weights, strict=True))

    return plant


def every_token(right: Any) -> Any:
    """The softmax is of the nouns' own tokens alone."""

    def wrong(attention: Tensor, words: Any) -> Tensor:
        rows = [0, *sorted({row for word in words for row in word}), 0]
        at = {row: k for k, row in enumerate(rows)}
        return right(attention[..., rows], [[at[row] for row in word] for word in words])

    return wrong


HOST = "host.inverting.dynamic_words"
LOSSES = "attention.word_losses"
MISTAKES = [
    Mistake("attention that is not sharpened", f"{LOSSES}:SHARPNESS", lambda _: 1.0, PLAIN),
    Mistake("no smoothing", f"{LOSSES}:smooth", lambda _: lambda maps: maps, PLAIN),
    Mistake("a softmax of the nouns alone", f"{HOST}:balance_loss", every_token, PLAIN),
    Mistake(
        "the objects for the background",
        f"{HOST}:find_background",
        lambda right: lambda *args: 1 - right(*args),
        PLAIN,
    ),
    Mistake("all losses weigh the same", f"{HOST}:CLUSTER_TERMS", weighted(1, 1, 1), PLAIN),
    Mistake(
        "no weight on adjectives",
        f"{HOST}:BINDING",
        lambda term: replace(term, weight=0.0),
        BOUND_WORDS,
    ),
    Mistake(
        "objects in each other's place",
        f"{HOST}:_find_cells",
        lambda right: lambda *args: right(*args).flip(1),
        MASKS,
    ),
    Mistake("each step starts anew", f"{HOST}:WordSampler._before", from_the_word, PLAIN),
    Mistake(
        "thresholds that do not fall",
        "inversion.dynamic_words:LossTerm.limit_at",
        lambda right: lambda self, step, steps: self.threshold,
        STOPS,
    ),
    Mistake(
        "an update more than was asked for",
        "inversion.dynamic_words:LearningSettings.updates_at",
        lambda right: lambda self, step: right(self, step) + 1,
        PLAIN,
    ),
    Mistake(
        "plain nouns in the target prompt", f"{HOST}:WordLearner.find_texts", without_target, KEEPS
    ),
    Mistake("texts of the step before", f"{HOST}:WordLearner.find_texts", a_step_late, PLAIN),
    Mistake(
        "the negative text stops early",
        "inversion.dynamic_words:LearningSettings.null_text",
        lambda right: lambda self, guidance: replace(right(self, guidance), tolerance=1.0),
        PLAIN,
    ),
    Mistake(
        "self-attention of half the side",
        "attention.control:Layer.is_quarter_or_coarser",
        lambda _: property(lambda self: self.is_half_or_coarser),
        PLAIN,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    run_oracle(SMALL, mistake.settings)
    mistake.plant(monkeypatch)
    run = run_pack(SMALL, mistake.settings, monkeypatch)
    assert max(worst_errors(run, SMALL, mistake.settings).values()) > FAR
