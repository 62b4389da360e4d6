"""SqueezeNet and the linear heads of LPIPS, where their weights are on this machine.

The backbone comes from torchvision's file (squeezenet1_1-*.pth), the heads from torchmetrics.
Nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path

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
    def load(cls, backbone: Path) -> "LpipsNetwork":
        """Read a state dict of torchvision's squeezenet1_1; ValueError with the cure otherwise."""
        try:
            from torchmetrics.functional.image import lpips
            from torchvision.models import squeezenet1_1
        except ImportError as error:
            raise ValueError(
                f"LPIPS needs torchvision and torchmetrics ({error}). Install them, or leave "
                "--lpips out."
            ) from error
        network = squeezenet1_1(weights=None)
        try:
            network.load_state_dict(torch.load(backbone, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises half a dozen kinds for a foreign file
            raise ValueError(
                f"--lpips {backbone} does not hold the weights of torchvision's squeezenet1_1 "
                f"({type(error).__name__}). Give squeezenet1_1-*.pth as torchvision publishes it."
            ) from error
        layers = network.features.eval().requires_grad_(False)
        slices = nn.ModuleList(layers[first:last] for first, last in _SLICES)
        path = Path(lpips.__file__).parent / "lpips_models" / "squeeze.pth"
        weights = torch.load(path, map_location="cpu", weights_only=True)
        heads = [weights[f"lin{k}.model.1.weight"].flatten() for k in range(len(_SLICES))]
        return cls(slices, tuple(heads))

    def features(self, images: Tensor) -> list[Tensor]:
        """Seven feature maps (B, C, h, w) of images (B, 3, H, W) in [-1, 1]."""
        shift, scale = (torch.tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        x, maps = (images - shift) / scale, []
        for part in self.slices:
            x = part(x)
            maps.append(x)
        return maps
