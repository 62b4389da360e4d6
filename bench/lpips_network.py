"""SqueezeNet and the linear heads of LPIPS, where their weights are on this machine.

The backbone comes from torchvision's file (squeezenet1_1-*.pth) or one of its `features` alone, the
heads from torchmetrics. Nothing is downloaded.
"""

from pathlib import Path

from ..scoring.lpips_network import LpipsNetwork
from .weight_files import read_tensors


def load_lpips(backbone: Path) -> LpipsNetwork:
    """From a state dict of torchvision's squeezenet1_1, or of its `features`; ValueError with the
    cure otherwise."""
    try:
        from torchmetrics.functional.image import lpips
        from torchvision import models as _  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"LPIPS needs torchvision and torchmetrics ({error}). Install them, or leave "
            "--lpips out."
        ) from error
    path = Path(lpips.__file__).parent / "lpips_models" / "squeeze.pth"
    heads = read_tensors(path)
    try:
        weights = read_tensors(backbone)
        return LpipsNetwork.build(weights, heads)
    except Exception as error:  # torch raises half a dozen kinds for a foreign file
        raise ValueError(
            f"--lpips {backbone} does not hold the weights of torchvision's squeezenet1_1 "
            f"({type(error).__name__}). Give squeezenet1_1-*.pth as torchvision publishes it."
        ) from error
