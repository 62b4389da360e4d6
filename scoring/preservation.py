"""How well the background is kept: MSE, PSNR and SSIM, in two ways.

Of the background: means over background pixels alone; nothing inside an object counts.
PIE-Bench's (X. Ju et al., 2024, arXiv 2310.01506): both images are black inside the objects, and
the mean goes over all pixels, so that large objects flatter MSE, PSNR and SSIM.

Images are (H, W, 3) in [0, 1], backgrounds (H, W), 1 on the background. Without any background
pixel every score is NaN. SSIM: Wang et al., 2004, Gaussian windows of 11 pixels, sigma 1.5.
"""

from dataclasses import dataclass
from math import log10, nan

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MSE = (0.25 / 255) ** 2
"""Equal images count as off by a quarter of one 8-bit level, so that PSNR stays finite: 60.2 dB."""
_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


@dataclass(frozen=True)
class Preservation:
    """mse: lower is better. psnr in dB and ssim: higher is better."""

    mse: float
    psnr: float
    ssim: float


def background_scores(source: Tensor, edited: Tensor, background: Tensor) -> Preservation:
    """Over background pixels alone."""
    inside = _check(source, edited, background)
    mse = background_mse(source, edited, background)
    return Preservation(mse, psnr_of(mse), ssim(source, edited, inside))


def pie_bench_scores(source: Tensor, edited: Tensor, background: Tensor) -> Preservation:
    """PIE-Bench's psnr_, mse_ and ssim_unedit_part; its SSIM with torchmetrics 1.4.2 or newer."""
    inside = _check(source, edited, background)
    if not inside.any():
        return Preservation(nan, nan, nan)
    source, edited = (blacken(image, background) for image in (source, edited))
    everywhere = torch.ones_like(inside)
    mse = background_mse(source, edited, everywhere)
    return Preservation(mse, psnr_of(mse), ssim(source, edited, everywhere))


def blacken(image: Tensor, background: Tensor) -> Tensor:
    """The image, black wherever there is no background."""
    return image * (background > 0.5).to(image.dtype)[..., None]


def background_mse(source: Tensor, edited: Tensor, background: Tensor) -> float:
    """Mean squared error over background pixels; NaN if there are none."""
    inside = _check(source, edited, background)
    return float((source - edited).double().square()[inside].mean())


def psnr_of(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], at most 60.2."""
    return -10 * log10(max(mse, LEAST_MSE)) if mse == mse else nan


def ssim(source: Tensor, edited: Tensor, background: Tensor) -> float:
    """Mean structural similarity at background pixels; images are mirrored at their borders.

    A window takes in its background pixels only, with weights that again sum to 1; where all of it
    is background this is the ordinary SSIM. NaN for images of less than 6 pixels.
    """
    inside = _check(source, edited, background)
    if min(inside.shape) <= _WINDOW // 2:
        return nan
    weight = inside.double()[None]
    a, b = (image.double().permute(2, 0, 1) * weight for image in (source, edited))
    share = _blur(weight).clamp(min=1e-12)

    def local(image: Tensor) -> Tensor:
        return _blur(image) / share

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    similar = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    )
    return float(similar[:, inside].mean())


def _blur(image: Tensor) -> Tensor:
    """Gaussian windows around every pixel of (C, H, W), mirrored at the borders."""
    edge = _WINDOW // 2
    x = torch.arange(_WINDOW, dtype=image.dtype) - edge
    kernel = torch.exp(-(x**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (edge, edge, edge, edge), mode="reflect")
    rows = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(rows, kernel[None, None, None, :])[:, 0]


def _check(source: Tensor, edited: Tensor, background: Tensor) -> Tensor:
    """The background as (H, W) booleans, if all three have one size."""
    if source.shape != edited.shape or source.shape[:2] != background.shape:
        sizes = (tuple(t.shape) for t in (source, edited, background))
        raise ValueError(
            "Source image, edited image and background differ in size: "
            f"{', '.join(map(str, sizes))}. Give all three at one size."
        )
    return background > 0.5
