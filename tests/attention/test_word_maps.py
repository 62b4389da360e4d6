import pytest
import torch

from ale_edit.attention.control import Layer
from ale_edit.attention.word_maps import WordMaps, refine
from ale_edit.tests.editors.layers import sd15
from ale_edit.tests.tiny import randn


def maps_of(layers: list[Layer], steps: int = 2) -> tuple[WordMaps, list[Layer]]:
    """Maps after steps in which each layer adds a map of its own, and the layers that count in the
    last of them."""
    maps, counted = WordMaps(), []
    for _ in range(steps):
        counted = []
        for layer in layers:
            if maps.takes(layer):
                maps.add(layer, {"source": randn(1, 2, layer.grid[0] * layer.grid[1], 1)})
                counted.append(layer)
    return maps, counted


def test_sd15_at_512_pixels_gives_the_five_layers_of_16_cells():
    """methods.md 0: down_cross[2:4] + up_cross[:3]."""
    _, counted = maps_of(sd15(64, 64))
    assert [layer.block[:2] for layer in counted] == [
        *(("input", 7), ("input", 8)),
        *(("output", 3), ("output", 4), ("output", 5)),
    ]
    assert {layer.grid for layer in counted} == {(16, 16)}


@pytest.mark.parametrize(
    ("latent", "grid", "layers"),
    [
        ((96, 96), (24, 24), 5),  # 768 pixels
        ((64, 96), (16, 24), 5),
        ((128, 128), (32, 32), 5),  # 16 x 16 is the middle layer alone
        ((60, 60), (30, 30), 5),
        ((24, 40), (24, 40), 5),
        ((15, 40), (15, 40), 5),  # none has 16 cells: the finest
        ((8, 8), (8, 8), 5),
    ],
)
def test_the_coarsest_grid_with_16_cells_on_its_short_side_counts(latent, grid, layers):
    _, counted = maps_of(sd15(*latent))
    assert {layer.grid for layer in counted} == {grid}
    assert len(counted) == layers


def test_maps_of_layers_that_turn_out_too_fine_or_too_coarse_leave_no_trace():
    layers = [layer for layer in sd15(32, 32) if layer.block[0] != "middle"]
    maps = WordMaps()
    expected = torch.zeros(1, 16, 16)
    for step in range(3):
        for layer in layers:
            if not maps.takes(layer):
                continue
            seed = layer.ordinal + 99 * step
            drawn = (2 * randn(1, 2, layer.grid[0] * layer.grid[1], 1, seed=seed)).exp()
            maps.add(layer, {"source": drawn})
            if layer.grid == (16, 16):
                expected += drawn.sum(1)[..., 0].reshape(1, 16, 16)
    for threshold in (0.05, 0.2, 0.6):
        found = maps.mask("source", [0], (16, 16), threshold)[0, 0]
        assert torch.equal(found, expected[0] > threshold * expected.max())
        assert 0 < found.sum() < 256


def test_of_several_words_the_greatest_counts_and_each_image_has_its_own_scale():
    maps = WordMaps()
    layer = sd15(8, 8)[0]
    words = torch.rand(2, 3, 64, 4, generator=torch.Generator().manual_seed(0))
    words[1] *= 100
    maps.add(layer, {"source": words[..., :1], "layout": words})
    found = maps.mask("layout", [1, 3], (16, 24), 0.8)
    assert found.shape == (2, 1, 16, 24)
    for j in range(2):
        mean = words[j].mean(0).reshape(8, 8, 4)
        share = mean[..., [1, 3]].amax(-1)
        share = share / share.max()
        for y in range(16):
            for x in range(24):
                assert bool(found[j, 0, y, x]) == bool(share[y // 2, x // 3] > 0.8)
    assert not maps.mask("layout", [], (16, 24), 0.0).any()


def test_a_map_is_seen_by_other_words_row_by_row():
    source, own = randn(2, 3, 5, 4), randn(2, 3, 5, 6, seed=1)
    mapper = torch.tensor([0, -1, 3, 3, 1, -1])
    found = refine(source, own, mapper)
    for j, row in enumerate(mapper.tolist()):
        assert torch.equal(found[..., j], own[..., j] if row < 0 else source[..., row])
