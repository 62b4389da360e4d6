"""The demo model's autoencoder: 128x128 image <-> 4x16x16 latent of SD 1.5's variance.

Blocks as in TAESD (O. B. Bohan, 2023), with a pixel shuffle of 4 for the full-resolution layers.
"""

import torch
from torch import Tensor, nn

SD15_SCALE = 0.18215  # ComfyUI multiplies SD 1.5 latents by this before the UNet sees them
_WIDTH = 64


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class DemoAutoencoder(nn.Module):
    """Offers what ComfyUI's VAE class calls: encode and decode, images in [-1, 1]."""

    def __init__(self):
        super().__init__()
        w = _WIDTH
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, w, 3, padding=1),
            nn.ReLU(),
            _Block(w),
            nn.Conv2d(w, w, 3, stride=2, padding=1),
            _Block(w),
            _Block(w),
            nn.Conv2d(w, 4, 3, padding=1),
        )
        self.norm = nn.BatchNorm2d(4, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(4, w, 3, padding=1),
            nn.ReLU(),
            _Block(w),
            _Block(w),
            _Block(w),
            nn.Conv2d(w, 4 * w, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            _Block(w),
            _Block(w),
            nn.Conv2d(w, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] -> latent (B, 4, H/8, W/8) of variance 1 / 0.18215^2."""
        return self.norm(self.encoder(image)) / SD15_SCALE

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, 4, h, w) -> image (B, 3, 8h, 8w) in about [-1, 1]."""
        return self.decoder(latent * SD15_SCALE)
