"""Background Blending (BB): outside the objects the target branch is the source branch.

ALE-Edit, section 3.3 and Eq. 4, written on the denoised predictions: with D_target = D_source on
the background the edit predicted there is the source latent itself, and so is the next noisy latent
(the published form blends the latter).
"""

from __future__ import annotations

import torch
from torch import Tensor


def blend(source: Tensor, target: Tensor, background: Tensor) -> Tensor:
    """source where background is 1, target where it is 0, and between them a mixture.

    source, target: (B, C, h, w), or with one more dimension; background: (h, w), or (B, 1, h, w)
    with each image's own, and as many dimensions; bool or in [0, 1].
    """
    if background.dtype == torch.bool:
        return torch.where(background, source, target)
    return torch.lerp(target, source, background.to(target))
