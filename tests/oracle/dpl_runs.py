"""One whole edit by DPL or LocInv, by the pack inside ComfyUI and by the oracle: what was learned,
and every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention import clusters
from ale_edit.attention.layout_maps import LayoutRecorder
from ale_edit.editors import dpl
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting import dynamic_words as host
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.inversion.stored import Inversion
from ale_edit.regions.regions import Regions, make_regions
from ale_edit.tests.tiny import box_mask, edits_of

from . import dpl_diffusers as oracle
from .ale_diffusers import Step
from .dpl_diffusers import Learned, Learner, Settings
from .dpl_losses import background_of
from .whole_edit import Scene, errors, twins

LEAST_SCORE = 0.4
"""In the random network, 0.2 leaves no background."""


def translate(settings: Settings) -> dpl.DPLSettings:
    sampling = settings.sampling
    return dpl.DPLSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        cross_share=settings.cross,
        self_share=settings.self_,
        blend_words=settings.blend,
        priors=settings.priors,  # type: ignore[arg-type]
        updates=settings.updates,
        null_updates=settings.nulls,
        thresholds=settings.factor,
        adjective_binding=settings.binds,
        schedule="cheap" if settings.is_cheap else "paper",
    )


def regions_of(settings: Settings, scene: Scene) -> Regions | None:
    if settings.priors == "clusters":
        return None
    height, width = (8 * n for n in scene.size)
    masks = [
        box_mask(height, width, top=top, left=left, bottom=bottom, right=right)
        for top, left, bottom, right in settings.boxes
    ]
    return make_regions(masks, [source for source, _ in settings.pairs], 0.0)


@dataclass(eq=False)
class Search:
    """The updates of one step by the pack: the latents (B, C, h, w), as the network sees them, the
    embeddings before and after, the losses (B, T) and the gradients (B, K, W) of each."""

    z: Tensor
    before: Tensor
    after: Tensor
    losses: list[Tensor]
    gradients: list[Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """inversion, steps: of the edit. searches: of each step. backgrounds: that were found. maps:
    self- and cross-attention, averaged."""

    inversion: Inversion
    steps: list[Step]
    searches: list[Search]
    backgrounds: list[Tensor]
    maps: list[tuple[Tensor, Tensor]]


def run_pack(scene: Scene, settings: Settings, patch: pytest.MonkeyPatch) -> Run:
    pack = twins()
    searches: list[Search] = []
    backgrounds: list[Tensor] = []
    maps: list[tuple[Tensor, Tensor]] = []
    kept: list[Inversion] = []
    fit, find = host.fit_words, host._find_background
    predict_at: list[Tensor] = []

    def see_search(before: Tensor, measure: Any, terms: Any, learning: Any, *when: Any) -> Tensor:
        own = Search(torch.empty(0), before.clone(), torch.empty(0), [], [])

        def see(vectors: Tensor) -> Tensor:
            losses = measure(vectors)
            own.losses.append(losses.detach().clone())
            weights = torch.tensor([term.weight for term in terms])
            own.gradients.append(
                torch.autograd.grad((losses * weights).sum(), vectors, retain_graph=True)[0]
            )
            return losses

        rate = replace(learning, learning_rate=settings.rate)
        own.after = fit(before, see, terms, rate, *when)
        own.z = predict_at[-1]
        searches.append(own)
        return own.after

    def see_background(recorder: LayoutRecorder) -> Tensor:
        backgrounds.append(find(recorder))
        own = recorder.self_maps()
        assert own is not None
        maps.append((own, recorder.word_maps()))
        return backgrounds[-1]

    network = pack.model.model
    apply_model = network.apply_model

    def see_latents(x: Tensor, t: Tensor, *args: Any, **named: Any) -> Tensor:
        predict_at.append(x.detach().clone() / (1 + t.view(-1, 1, 1, 1) ** 2) ** 0.5)
        return apply_model(x, t, *args, **named)

    patch.setattr(network, "apply_model", see_latents)
    patch.setattr(host, "fit_words", see_search)
    patch.setattr(host, "_find_background", see_background)
    source, target = settings.prompts
    edits = edits_of(settings.pairs, source_prompt=source, target_prompt=target)
    edit = open_edit(
        dpl.EDITOR, translate(settings), pack.model, pack.clip, edits,
        regions=regions_of(settings, scene), keep_inversion=kept.append,
    )  # fmt: skip
    sigmas = sigmas_of(pack.model, edit.plan.schedule)
    latents = scene.latents / pack.latent_scale
    record: list[Step] = []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        record.append(Step(x / (1 + sigmas[step] ** 2) ** 0.5, denoised.clone()))

    monkey_free = host.latent_preview.prepare_callback
    patch.setattr(host.latent_preview, "prepare_callback", lambda *_: lambda *_: None)
    with torch.inference_mode():
        result = edit.sample(latents, 7, callback)
    patch.setattr(host.latent_preview, "prepare_callback", monkey_free)
    patch.setattr(host, "fit_words", fit)
    patch.setattr(host, "_find_background", find)
    patch.setattr(network, "apply_model", apply_model)
    steps = [*record, Step(record[-1].z, result * pack.latent_scale)]
    return Run(kept[0], steps, searches, backgrounds, maps)


@cache
def run_oracle(scene: Scene, settings: Settings) -> list[tuple[Learned, list[Step]]]:
    """Image by image."""
    both = twins()
    found = []
    for x0 in scene.latents:
        background = find_background(scene, settings, x0)
        learned = oracle.learn(both.network, both.encoder, x0, settings, background)
        found.append((learned, oracle.edit(both.network, both.encoder, x0, settings, learned)))
    return found


def find_background(scene: Scene, settings: Settings, x0: Tensor) -> Tensor | None:
    """By the oracle's maps; which cells are of one cluster is the pack's word."""
    if settings.priors == "masks":
        return None
    selves, crosses = averaged_by_oracle(settings, x0)
    half = [-(-side // 2) for side in scene.size]
    labels = clusters.cluster_rows(selves, 1).view(*half)
    return background_of(labels, crosses, LEAST_SCORE)


def averaged_by_oracle(settings: Settings, x0: Tensor) -> tuple[Tensor, Tensor]:
    """(L, L) of self-attention and (K, h, w) of the nouns."""
    both, sampling = twins(), settings.sampling
    text = both.encoder.encode(settings.prompts[0])
    inverted = oracle.invert(both.network, text, x0, sampling)
    selves, a = oracle.average_maps(both.network, text, inverted, sampling.timesteps())
    nouns = Learner(both.network, both.encoder, settings, (x0.shape[-2], x0.shape[-1]), None).nouns
    return selves, torch.stack([a[:, :, rows].sum(-1) for rows in nouns])


def rms(x: Tensor) -> float:
    """The greatest of any step's and image's, over the rest."""
    return float(x.square().flatten(2).mean(2).sqrt().max())


def worst_errors(run: Run, scene: Scene, settings: Settings) -> dict[str, float]:
    """Of embeddings, as a share of what was learned; of texts and of latents, in standard
    deviations."""
    learned, steps = zip(*run_oracle(scene, settings), strict=True)
    vectors, texts, nulls = (
        torch.stack([getattr(own, name) for own in learned], 1)
        for name in ("vectors", "prompts", "nulls")
    )
    ours, unit = run.inversion, twins().encoder.encode("").std()
    assert ours.word_vectors is not None and ours.word_texts is not None
    assert ours.null_texts is not None
    start = Learner(twins().network, twins().encoder, settings, scene.size, None).own_vectors()
    record = [
        Step(torch.stack([s.z for s in own]), torch.stack([s.p for s in own]))
        for own in zip(*steps, strict=True)
    ]
    found = {
        "embeddings": rms(ours.word_vectors - vectors) / (rms(vectors - start) or 1.0),
        "texts": rms(ours.word_texts - texts) / float(unit),
        "null texts": rms(ours.null_texts - nulls) / float(unit),
        "edit": max(errors(run.steps, record, scene)),
    }
    print({name: f"{error:.1e}" for name, error in found.items()}, [o.updates for o in learned])
    return found
