"""InfEdit's local blend in ComfyUI, at sizes that are not square or not 512 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Layer, Step
from ale_edit.attention.word_maps import WordMaps
from ale_edit.editors import infedit
from ale_edit.host.editing import open_edit
from ale_edit.tests.tiny import edits_of, source_latent

pytestmark = pytest.mark.comfy

THRESHOLD = 0.95
SETTINGS = infedit.InfEditSettings(
    steps=4, target_blend="goat", target_threshold=THRESHOLD, cross_share=0.5, self_share=0.5
)


def enlarge(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, *size): each cell takes the value of the grid's cell that it lies in."""
    rows, columns = (
        torch.tensor([at * small // large for at in range(large)])
        for small, large in zip(grid.shape[1:], size, strict=True)
    )
    return grid[:, rows][:, :, columns]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("size", "grid"),
    [((48, 80), (24, 40)), ((72, 72), (18, 18)), ((48, 48), (24, 24))],
    ids=["640x384", "576x576", "384x384"],
)
def test_the_target_changes_where_its_words_maps_are_strong(model, clip, monkeypatch, size, grid):
    """On the coarsest grid with at least 16 cells on its short side."""
    seen: dict[tuple[int, int], list[Tensor]] = {}
    blended: list[bool] = []
    add, blend = WordMaps.add, infedit.InfEditControl.blend

    def record(self: WordMaps, layer: Layer, maps: Mapping[str, Tensor]) -> None:
        seen.setdefault(layer.grid, []).append(maps["layout"])
        add(self, layer, maps)

    def check(self: Any, denoised: Mapping[str, Tensor], step: Step) -> dict[str, Tensor]:
        out = blend(self, denoised, step)
        if 0 < step.number < step.count - 1:
            together = torch.stack([maps[..., 0].sum(1) for maps in seen[grid]]).sum(0)
            shares = (together / together.amax(-1, keepdim=True)).unflatten(-1, grid)
            threshold = max(THRESHOLD, infedit.TEMPERATURE * (1 + step.sigma**2) ** 0.5)
            strong = enlarge(shares, size)[:, None] > threshold
            expected = torch.where(strong, denoised["target"], denoised["layout"])
            assert torch.equal(out["target"], expected)
            blended.append(bool(strong.any()) and not bool(strong.all()))
        return out

    monkeypatch.setattr(WordMaps, "add", record)
    monkeypatch.setattr(infedit.InfEditControl, "blend", check)
    edits = edits_of(source_prompt="wolf and moon", target_prompt="goat and moon")
    opened = open_edit(infedit.EDITOR, SETTINGS, model, clip, edits, reuses_source=False)
    made = opened.sample(source_latent(1, *size), 5, lambda *_: None)
    assert made.shape == (1, 4, *size) and bool(made.isfinite().all())
    assert len(blended) == 2 and any(blended)
