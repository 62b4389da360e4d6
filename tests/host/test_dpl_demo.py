"""What DPL learns on the demo world: its losses fall, and how well the nouns' maps then cover the
exact masks, before and after. Run with -s for the figures that docs/methods.md has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ale_edit.demo.captions import demo_edits
from ale_edit.demo.models import load_demo_model
from ale_edit.demo.render import render
from ale_edit.demo.scenes import make_scene
from ale_edit.editors import dpl
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting import dynamic_words as host
from ale_edit.regions.regions import make_regions
from ale_edit.tests.tiny import edits_of

pytestmark = [pytest.mark.comfy, pytest.mark.ci]

SCENES = (10_000, 10_001)  # of the seeds for choosing settings
LEVELS = torch.linspace(0.05, 0.95, 19)
PAPER = dpl.DPLSettings(steps=10, source_guidance=3.0, target_guidance=5.0, schedule="paper")


@dataclass(frozen=True)
class Found:
    """Of one scene. before, after: each loss before and after the updates, over the steps. iou: of
    the nouns' maps with the masks, the mean over thresholds, and best: of the best of them. error:
    of the guided replay of the image, in its standard deviations. rows: evaluated."""

    before: Tensor
    after: Tensor
    iou: float
    best: float
    error: float
    rows: int


def learn(seed: int, settings: dpl.DPLSettings, patch: pytest.MonkeyPatch) -> Found:
    model, clip, vae = load_demo_model()
    image, masks = render(make_scene(seed, 2))
    pairs = [(source, target) for source, target, _ in demo_edits(seed, name_colors=True)]
    regions = make_regions(list(masks.float()), [source for source, _ in pairs], 0.0)
    latent = cast(Tensor, vae.encode(image[None]))
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    replays: list[float] = []
    maps: list[Tensor] = []
    rows: list[int] = []
    fit, find, replay = host.fit_words, host.maps_of, host.WordSampler._sample
    apply_model = model.model.apply_model

    def see_maps(attention: Tensor, words: Any) -> Tensor:
        maps.append(find(attention, words).detach())
        return find(attention, words)

    def see_step(before: Tensor, measure: Any, *args: Any) -> Tensor:
        counted = len(rows)
        with torch.no_grad():
            first = measure(before)[0]
        after = fit(before, measure, *args)
        with torch.no_grad():
            maps.clear()
            last = measure(after)[0]
        rows[counted], rows[-1] = 0, 0  # of this test
        steps.append((first, last, maps[0][0]))
        return after

    def see_replay(self: Any, *args: Any, **named: Any) -> Tensor:
        made = replay(self, *args, **named)
        image = self._inversion.latents[-1].to(made)
        replays.append(float((made - image).square().mean().sqrt() / image.std()))
        return made

    def count(x: Tensor, *args: Any, **named: Any) -> Tensor:
        rows.append(len(x))
        return apply_model(x, *args, **named)

    with patch.context() as own, torch.inference_mode():
        own.setattr(host, "maps_of", see_maps)
        own.setattr(host, "fit_words", see_step)
        own.setattr(host.WordSampler, "_sample", see_replay)
        own.setattr(model.model, "apply_model", count)
        given = regions if settings.priors == "masks" else None
        edit = open_edit(dpl.EDITOR, settings, model, clip, edits_of(pairs), regions=given)
        edit.sample(latent, 0, lambda *_: None)
    mean = torch.stack([step[2] for step in steps]).mean(0)
    height, width = mean.shape[-2:]
    truth = adaptive_avg_pool2d(masks.float(), (height, width)) >= 0.5
    curve = torch.stack([iou(mean / mean.amax((1, 2), keepdim=True) > t, truth) for t in LEVELS])
    before, after = (torch.stack([step[k] for step in steps]).mean(0) for k in range(2))
    return Found(before, after, float(curve.mean()), float(curve.max()), replays[0], sum(rows))


def iou(found: Tensor, truth: Tensor) -> Tensor:
    """The mean of the objects'. (K, h, w) each."""
    return ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2))).mean()


def learn_all(name: str, settings: dpl.DPLSettings, patch: pytest.MonkeyPatch) -> list[Found]:
    found = [learn(seed, settings, patch) for seed in SCENES]
    count = len(found)
    before, after = (
        torch.stack([getattr(f, k) for f in found]).mean(0) for k in ("before", "after")
    )
    figures = [sum(getattr(f, k) for f in found) / count for k in ("iou", "best", "error", "rows")]
    print(f"\n{name}: losses", *(f"{a:.3f} -> {b:.3f}" for a, b in zip(before, after, strict=True)))
    print("IoU {:.3f}, at the best threshold {:.3f}; error {:.4f}; {:.0f} rows".format(*figures))
    return found


def test_the_losses_fall_and_the_maps_are_reported(monkeypatch: pytest.MonkeyPatch):
    """What is weighed falls; the IoU is reported, whether it rises or not."""
    settings = {
        "null-text inversion": replace(PAPER, updates=0, null_updates=5),
        "DPL": replace(PAPER, null_updates=5),
        "DPL, cheap": replace(PAPER, null_updates=5, schedule="cheap"),
        "LocInv": replace(PAPER, priors="masks", updates=31, null_updates=5),
    }
    found = {name: learn_all(name, own, monkeypatch) for name, own in settings.items()}
    for name in ("DPL", "LocInv"):
        for scene in found[name]:
            weights = torch.tensor(
                [1.0, 0.05, 0.05] if name == "DPL" else [1.0, 1.0], dtype=scene.before.dtype
            )
            is_learning = not torch.equal(scene.before, scene.after)
            assert not is_learning or float((scene.after * weights).sum()) < float(
                (scene.before * weights).sum()
            )
