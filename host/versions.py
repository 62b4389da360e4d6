"""What differs between the versions of ComfyUI that the pack runs on: from 0.3.75, the oldest, to
0.33.0, the newest that was tried. Each difference stands here alone, with its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_sampling

MAHIRO = "Mahiro (Positive-Biased Guidance in ComfyUI 0.33)"
MAHIRO_MODULE = "nodes_mahiro"
"""End of the name of a core module; ComfyUI loads it by its path."""

CFG_OVERRIDE_MODULE = "nodes_custom_sampler"
"""The core module of CFG Override, which 0.33 has and 0.3.75 has not; none of its other nodes wraps
a model's prediction."""

SCALING_NODE = "ImageScaleToTotalPixels (Scale Image to Total Pixels in ComfyUI 0.33)"

LEFT_TO_THE_RUN = True
"""What a loader's validate_inputs says of the file in its list: 0.33 refuses a value that is not in
a list with "Value not in list" alone, unless the node validates it; 0.3.75 lets it run. So left,
both say in the run where the file belongs and where it is published."""

RATIOS_ON_THE_FLOOR = {
    "Flux2": 16,
    "Wan22": 16,
    "LTXV": 32,
    "HunyuanImage21": 32,
    "ChromaRadiance": 1,
}
"""Pixels per latent cell by the class of the latent format, other than 8. Formats say it themselves
from 0.33 on."""

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat


def pixels_per_cell_of(latent_format: LatentFormat) -> int:
    """Pixels of the image along one side of a latent cell."""
    ratio = getattr(latent_format, "spacial_downscale_ratio", None)
    return int(ratio or RATIOS_ON_THE_FLOOR.get(type(latent_format).__name__, 8))


def samples_by_flow(sampling: object) -> bool:
    """Whether a model_sampling mixes image and noise (flow matching) instead of adding noise: not
    where 0.33's IMG_TO_IMG_FLOW starts from another image."""
    other = getattr(comfy.model_sampling, "IMG_TO_IMG_FLOW", ())
    return isinstance(sampling, comfy.model_sampling.CONST) and not isinstance(sampling, other)


def noise_scale_of(sampling: object) -> float:
    """What a flow model multiplies its noise by: 0.33 has it for some models."""
    return float(getattr(sampling, "noise_scale", 1.0))
