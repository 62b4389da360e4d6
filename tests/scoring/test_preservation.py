"""Background scores against torchmetrics and against the formulae, pixel by pixel."""

from math import isnan, log10

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from ale_edit.scoring.preservation import (
    background_scores,
    blacken,
    pie_bench_scores,
    psnr_of,
    ssim,
)

Pair = tuple[Tensor, Tensor]


@pytest.fixture
def pair() -> Pair:
    draw = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 6, generator=draw), (40, 32), mode="bicubic"
    )[0].permute(1, 2, 0)
    source = smooth.clamp(0, 1)
    return source, (source + 0.1 * torch.randn(source.shape, generator=draw)).clamp(0, 1)


@pytest.fixture
def background() -> Tensor:
    mask = torch.ones(40, 32)
    mask[10:25, 8:20] = 0
    return mask


def chw(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None]


def by_torchmetrics(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """MSE, PSNR and SSIM of 1.4.2 or newer, whose SSIM is the mean over all pixels; up to 1.4.1 the
    outermost 5 were left out."""
    a, b = chw(a), chw(b)
    return (
        float(torch.nn.functional.mse_loss(a, b)),
        float(peak_signal_noise_ratio(b, a, data_range=1.0)),
        float(structural_similarity_index_measure(b, a, data_range=1.0)),  # type: ignore[arg-type]
    )


def test_with_background_everywhere_both_ways_are_torchmetrics_own(pair: Pair):
    expected = by_torchmetrics(*pair)
    for way in (background_scores, pie_bench_scores):
        found = way(*pair, torch.ones(40, 32))
        assert (found.mse, found.psnr, found.ssim) == pytest.approx(expected, abs=1e-4)


def test_pie_benchs_way_is_torchmetrics_of_images_multiplied_by_the_mask(pair: Pair, background):
    expected = by_torchmetrics(*(image * background[..., None] for image in pair))
    found = pie_bench_scores(*pair, background)
    assert (found.mse, found.psnr, found.ssim) == pytest.approx(expected, abs=1e-4)


def ssim_by_loops(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    """Wang et al.'s formula in every window, its weights on background pixels alone."""
    d = np.arange(11) - 5
    gauss = np.exp(-(d[:, None] ** 2 + d[None, :] ** 2) / (2 * 1.5**2))
    found, here = [], np.argwhere(inside)
    inside = np.pad(inside, 5, mode="reflect")
    a, b = (np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="reflect") for image in (a, b))
    for y, x in here:
        rows, columns = slice(y, y + 11), slice(x, x + 11)
        w = gauss * inside[rows, columns]
        w = w / w.sum()
        for c in range(3):
            p, q = a[rows, columns, c], b[rows, columns, c]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            found.append(
                (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )  # fmt: skip
    return float(np.mean(found))


def test_of_the_background_alone_agrees_with_loops_over_its_pixels(pair: Pair, background):
    a, b = (image.double().numpy() for image in pair)
    inside = background.numpy() > 0
    mse = float(np.mean([(a[y, x] - b[y, x]) ** 2 for y, x in np.argwhere(inside)]))
    found = background_scores(*pair, background)
    assert found.mse == pytest.approx(mse, abs=1e-7)
    assert found.psnr == pytest.approx(-10 * log10(mse), abs=1e-4)
    assert found.ssim == pytest.approx(ssim_by_loops(a, b, inside), abs=1e-4)


def test_nothing_inside_an_object_counts(pair: Pair, background):
    source, edited = pair
    before = (background_scores(*pair, background), pie_bench_scores(*pair, background))
    other = torch.where(background[..., None] > 0, edited, 1 - edited)
    assert background_scores(source, other, background) == before[0]
    assert pie_bench_scores(source, other, background) == before[1]
    assert not torch.equal(other, edited)


def test_large_objects_flatter_pie_benchs_way_only(pair: Pair, background):
    alone, flattered = background_scores(*pair, background), pie_bench_scores(*pair, background)
    share = float(background.mean())
    assert flattered.mse == pytest.approx(alone.mse * share, rel=1e-5)


def test_an_untouched_background_has_the_highest_finite_psnr(pair: Pair, background):
    source, edited = pair
    kept = torch.where(background[..., None] > 0, source, edited)
    for way in (background_scores, pie_bench_scores):
        found = way(source, kept, background)
        assert found.mse == 0 and found.psnr == pytest.approx(60.17, abs=0.01)
        assert found.ssim == pytest.approx(1.0)


def test_without_background_every_score_is_nan(pair: Pair):
    for way in (background_scores, pie_bench_scores):
        found = way(*pair, torch.zeros(40, 32))
        assert isnan(found.mse) and isnan(found.psnr) and isnan(found.ssim)
    assert isnan(psnr_of(float("nan")))


def test_an_image_smaller_than_a_window_has_no_ssim():
    assert isnan(ssim(torch.zeros(5, 8, 3), torch.zeros(5, 8, 3), torch.ones(5, 8)))


def test_sizes_that_differ_are_named(pair: Pair):
    with pytest.raises(ValueError, match=r"\(40, 32, 3\), \(40, 32, 3\), \(40, 31\)"):
        background_scores(*pair, torch.ones(40, 31))


def test_blackened_is_black_where_there_is_no_background(pair: Pair, background):
    black = blacken(pair[0], background)
    assert not black[background == 0].any()
    assert torch.equal(black[background == 1], pair[0][background == 1])
