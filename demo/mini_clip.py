"""A CLIP of the demo world: an image encoder beside the model's own text encoder.

Like CLIP (A. Radford et al., 2021) it has one vector for an image and one for a text, and their
cosine says how well they fit. It exists for TE and TI, which are cosines of CLIP by definition.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .render import IMAGE_SIZE
from .text_encoder import CONTEXT_DIM
from .weights import FOLDER, read_weights

if TYPE_CHECKING:
    from comfy.sd import CLIP

WIDTH = 128  # of the shared space


class MiniClipNet(nn.Module):
    """Image encoder, projection of the text encoder's pooled state, and their temperature."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *_layer(3, 32), *_layer(32, 64), *_layer(64, 96), *_layer(96, 128)
        )
        self.image_projection = nn.Linear(128 * 16, WIDTH)
        self.text_projection = nn.Linear(CONTEXT_DIM, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def image_vectors(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 128) of images (B, 3, H, W) in [0, 1]."""
        if images.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images = F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="area")
        features = F.adaptive_avg_pool2d(self.features(images * 2 - 1), 4).flatten(1)
        return F.normalize(self.image_projection(features), dim=-1)

    def text_vectors(self, pooled: Tensor) -> Tensor:
        """Unit vectors (B, 128) of the text encoder's states (B, 128) at the first end-of-text."""
        return F.normalize(self.text_projection(pooled), dim=-1)


class MiniClip:
    """Scores images against texts; made by `MiniClip.load(clip)`."""

    def __init__(self, net: MiniClipNet, clip: "CLIP"):
        self._net = net.eval().requires_grad_(False)
        self._clip = clip

    @classmethod
    def load(cls, clip: "CLIP", folder: Path = FOLDER) -> "MiniClip":
        """`clip` is the demo model's text encoder (`load_demo_model`)."""
        net = MiniClipNet()
        net.load_state_dict(read_weights("clip", folder))
        return cls(net, clip)

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosines (B, T) in [-1, 1] of images (B, H, W, 3) in [0, 1] and texts."""
        pooled = torch.cat([self._pool(text) for text in texts])
        vectors = self._net.image_vectors(images.permute(0, 3, 1, 2).float().cpu())
        return vectors @ self._net.text_vectors(pooled).T

    def _pool(self, text: str) -> Tensor:
        """State (1, 128) at the text's first end-of-text token, as CLIP's pooled output."""
        clip = cast("Any", self._clip)
        _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return pooled.float().cpu()


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, stride in ((inputs, 2), (outputs, 1)):
        convolution = nn.Conv2d(a, outputs, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.SiLU()]
    return layers
