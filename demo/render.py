"""Draws demo scenes: anti-aliased shapes, five materials, greyish backgrounds, exact masks.

Textures are anchored to the image grid with periods of 8 or 16 pixels, so that one latent cell of
an f8 autoencoder always sees the same pattern. Vectorised over all objects of a batch of scenes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import COLORS, MATERIALS, MAX_OBJECTS, SHAPES, Background, Scene

IMAGE_SIZE = 128

_RGB = torch.tensor(
    [
        (0.86, 0.10, 0.12),  # red
        (0.97, 0.52, 0.06),  # orange
        (0.95, 0.88, 0.12),  # yellow
        (0.12, 0.62, 0.20),  # green
        (0.10, 0.78, 0.82),  # cyan
        (0.12, 0.24, 0.86),  # blue
        (0.50, 0.14, 0.70),  # purple
        (0.97, 0.48, 0.72),  # pink
    ]
)
_MORTAR = 0.88  # grey of the joints between bricks


def render(scene: Scene, size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """One scene's image (H, W, 3) in [0, 1] and its exact binary object masks (K, H, W)."""
    images, masks = render_batch([scene], size)
    return images[0], masks[0, : len(scene.objects)]


def render_batch(scenes: Sequence[Scene], size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """Images (B, H, W, 3) in [0, 1] and masks (B, 4, H, W) of {0, 1}, 0 past a scene's objects."""
    images = torch.stack(
        [_draw_background(scene.background, size) for scene in scenes]
    )  # (B, 3, H, W)
    owner = torch.tensor([b for b, scene in enumerate(scenes) for _ in scene.objects])
    slot = torch.tensor([k for scene in scenes for k in range(len(scene.objects))])
    flat = [o for scene in scenes for o in scene.objects]
    if not flat:
        return images.permute(0, 2, 3, 1).contiguous(), torch.zeros(
            len(scenes), MAX_OBJECTS, size, size
        )
    shape = torch.tensor([SHAPES.index(o.shape) for o in flat])
    material = torch.tensor([MATERIALS.index(o.material) for o in flat])
    rgb = _RGB[[COLORS.index(o.color) for o in flat]] * torch.tensor([[o.shade] for o in flat])
    x0, y0 = torch.tensor([o.centre for o in flat]).T[..., None, None] * size
    radius = torch.tensor([o.size for o in flat])[:, None, None] * size

    # Each object is drawn in a square window that holds it, not in the whole image.
    window = min(size, 2 * int(radius.max().ceil()) + 4)
    left, top = (
        (centre[:, 0] - window / 2).round().clamp(0, size - window).long() + torch.arange(window)
        for centre in (x0, y0)
    )  # (K, window) each: pixel columns and rows
    u = (left[:, None, :] + 0.5 - x0) / radius  # (K, 1, w)
    v = (top[:, :, None] + 0.5 - y0) / radius  # (K, h, 1)
    distance = _distances(shape, u, v) * radius  # (K, h, w) in pixels, negative inside
    cover = (0.5 - distance).clamp(0, 1)[:, None]
    paint = _paint(material, rgb.clamp(0, 1), v, (top[:, :, None], left[:, None, :]))

    masks = torch.zeros(len(scenes), MAX_OBJECTS, size, size)
    masks[owner[:, None, None], slot[:, None, None], top[:, :, None], left[:, None, :]] = (
        distance < 0
    ).float()
    for k in range(MAX_OBJECTS):
        rows = slot == k
        place = (owner[rows, None, None], slice(None), top[rows, :, None], left[rows, None, :])
        below = images[place].movedim(-1, 1)  # (b, 3, h, w)
        images[place] = (below + (paint[rows] - below) * cover[rows]).movedim(1, -1)
    return images.permute(0, 2, 3, 1).contiguous(), masks


def _distances(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance (K, H, W) to each object's outline, in units of its radius."""
    out = torch.empty(len(shape), v.shape[1], u.shape[2])
    for index, name in enumerate(SHAPES):
        rows = shape == index
        if rows.any():
            out[rows] = _OUTLINES[name](u[rows], v[rows])
    return out


def _ball(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.92


def _box(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.74


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five tips: the plane folded into a tenth of a turn, then one edge from tip to notch."""
    angle = torch.atan2(u, -v).abs()
    sector = 2 * torch.pi / 5
    angle = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    x, y = torch.hypot(u, v) * torch.cos(angle), torch.hypot(u, v) * torch.sin(angle)
    notch_x, notch_y = 0.46 * np.cos(sector / 2), 0.46 * np.sin(sector / 2)
    normal = np.array([notch_y, 1.0 - notch_x]) / np.hypot(notch_y, 1.0 - notch_x)
    return (x - 1.0) * normal[0] + y * normal[1]


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """A square on its corner, with a half disc on each of its upper sides."""
    square = (u.abs() + (v - 0.12).abs() - 0.78) / 2**0.5
    return torch.minimum(square, torch.hypot(u.abs() - 0.39, v + 0.27) - 0.78 / 2**0.5)


def _moon(u: Tensor, v: Tensor) -> Tensor:
    """A disc with a bite taken from its right side."""
    return torch.maximum(torch.hypot(u, v) - 0.96, 0.74 - torch.hypot(u - 0.52, v))


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.69).abs() - 0.27


def _cross(u: Tensor, v: Tensor) -> Tensor:
    bar = torch.maximum(u.abs() - 0.94, v.abs() - 0.32)
    return torch.minimum(bar, torch.maximum(u.abs() - 0.32, v.abs() - 0.94))


def _cone(u: Tensor, v: Tensor) -> Tensor:
    """A triangle, tip up."""
    slope = np.array([1.7, 0.86]) / np.hypot(1.7, 0.86)
    return torch.maximum(u.abs() * slope[0] - (v + 0.96) * slope[1], v - 0.74)


_OUTLINES = {
    "ball": _ball,
    "box": _box,
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "ring": _ring,
    "cross": _cross,
    "cone": _cone,
}


def _paint(material: Tensor, rgb: Tensor, v: Tensor, pixel: tuple[Tensor, Tensor]) -> Tensor:
    """Each object's surface (K, 3, h, w) at its window's pixels; v (K, h, 1) is its height."""
    y, x = pixel
    gain, white = _textures()  # (M, 16, 16) each
    gain, white = (
        gain[material[:, None, None], y % 16, x % 16],
        white[material[:, None, None], y % 16, x % 16],
    )
    is_chrome = material == MATERIALS.index("chrome")
    height = v[is_chrome]
    gain[is_chrome] = 1.0 - 0.62 * torch.exp(-(((height - 0.22) / 0.26) ** 2))
    white[is_chrome] = 0.85 * torch.exp(-(((height + 0.36) / 0.22) ** 2))
    return rgb[:, :, None, None] * (gain * (1 - white))[:, None] + (_MORTAR * white)[:, None]


def _textures() -> tuple[Tensor, Tensor]:
    """One tile per material (M, 16, 16): factor on the object's colour, share of a pale grey."""
    x = torch.arange(16)[None, :].float()
    y = torch.arange(16)[:, None].float()
    gain, white = torch.ones(len(MATERIALS), 16, 16), torch.zeros(len(MATERIALS), 16, 16)
    gain[MATERIALS.index("wood")] = 0.70 + 0.30 * torch.cos(2 * torch.pi * (y + 0.5) / 8)
    from_middle = (x % 8 - 3.5).abs()  # of a column of knitted stitches
    stitch = 0.76 - 0.31 * torch.cos(2 * torch.pi * (y + from_middle + 0.5) / 8)
    gain[MATERIALS.index("wool")] = stitch * torch.where(from_middle > 3, 0.6, 1.0)
    shift = 8 * (torch.div(y, 8, rounding_mode="floor") % 2)
    joint = (y % 8 < 2) | ((x + shift) % 16 < 2)
    white[MATERIALS.index("brick")] = joint.float() * 0.9
    return gain, white


def _draw_background(background: Background, size: int) -> Tensor:
    """One background (3, H, W) in [0, 1]: a mixture of its two colours."""
    first, second = torch.tensor(background.colors)[:, :, None, None]
    share = _BACKGROUNDS[background.kind](np.random.default_rng(background.seed), size)
    return (first + (second - first) * share.clamp(0, 1).float()).clamp(0, 1)


def _ramp(size: int) -> Tensor:
    return torch.linspace(0, 1, size)


def _fog(rng: np.random.Generator, size: int) -> Tensor:
    """A gradient in any direction."""
    angle, ramp = rng.uniform(0, 2 * np.pi), _ramp(size) - 0.5
    return 0.5 + 0.7 * (ramp[None, :] * np.cos(angle) + ramp[:, None] * np.sin(angle))


def _sky(rng: np.random.Generator, size: int) -> Tensor:
    """Clouds."""
    coarse = torch.from_numpy(rng.random((1, 1, 5, 5), dtype=np.float32))
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[0, 0]


def _room(rng: np.random.Generator, size: int) -> Tensor:
    """A wall and a floor."""
    horizon = rng.uniform(0.45, 0.8)
    return ((_ramp(size)[:, None] - horizon) * size).clamp(0, 1).expand(size, size)


def _corner(rng: np.random.Generator, size: int) -> Tensor:
    """Two walls that meet above a floor, the right one and the floor in shade."""
    edge, height = rng.uniform(0.3, 0.7), rng.uniform(0.55, 0.75)
    ramp = _ramp(size)
    floor = ((ramp[:, None] - height - 0.35 * (ramp[None, :] - edge).abs()) * size).clamp(0, 1)
    right = ((ramp[None, :] - edge) * size).clamp(0, 1)
    return torch.lerp(0.55 * right, torch.ones(1), floor)


def _hills(rng: np.random.Generator, size: int) -> Tensor:
    """Three ridges, each nearer and darker than the one behind it."""
    ramp, share = _ramp(size), torch.zeros(size, size)
    for depth in (1, 2, 3):
        waves, phase = rng.uniform(0.7, 1.6), rng.uniform(0, 2 * np.pi)
        ridge = 0.15 + 0.22 * depth + 0.06 * torch.sin(2 * torch.pi * waves * ramp + phase)
        share = share + ((ramp[:, None] - ridge) * size).clamp(0, 1) / 3
    return share


def _sand(rng: np.random.Generator, size: int) -> Tensor:
    """Broad dunes that bend."""
    ramp, phase = _ramp(size), rng.uniform(0, 2 * np.pi)
    bend = 0.12 * torch.sin(2 * torch.pi * ramp + rng.uniform(0, 2 * np.pi))
    return 0.5 + 0.45 * torch.sin(2 * torch.pi * 3 * (ramp[:, None] + bend) + phase)


def _sea(rng: np.random.Generator, size: int) -> Tensor:
    """A bright sky above water that darkens towards the viewer."""
    ramp, horizon = _ramp(size)[:, None], rng.uniform(0.3, 0.6)
    water = 0.35 + 0.65 * (ramp - horizon) / (1 - horizon)
    below = ((ramp - horizon) * size).clamp(0, 1)
    return (below * water + (1 - below) * 0.25 * (1 - ramp / horizon)).expand(size, size)


def _spotlight(rng: np.random.Generator, size: int) -> Tensor:
    """A round light that fades outwards."""
    x, y = rng.uniform(0.3, 0.7, 2)
    ramp = _ramp(size)
    return torch.exp(-((ramp[None, :] - x) ** 2 + (ramp[:, None] - y) ** 2) / 0.12)


_BACKGROUNDS = {
    "fog": _fog,
    "sky": _sky,
    "room": _room,
    "corner": _corner,
    "hills": _hills,
    "sand": _sand,
    "sea": _sea,
    "spotlight": _spotlight,
}
