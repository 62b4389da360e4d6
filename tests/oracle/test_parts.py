"""The pack's embeddings and masks equal the oracle's: where to look when a whole edit differs."""

import numpy as np
import pytest
import torch

from ale_edit.regions.grid import coverage, latent_background
from ale_edit.regions.regions import make_regions
from ale_edit.tests.oracle import masks_by_hand
from ale_edit.tests.oracle.ore_by_hand import restrict
from ale_edit.tests.oracle.whole_edit import SCENES, twins
from ale_edit.tests.tiny import edits_of

VARIANTS = ("paper", "published code")
PAIRS = (
    ("wolf", "brown-colored goat"),
    ("salt and pepper mill", "small bottle made of glass"),
    ("dog", "hot dog"),
    ("yellow moon", "soccer ball"),
)


@pytest.mark.comfy
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["source", "target"])
def test_embeddings_equal_algorithm_1_by_hand(side, variant):
    from ale_edit.host.text.conditioning import ORE_KEY
    from ale_edit.host.text.embedding import embed_side

    ((_, options),) = embed_side(twins().clip, edits_of(PAIRS, variant=variant), side)
    ours = options[ORE_KEY]
    phrases = [pair[0 if side == "source" else 1] for pair in PAIRS]
    theirs = restrict(twins().encoder, phrases, variant)
    torch.testing.assert_close(ours.keys, theirs.plain, atol=1e-5, rtol=0)
    values = torch.stack([*theirs.objects, theirs.base])
    torch.testing.assert_close(ours.values, values, atol=1e-5, rtol=0)
    owners = {row: i for i, rows in enumerate(theirs.rows) for row in rows}
    assert ours.owner.tolist() == [owners.get(row, -1) for row in range(77)]


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.04, 0.1])
def test_masks_equal_those_by_hand(name, fraction):
    scene = SCENES[name]
    raw = np.stack([mask.numpy() > 0.5 for mask in scene.masks])
    dilated = masks_by_hand.dilate(raw, fraction)
    names = [source for source, _ in scene.pairs]
    ours = make_regions(scene.masks, names, fraction).dilated
    assert np.array_equal(ours.numpy() > 0.5, dilated)
    height, width = scene.size
    for variant in VARIANTS:
        for divisor in (1, 2, 4):
            grid = (-(-height // divisor), -(-width // divisor))
            cells = coverage(ours, *grid, variant)
            assert np.array_equal(cells, masks_by_hand.on_grid(dilated, *grid, variant))
        background = latent_background(ours, height, width, variant)
        theirs = masks_by_hand.latent_background(dilated, height, width, variant)
        assert np.array_equal(background, theirs)
