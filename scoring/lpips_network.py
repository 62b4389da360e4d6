"""SqueezeNet 1.1 and the linear heads of LPIPS (R. Zhang et al., 2018, arXiv 1801.03924)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SLICES = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 11), (11, 12), (12, 13))
_SHIFT = (-0.030, -0.088, -0.188)  # LPIPS's own colour scaling of images in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class LpipsNetwork:
    """`features` and `heads` as scoring/lpips.py takes them."""

    slices: nn.ModuleList
    heads: tuple[Tensor, ...]

    @classmethod
    def build(cls, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> LpipsNetwork:
        """Of a state dict of torchvision's squeezenet1_1, or of its `features` alone ("0.weight"
        and so on), and of the heads as LPIPS publishes them ("lin0.model.1.weight" and so on).

        Raises ValueError for other weights, ImportError without torchvision.
        """
        from torchvision.models import squeezenet1_1

        layers = squeezenet1_1(weights=None).features.eval().requires_grad_(False)
        used = {
            k.removeprefix("features."): v for k, v in backbone.items() if "classifier" not in k
        }
        try:
            layers.load_state_dict(used)
        except Exception as error:  # torch raises half a dozen kinds for foreign tensors
            raise ValueError("no weights of torchvision's squeezenet1_1") from error
        slices = nn.ModuleList(layers[first:last] for first, last in _SLICES)
        try:
            linear = [heads[f"lin{k}.model.1.weight"].flatten() for k in range(len(_SLICES))]
        except KeyError as error:
            raise ValueError(f"no linear heads of LPIPS: {error} is missing") from error
        return cls(slices, tuple(linear))

    def features(self, images: Tensor) -> list[Tensor]:
        """Seven feature maps (B, C, h, w) of images (B, 3, H, W) in [-1, 1]."""
        shift, scale = (torch.tensor(v).to(images)[:, None, None] for v in (_SHIFT, _SCALE))
        x, maps = (images - shift) / scale, []
        for part in self.slices:
            x = part(x)
            maps.append(x)
        return maps
