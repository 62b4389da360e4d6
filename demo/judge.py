"""The judge: a small CNN that reads shape, colour and material inside a region of an image.

It is trained on rendered ground truth alone. The region only says where to look; its outline is
not an input, because an edited object need not have the shape of its source's mask.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scenes import COLORS, MATERIALS, SHAPES
from .weights import FOLDER, read_weights

CROP = 48
_MARGIN = 1.15  # side of the crop over the longer side of the region's bounding box


@dataclass(frozen=True)
class Reading:
    """What the judge sees in a region; probabilities[attribute][word] sum to 1 per attribute."""

    shape: str
    color: str
    material: str
    probabilities: dict[str, dict[str, float]]

    def agrees(self, asked: dict[str, str]) -> bool:
        """Whether every attribute that was asked for is the one read."""
        return all(getattr(self, attribute) == word for attribute, word in asked.items())


class JudgeNet(nn.Module):
    """Crops (B, 3, 48, 48) in [0, 1] -> logits of shape (B, 8), color (B, 8), material (B, 5)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *_layer(3, 32, 2), *_layer(32, 64, 2), *_layer(64, 96, 2), *_layer(96, 96, 1)
        )
        self.heads = nn.Linear(96 * 9, len(SHAPES) + len(COLORS) + len(MATERIALS))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = F.adaptive_avg_pool2d(self.features(crops * 2 - 1), 3).flatten(1)
        return self.heads(features).split((len(SHAPES), len(COLORS), len(MATERIALS)), -1)


class Judge:
    """Reads regions of images; made by `Judge.load()`."""

    def __init__(self, net: JudgeNet):
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Judge":
        net = JudgeNet()
        net.load_state_dict(read_weights("judge", folder))
        return cls(net)

    def read(self, image: Tensor, mask: Tensor) -> Reading:
        """What the object under mask (H, W) of image (H, W, 3) in [0, 1] is."""
        crop = crop_regions(
            image.permute(2, 0, 1)[None].float().cpu(), region_boxes(mask[None].cpu())
        )
        with torch.no_grad():
            logits = self._net(crop)
        found, probabilities = {}, {}
        for attribute, words, row in zip(
            ("shape", "color", "material"), (SHAPES, COLORS, MATERIALS), logits, strict=True
        ):
            shares = row[0].softmax(-1).tolist()
            found[attribute] = words[int(row[0].argmax())]
            probabilities[attribute] = dict(zip(words, shares, strict=True))
        return Reading(**found, probabilities=probabilities)


def region_boxes(masks: Tensor) -> Tensor:
    """Square boxes (B, 3) of centre x, centre y and half side in pixels around masks (B, H, W)."""
    boxes = []
    for mask in masks > 0.5:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if not len(rows):
            raise ValueError(
                "The judge was given an empty mask. Give the mask of the object to be read."
            )
        y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        boxes.append(
            torch.stack(
                [(x0 + x1) / 2, (y0 + y1) / 2, torch.maximum(x1 - x0, y1 - y0) / 2 * _MARGIN]
            )
        )
    return torch.stack(boxes)


def crop_regions(images: Tensor, boxes: Tensor) -> Tensor:
    """Crops (B, 3, 48, 48) of images (B, 3, H, W) at boxes (B, 3); borders are repeated outside."""
    size = torch.tensor([images.shape[3], images.shape[2]])
    steps = (torch.arange(CROP) + 0.5) / CROP * 2 - 1
    x = boxes[:, None, None, 0] + boxes[:, None, None, 2] * steps[None, None, :]
    y = boxes[:, None, None, 1] + boxes[:, None, None, 2] * steps[None, :, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), -1) / size * 2 - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.SiLU()]
