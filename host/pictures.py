"""What is connected to an IMAGE input, checked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

PICTURE = "Connect the IMAGE of Load Image or VAE Decode."


def read_pictures(image: Tensor, node: str, name: str = "image") -> Tensor:
    """(B, H, W, 3) in [0, 1] of an IMAGE, on the CPU, without its alpha channel.

    Raises ValueError for something that is not a picture.
    """
    require_picture(image, node, name)
    image = image.detach().cpu().float()
    image = image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image[..., :3]
    return image.clamp(0, 1).contiguous()


def require_picture(image: Any, node: str, name: str) -> None:
    """Raises ValueError for something that is not a picture."""
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape:
        raise ValueError(
            f"{node}: the {name} input has the shape {shape}, not (images, height, width, "
            f"channels) with 1, 3 or 4 channels. {PICTURE}"
        )
    if not image.is_floating_point():
        raise ValueError(
            f"{node}: the {name} input holds whole numbers ({image.dtype}), where a picture has "
            f"fractions from 0 to 1. {PICTURE}"
        )
    if not bool(image.isfinite().all()):
        raise ValueError(
            f"{node}: the {name} input holds numbers that are not finite. Use a VAE in fp32: one "
            "in fp16 makes such numbers of some pictures."
        )
