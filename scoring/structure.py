"""Structure distance: how much the layout of a picture changed, by the keys of a DINO ViT.

N. Tumanyan et al.: Splicing ViT Features for Semantic Appearance Transfer, CVPR 2022 (arXiv
2201.00424); as a metric in PIE-Bench (X. Ju et al., 2024, arXiv 2310.01506). DINO ViT-B/8: M. Caron
et al., 2021 (arXiv 2104.14294). Lower is better; of whole images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["corrected", "as published"]
SCALES: tuple[str, ...] = get_args(Scale)
SIDE, LONGEST = 224, 480
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD_WIDTH = 64
VIT_B8 = (8, 768, 12)  # patch, width, blocks: the network of the published figures


class TransformerBlock(nn.Module):
    """A pre-norm transformer block, with the names of the published DINO weights."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width)})
        self.attn["proj"] = nn.Linear(width, width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, N, C), all heads side by side."""
        return self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for t in self.qkv(x))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](mixed)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class DinoKeys(nn.Module):
    """A DINO ViT up to the keys of its last block."""

    def __init__(self, width: int, inner: int, blocks: int, patch: int, positions: int) -> None:
        super().__init__()
        self.sizes = (patch, width, blocks)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(TransformerBlock(width, inner) for _ in range(blocks))

    def forward(self, pixels: Tensor) -> Tensor:
        """Keys (B, 1 + h w, C) of normalised pixels (B, 3, H, W); the first is the class token's,
        the others those of the h x w patches."""
        cells = self.patch_embed["proj"](pixels)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), cells.flatten(2).mT], 1)
        x = x + self.positions(cells.shape[2], cells.shape[3])
        *earlier, last = (cast("TransformerBlock", block) for block in self.blocks)
        for block in earlier:
            x = block(x)
        return last.qkv(x)[1]

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, 1 + h w, C); for another grid than the trained one resized with
        DINO's own scale factors, which are larger by 0.1 of a cell."""
        side = isqrt(self.pos_embed.shape[1] - 1)
        if (height, width) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].mT.unflatten(-1, (side, side))
        factors = ((height + 0.1) / side, (width + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT], 1)


def load_dino(weights: Mapping[str, Tensor]) -> DinoKeys:
    """The network of DINO's published weights (dino_vitbase8_pretrain.pth) or of a ViT of
    transformers (facebook/dino-vitb8), in fp32.

    Raises ValueError where tensors are missing or of another shape.
    """
    weights = original_names(weights)
    try:
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        positions, inner = weights["pos_embed"].shape[1], len(weights["blocks.0.mlp.fc1.bias"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"it holds no ViT of DINO: {error} is missing") from error
    blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    with torch.device("meta"):  # random weights would take longer than reading the true ones
        net = DinoKeys(width, inner, blocks, patch, positions)
    own = net.state_dict()
    if absent := sorted(own.keys() - weights.keys()):
        raise ValueError(f"it lacks {', '.join(absent[:3])} ({len(absent)} in all)")
    if wrong := sorted(name for name in own if own[name].shape != weights[name].shape):
        raise ValueError(f"the shape of {', '.join(wrong[:3])} is not that of a ViT")
    net.load_state_dict({name: weights[name].float() for name in own}, assign=True)
    return net.eval().requires_grad_(False)


_PARTS = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
_PARTS |= {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1"}
_PARTS |= {"output.dense": "mlp.fc2"}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_QKV = re.compile(r"attention\.attention\.(query|key|value)")


def original_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by DINO's own names; transformers' published names are translated."""
    if "embeddings.cls_token" not in weights and "vit.embeddings.cls_token" not in weights:
        return dict(weights)
    out: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        name = name.removeprefix("vit.")
        if found := _LAYER.fullmatch(name):
            number, part, kind = found.groups()
            if projection := _QKV.fullmatch(part):
                qkv.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[projection[1]] = tensor
            elif part in _PARTS:
                out[f"blocks.{number}.{_PARTS[part]}.{kind}"] = tensor
        elif name.startswith("embeddings."):
            name = name.removeprefix("embeddings.").replace("position_embeddings", "pos_embed")
            out[name.replace("patch_embeddings.projection", "patch_embed.proj")] = tensor
    for name, parts in qkv.items():
        if len(parts) == 3:
            out[name] = torch.cat([parts[which] for which in ("query", "key", "value")])
    return out


def prepare(image: Tensor, scale: Scale) -> Tensor:
    """Normalised pixels (1, 3, h, w) of an image (H, W, 3) in [0, 1]: shorter side 224, the longer
    at most 480.

    "as published": PIE-Bench's code, which normalises values up to 255 as if they went up to 1,
    and whose torchvision (0.13.1) takes every pixel of a smaller picture from four neighbours
    alone, without antialiasing.
    """
    corrected = scale == "corrected"
    pixels = image.float().movedim(-1, 0)[None]
    if not corrected:
        pixels = (pixels * 255).round()
    size = fit_size(*image.shape[:2])
    if size != tuple(image.shape[:2]):
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=corrected)
    mean, std = (torch.tensor(v).to(pixels)[:, None, None] for v in (MEAN, STD))
    return (pixels - mean) / std


def fit_size(height: int, width: int) -> tuple[int, int]:
    """Height and width after torchvision's Resize(224, max_size=480)."""
    short, long = sorted((height, width))
    new_short, new_long = SIDE, int(SIDE * long / short)
    if new_long > LONGEST:
        new_short, new_long = int(LONGEST * new_short / new_long), LONGEST
    return (new_short, new_long) if height <= width else (new_long, new_short)


def self_similarity(keys: Tensor) -> Tensor:
    """Cosines (N, N) of all pairs of keys (N, C)."""
    norms = keys.norm(dim=1, keepdim=True)
    return (keys @ keys.T) / (norms @ norms.T).clamp(min=1e-8)


@torch.no_grad()
def structure_distance(
    net: nn.Module, source: Tensor, edited: Tensor, scale: Scale = "corrected"
) -> float:
    """Mean squared difference of the self-similarities of two images (H, W, 3) in [0, 1]."""
    device = next(net.parameters()).device
    a, b = (self_similarity(net(prepare(i, scale).to(device))[0]) for i in (source, edited))
    return float((a - b).square().mean())
