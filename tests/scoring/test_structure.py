"""Structure distance against transformers' ViT and PIE-Bench's formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize, Resize

from ale_edit.scoring import structure
from ale_edit.scoring.structure import load_dino, original_names, prepare, structure_distance
from ale_edit.tests.tiny_scores import last_keys, published_vit, transformers_vit


@pytest.fixture(scope="module")
def vit() -> Any:
    return transformers_vit()


@pytest.fixture(scope="module")
def weights(vit: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return published_vit(vit, tmp_path_factory.mktemp("vit"))


def pair(height: int = 300, width: int = 300) -> tuple[Tensor, Tensor]:
    """An 8-bit picture, and the same with other colours in one corner."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=draw)
    a = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    a = (0.5 * a + 0.5 * torch.rand(a.shape, generator=draw)).clamp(0, 1)
    a = (a[0].movedim(0, -1) * 255).round() / 255
    b = a.clone()
    b[: height // 2, : width // 2] = a[: height // 2, : width // 2].flip(0)
    return a, b


def by_the_specification(vit: Any, a: Tensor, b: Tensor, published: bool) -> float:
    """torchvision's Resize and Normalize, keys by a hook, torch's cosine similarity, mean square.
    PIE-Bench ran torchvision 0.13.1, which resized tensors without antialiasing."""
    chain: list[nn.Module] = [Resize(224, max_size=480, antialias=not published)]
    chain.append(Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    maps = []
    for image in (a, b):
        pixels = image.movedim(-1, 0)[None] * (255 if published else 1)
        for step in chain:
            pixels = step(pixels)
        keys = last_keys(vit, pixels)
        maps.append(nn.functional.cosine_similarity(keys[None], keys[:, None], dim=-1))
    return float(nn.functional.mse_loss(*maps))


@pytest.mark.parametrize("published", [False, True])
def test_it_is_the_specifications_formula_on_transformers_vit(
    vit: Any, weights: dict[str, Tensor], published: bool
) -> None:
    a, b = pair(512, 512)
    net = load_dino(weights)
    found = structure_distance(net, a, b, "as published" if published else "corrected")
    expected = by_the_specification(vit, a, b, published)
    assert expected > 1e-4
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-3)


def test_the_two_inputs_give_different_figures(weights: dict[str, Tensor]) -> None:
    net, images = load_dino(weights), pair()
    corrected, published = (
        structure_distance(net, *images, scale) for scale in ("corrected", "as published")
    )
    assert abs(corrected - published) > 1e-3


def test_keys_are_transformers_own_at_the_trained_size(
    vit: Any, weights: dict[str, Tensor]
) -> None:
    pixels = prepare(pair(224, 224)[0], "corrected")
    keys = load_dino(weights)(pixels)[0]
    assert keys.shape == (785, 128)
    torch.testing.assert_close(keys, last_keys(vit, pixels), atol=1e-4, rtol=1e-4)


def test_positions_of_another_grid_follow_dinos_scale_factors(weights: dict[str, Tensor]) -> None:
    """As in DINO's own vision_transformer.py: 0.1 of a cell more a side."""
    net = load_dino(weights)
    grid = weights["embeddings.position_embeddings"][:, 1:].reshape(1, 28, 28, 128)
    factors = (28 + 0.1) / 28, (45 + 0.1) / 28
    expected = nn.functional.interpolate(
        grid.permute(0, 3, 1, 2), scale_factor=factors, mode="bicubic"
    )
    found = net.positions(28, 45)
    assert found.shape == (1, 1 + 28 * 45, 128)
    torch.testing.assert_close(found[0, 1:], expected.permute(0, 2, 3, 1).reshape(-1, 128))


def test_a_wide_picture_has_keys_close_to_transformers(
    vit: Any, weights: dict[str, Tensor]
) -> None:
    """Which places the positions by the sizes alone, without DINO's 0.1 of a cell."""
    pixels = prepare(pair(300, 500)[0], "corrected")
    assert pixels.shape == (1, 3, 224, 373)
    ours, theirs = load_dino(weights)(pixels)[0], last_keys(vit, pixels)
    assert nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.99


def test_both_forms_of_the_weights_make_the_same_network(weights: dict[str, Tensor]) -> None:
    own = original_names(weights)
    assert "blocks.2.attn.qkv.weight" in own and "pos_embed" in own
    first, second = load_dino(weights), load_dino({**own, "norm.weight": torch.ones(128)})
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


@pytest.mark.parametrize("size", [(300, 300), (100, 200), (200, 100), (512, 512), (224, 900)])
def test_sizes_are_those_of_torchvisions_resize(size: tuple[int, int]) -> None:
    expected = Resize(224, max_size=480)(torch.zeros(3, *size)).shape[1:]
    assert structure.fit_size(*size) == tuple(expected)


def test_of_equal_pictures_it_is_zero(weights: dict[str, Tensor]) -> None:
    a, _ = pair()
    assert structure_distance(load_dino(weights), a, a) == 0


def test_foreign_weights_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no ViT of DINO"):
        load_dino({"a": torch.zeros(2)})
    own = original_names(weights)
    del own["blocks.1.mlp.fc2.bias"]
    with pytest.raises(ValueError, match=r"it lacks blocks\.1\.mlp\.fc2\.bias"):
        load_dino(own)
    own["blocks.1.mlp.fc2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"shape of blocks\.1\.mlp\.fc2\.bias"):
        load_dino(own)
