"""The demo world's detector and segmenter: a small U-Net that says of every pixel whether an object
is there, of which colour and material, and a second network that tells shapes by their outline.

Both are trained on rendered ground truth alone. A phrase is matched by the attributes that it
names; objects never touch, so an object is a connected patch.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..regions.detection import Detections, iou
from .finding import label_patches
from .judge import crop_regions, region_boxes
from .scenes import COLORS, MATERIALS, SHAPES
from .weights import FOLDER, read_weights

ATTRIBUTES = (SHAPES, COLORS, MATERIALS)
_WORDS = {word: word for words in ATTRIBUTES for word in words} | {
    f"{shape}es" if shape.endswith(("s", "x")) else f"{shape}s": shape for shape in SHAPES
}
"""The word of every spelling that describes objects: shapes may stand in the plural."""
_WIDTHS = (16, 32, 48, 64)
_MULTIPLE = 2 ** (len(_WIDTHS) - 1)
_SMALLEST = 0.003  # of the image's area


class FinderNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1], H and W multiples of 8 -> logits (B, H, W) of an object, and
    (B, 8, H, W), (B, 5, H, W) of its color and material."""

    def __init__(self):
        super().__init__()
        inputs = (3, *_WIDTHS[:-1])
        self.down = nn.ModuleList(
            _block(a, b, stride=1 if i == 0 else 2)
            for i, (a, b) in enumerate(zip(inputs, _WIDTHS, strict=True))
        )
        self.middle = _block(_WIDTHS[-1], _WIDTHS[-1])
        self.up = nn.ModuleList(
            _block(a + b, b) for a, b in zip(_WIDTHS[:0:-1], _WIDTHS[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(_WIDTHS[0], 1 + len(COLORS) + len(MATERIALS), 1)
        self.outline = nn.Sequential(
            _block(1, 16, stride=2), _block(16, 32, stride=2), _block(32, 48, stride=2)
        )
        self.shape = nn.Linear(48 * 9, len(SHAPES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, skipped = images * 2 - 1, []
        for block in self.down:
            x = block(x)
            skipped.append(x)
        x = self.middle(skipped.pop())
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skipped.pop()], dim=1))
        is_object, color, material = self.head(x).split((1, len(COLORS), len(MATERIALS)), dim=1)
        return is_object[:, 0], color, material

    def shapes(self, masks: Tensor) -> Tensor:
        """Logits (N, 8) of the shapes of objects with masks (N, H, W), none of them empty."""
        crops = crop_regions(masks[:, None].float(), region_boxes(masks))
        features = F.adaptive_avg_pool2d(self.outline(crops * 2 - 1), 3)
        return self.shape(features.flatten(1))


@dataclass(frozen=True, eq=False)
class FoundObject:
    """A patch of an image: mask (H, W) bool, box (4,) left, top, right, bottom in pixels, and the
    probability of every word that describes objects."""

    mask: Tensor
    box: Tensor
    words: dict[str, float]


class SceneFinder:
    """Detector and Segmenter (regions/detection.py) of the demo world."""

    name = "demo"

    def __init__(self, net: FinderNet):
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "SceneFinder":
        net = FinderNet()
        net.load_state_dict(read_weights("finder", folder))
        return cls(net)

    def find(self, image: Tensor) -> list[FoundObject]:
        """The objects of an image (H, W, 3) in [0, 1]."""
        height, width = image.shape[:2]
        padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        pixels = image.permute(2, 0, 1)[None, :3].float().cpu()
        with torch.no_grad():
            logits = self._net(F.pad(pixels, padding, mode="replicate"))
        is_object, color, material = (x[0, ..., :height, :width] for x in logits)
        labels = label_patches(is_object > 0)
        masks = [labels == label for label in labels[labels > 0].unique().tolist()]
        return [
            FoundObject(mask, _box(mask), self._words(mask, color, material))
            for mask in masks
            if mask.sum() >= _SMALLEST * mask.numel()
        ]

    def _words(self, mask: Tensor, color: Tensor, material: Tensor) -> dict[str, float]:
        """The probability of each word: of a shape by the outline, of a color or material the mean
        over the patch."""
        with torch.no_grad():
            shape = self._net.shapes(mask[None])[0].softmax(0)
        shares = [shape, *(x[:, mask].softmax(0).mean(1) for x in (color, material))]
        named = zip(ATTRIBUTES, shares, strict=True)
        return {
            word: p for words, row in named for word, p in zip(words, row.tolist(), strict=True)
        }

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Detections:
        """As a Detector. The score of a phrase is the product of the probabilities of all words in
        it that describe objects, its head's that of its shape; 0 for a phrase without a shape."""
        found = self.find(image)
        boxes = torch.stack([o.box for o in found]) if found else torch.zeros(0, 4)
        scores = torch.zeros(len(found), len(phrases))
        heads = torch.zeros_like(scores)
        for p, phrase in enumerate(phrases):
            named = _find_words(phrase)
            shapes = [word for word in named if word in SHAPES]
            for q, o in enumerate(found if shapes else []):
                scores[q, p] = torch.tensor([o.words[word] for word in named]).prod()
                heads[q, p] = o.words[shapes[-1]]
        return Detections(boxes, scores, heads)

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        """As a Segmenter: of each box (n, 4) the patch that fits it best, (n, H, W) bool."""
        found = self.find(image)
        if not found:
            return torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        patches = torch.stack([o.box for o in found])
        best = [int(iou(box.float().cpu(), patches).argmax()) for box in boxes]
        return torch.stack([found[q].mask for q in best])


def _find_words(phrase: str) -> list[str]:
    """The words of a phrase that describe objects; a shape's plural counts as the shape."""
    return [_WORDS[word] for word in re.findall(r"[a-z]+", phrase.lower()) if word in _WORDS]


def _box(mask: Tensor) -> Tensor:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return torch.stack(edges).float()


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    layers = []
    for a, s in ((inputs, stride), (outputs, 1)):
        convolution = nn.Conv2d(a, outputs, 3, stride=s, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.SiLU()]
    return nn.Sequential(*layers)
