"""Null-text inversion by the pack equals an independent loop on diffusers' UNet: the text of every
step, and the latents of the edit that replays them.

Adam divides a gradient by its size, so where a number's gradient is small, its update is rounding
errors alone: single numbers of a text differ by up to an update, 1e-2, between two computations of
the same algorithm in fp32 (also between this oracle in fp32 and in fp64). So texts are compared by
the root mean square of an image's, and runs are short; latents by their largest difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.inversion.null_text import fit_null_text
from ale_edit.inversion.stored import Schedule

from .editor_edit import BATCH, PROMPTS, SMALL
from .inverted_diffusers import Sampling
from .null_text_diffusers import UPDATES, NullTexts, find_null_texts
from .planted import Mistake
from .whole_edit import Scene, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the standard deviations of the source latent and of the empty text
FAR = 1e-2
FULL = Sampling(steps=5, method="null-text")
STOPS = Sampling(steps=50, strength=0.2, source_guidance=3.0, method="null-text")
"""In small steps at low noise, where the errors are small enough to stop early."""


@dataclass(frozen=True, eq=False)
class Run:
    """texts: (N, B, L, D). latents: (N + 1, B, C, h, w), of the replay, variance preserving."""

    texts: Tensor
    latents: Tensor


def run_pack(scene: Scene, sampling: Sampling, family: str | None = None) -> Run:
    from ale_edit.host.inverting.methods import invert_by
    from ale_edit.host.inverting.sampler import inversion_sampler
    from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
    from ale_edit.host.sampling.schedule import sigmas_of

    pack = twins(family)
    schedule = Schedule(sampling.steps, sampling.strength, sampling.spacing)  # type: ignore[arg-type]
    empty, source = (
        [[pack.clip.encode_from_tokens(pack.clip.tokenize(text)), {}]] for text in ("", PROMPTS[0])
    )
    latents = scene.latents / pack.latent_scale
    replayed: list[Tensor] = []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        replayed.append(x / (1 + inversion.sigmas[step] ** 2) ** 0.5)

    with torch.inference_mode():
        inversion = invert_by(
            "null-text", pack.model, source, latents, schedule, PROMPTS[0],
            negative=empty, guidance=sampling.source_guidance, callback=lambda *_: None,
        )  # fmt: skip
        branches = (Branch("target", source, sampling.source_guidance),)
        result = BranchGuider(pack.model, branches, empty).sample(
            torch.zeros_like(latents),
            latents,
            inversion_sampler(inversion),
            sigmas_of(pack.model, schedule),
            callback=callback,
            seed=0,
        )
    assert inversion.null_texts is not None
    return Run(inversion.null_texts, torch.stack([*replayed, result * pack.latent_scale]))


@cache
def run_oracle(scene: Scene, sampling: Sampling, family: str | None = None) -> list[NullTexts]:
    """Image by image."""
    both = twins(family)
    prompt, empty = both.encoder.encode(PROMPTS[0]), both.encoder.encode("")
    return [find_null_texts(both.network, prompt, empty, x0, sampling) for x0 in scene.latents]


def worst_errors(
    scene: Scene, sampling: Sampling, family: str | None = None
) -> tuple[float, float]:
    """The largest error of any step's texts, in the root mean square of an image's, and of any
    number of any step's latents."""
    ours, theirs = run_pack(scene, sampling, family), run_oracle(scene, sampling, family)
    texts = ours.texts - torch.stack([item.texts for item in theirs], dim=1)
    latents = ours.latents - torch.stack([item.latents for item in theirs], dim=1)
    found = (
        float(texts.square().mean((2, 3)).sqrt().max() / twins(family).encoder.encode("").std()),
        float(latents.abs().max() / scene.latents.std()),
    )
    print("texts {:.1e}, latents {:.1e}".format(*found), [item.updates for item in theirs])
    return found


CASES = [
    (BATCH, FULL, None),
    (BATCH, STOPS, None),
    (SMALL, replace(FULL, spacing="LCM", source_guidance=2.0), None),
    (SMALL, FULL, "SD 2, v"),
]


@pytest.mark.parametrize(("scene", "sampling", "family"), CASES, ids=str)
def test_every_text_and_every_latent_equals_the_oracles(
    scene: Scene, sampling: Sampling, family: str | None
):
    assert max(worst_errors(scene, sampling, family)) <= BOUND


def test_the_oracle_stops_early_where_it_is_close_and_each_image_on_its_own():
    first, second = run_oracle(BATCH, STOPS)
    assert min(first.updates[:-1]) == 1 and max(first.updates) == UPDATES
    assert first.updates != second.updates
    assert run_oracle(BATCH, FULL)[0].updates == [UPDATES] * 4 + [0]


# -- planted mistakes --------------------------------------------------------------------------


def _from_the_empty_text(right: Any) -> Any:
    """Each search starts anew."""
    first: list[Tensor] = []

    def wrong(text: Tensor, *args: Any) -> Tensor:
        first.append(text)
        return right(first[0], *args)

    return wrong


def _stepped_with_the_text_before(right: Any) -> Any:
    """The latents advance with the text that the search started from."""

    def wrong(self: Any, *args: Any, **named: Any) -> Tensor:
        found: list[Tensor] = []
        with pytest.MonkeyPatch.context() as patch:
            module = "ale_edit.host.inverting.null_text"

            def fit(text: Tensor, *rest: Any) -> Tensor:
                found.append(fit_null_text(found[-1] if found else text, *rest))
                return text

            patch.setattr(f"{module}.fit_null_text", fit)
            out = right(self, *args, **named)
        self.texts = [*found, *self.texts[len(found) :]]
        return out

    return wrong


MISTAKES = [
    Mistake(
        "the learning rate does not fall",
        "inversion.null_text:NullTextSettings.rate_at",
        lambda right: lambda self, step, steps: self.learning_rate,
        FULL,
    ),
    Mistake(
        "the learning rate falls to nothing",
        "inversion.null_text:NullTextSettings.rate_at",
        lambda right: lambda self, step, steps: self.learning_rate * (1 - step / steps),
        FULL,
    ),
    Mistake(
        "no early stop",
        "inversion.null_text:NullTextSettings.tolerance_at",
        lambda right: lambda self, step, steps: 0.0,
        STOPS,
    ),
    Mistake(
        "the tolerance does not grow",
        "inversion.null_text:NullTextSettings.tolerance_at",
        lambda right: lambda self, step, steps: self.tolerance,
        STOPS,
    ),
    Mistake(
        "guidance from the prompt to the null text",
        "inversion.null_text:guide",
        lambda right: lambda away, own, scale: right(own, away, scale),
        FULL,
    ),
    Mistake(
        "the search runs at another guidance",
        "inversion.null_text:guide",
        lambda right: lambda away, own, scale: right(away, own, 2.0),
        FULL,
    ),
    Mistake(
        "the latents advance without guidance",
        "host.inverting.null_text:guide",
        lambda right: lambda away, own, scale: own,
        FULL,
    ),
    Mistake(
        "the latents advance with the text before",
        "host.inverting.null_text:NullTextSampler._sample",
        _stepped_with_the_text_before,
        FULL,
    ),
    Mistake(
        "each search starts from the empty text",
        "host.inverting.null_text:fit_null_text",
        _from_the_empty_text,
        FULL,
    ),
    Mistake(
        "the replay keeps the empty text",
        "host.sampling.branch_guider:BranchGuider.replace_negative_text",
        lambda right: lambda self, text: None,
        FULL,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake: Mistake, monkeypatch: pytest.MonkeyPatch):
    mistake.plant(monkeypatch)
    scene = BATCH if mistake.settings == STOPS else SMALL
    assert max(worst_errors(scene, mistake.settings)) > FAR
