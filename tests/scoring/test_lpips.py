"""LPIPS of the background against torchmetrics' network, both with the same random backbone; and
with the published weights where they are."""

from math import isnan
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import squeezenet1_1

from ale_edit.bench.lpips_network import load_lpips
from ale_edit.scoring.lpips import background_lpips, lpips_map, pie_bench_lpips
from ale_edit.scoring.lpips_network import LpipsNetwork

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "lpips_squeeze"

Pair = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1-test.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(backbone: Path) -> LpipsNetwork:
    return load_lpips(backbone)


def oracle(backbone: Path, spatial: bool) -> _LPIPS:
    net = _LPIPS(pretrained=True, net="squeeze", spatial=spatial, pnet_rand=True)
    weights = torch.load(backbone, weights_only=True)
    for part in cast("Any", net.net.slices):
        own = {k: weights[f"features.{k}"] for k in part.state_dict()}
        part.load_state_dict(own)
    return net.eval()


@pytest.fixture
def pair() -> Pair:
    draw = torch.Generator().manual_seed(1)
    source = torch.rand(64, 48, 3, generator=draw)
    return source, (source + 0.3 * torch.randn(64, 48, 3, generator=draw)).clamp(0, 1)


@pytest.fixture
def background() -> Tensor:
    mask = torch.ones(64, 48)
    mask[16:40, 10:30] = 0
    return mask


def chw(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None] * 2 - 1


def test_the_map_is_torchmetrics_spatial_lpips(backbone, network, pair: Pair):
    expected = oracle(backbone, True)(*map(chw, pair))[0, 0]
    found = lpips_map(network.features, network.heads, *pair)
    assert expected.mean() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_file_of_the_features_alone_is_the_same_network(backbone, network, pair: Pair, tmp_path):
    weights = torch.load(backbone, weights_only=True)
    alone = {k.removeprefix("features."): v for k, v in weights.items() if "features." in k}
    torch.save(alone, tmp_path / "squeeze.backbone.pth")
    other = load_lpips(tmp_path / "squeeze.backbone.pth")
    expected = lpips_map(network.features, network.heads, *pair)
    assert torch.equal(lpips_map(other.features, other.heads, *pair), expected)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs shared/data/lpips_squeeze")
def test_with_the_published_weights_it_gives_the_figures_of_torchmetrics_documentation():
    """Those of learned_perceptual_image_patch_similarity, which has four digits."""
    published = load_lpips(PUBLISHED / "squeeze.backbone.pth")
    draw = torch.Generator().manual_seed(42)
    a, b = (torch.rand(2, 3, 100, 100, generator=draw).movedim(1, -1) for _ in range(2))
    parts, everywhere = (published.features, published.heads), torch.ones(100, 100)
    found = [pie_bench_lpips(*parts, *pair, everywhere) for pair in zip(a, b, strict=True)]
    assert found == pytest.approx([0.1024, 0.0938], abs=5e-5)


def test_pie_benchs_way_is_torchmetrics_of_images_multiplied_by_the_mask(
    backbone, network, pair: Pair, background
):
    black = [chw(image * background[..., None]) for image in pair]
    expected = float(oracle(backbone, False)(*black))
    found = pie_bench_lpips(network.features, network.heads, *pair, background)
    assert found == pytest.approx(expected, abs=1e-4) and expected > 0.01


def test_nothing_inside_an_object_counts(network, pair: Pair, background):
    source, edited = pair
    parts = (network.features, network.heads)
    other = torch.where(background[..., None] > 0, edited, torch.zeros(3))
    before = background_lpips(*parts, source, edited, background)
    assert background_lpips(*parts, source, other, background) == before > 0
    kept = torch.where(background[..., None] > 0, source, edited)
    assert background_lpips(*parts, source, kept, background) == 0


def test_without_background_it_is_nan(network, pair: Pair):
    parts, nothing = (network.features, network.heads), torch.zeros(64, 48)
    assert isnan(background_lpips(*parts, *pair, nothing))
    assert isnan(pie_bench_lpips(*parts, *pair, nothing))


def test_a_foreign_file_is_refused_with_the_cure(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="does not hold the weights .* Give squeezenet1_1"):
        load_lpips(path)
