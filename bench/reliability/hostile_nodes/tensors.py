"""Hostile tensors of each type of socket, made from good ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Maker = Callable[[Any], Any]


def insert_value(value: float) -> Maker:
    """One element in the middle of the tensor is this."""

    def make(good: Tensor) -> Tensor:
        made = good.float().clone()
        made.view(-1)[made.numel() // 2] = value
        return made

    return make


def all_of(value: float) -> Maker:
    return lambda good: torch.full_like(good.float(), value)


def times(scale: float, offset: float = 0.0) -> Maker:
    return lambda good: good.float() * scale + offset


def resize(height: int, width: int) -> Maker:
    """An image or mask batch at another size."""

    def make(good: Tensor) -> Tensor:
        planes = good.movedim(-1, 1) if good.ndim == 4 else good[:, None]
        made = interpolate(planes, (height, width))
        return made.movedim(1, -1) if good.ndim == 4 else made[:, 0]

    return make


def batch(count: int) -> Maker:
    return lambda good: good[:1].repeat(count, *[1] * (good.ndim - 1))


def cast(dtype: torch.dtype, scale: float = 1.0) -> Maker:
    return lambda good: (good * scale).to(dtype)


def channels(count: int) -> Maker:
    return lambda good: good[..., :1].repeat(*[1] * (good.ndim - 1), count)


COMMON: dict[str, Maker] = {
    "one NaN": insert_value(float("nan")),
    "all NaN": all_of(float("nan")),
    "one inf": insert_value(float("inf")),
    "one -inf": insert_value(float("-inf")),
    "all 0": all_of(0.0),
    "all 1": all_of(1.0),
    "all -1": all_of(-1.0),
    "all 1e30": all_of(1e30),
    "0 to 255": times(255.0),
    "empty batch": lambda good: good[:0],
    "no batch axis": lambda good: good[0],
    "no height": lambda good: good[:, :0],
    "batch of 3": batch(3),
    "1 x 1": resize(1, 1),
    "7 x 5": resize(7, 5),
    "61 x 67": resize(61, 67),
    "8 x 200": resize(8, 200),
    "256 x 128": resize(256, 128),
    "64 x 64": resize(64, 64),
    "half precision": cast(torch.float16),
    "double precision": cast(torch.float64),
    "bytes": cast(torch.uint8, 255),
}
IMAGES = {
    **COMMON,
    "grey": channels(1),
    "2 channels": channels(2),
    "5 channels": channels(5),
    "alpha": channels(4),
    "channels first": lambda good: good.movedim(-1, 1),
    "video": lambda good: good[None],
}
MASKS = {
    **COMMON,
    "one mask fewer": lambda good: good[:-1],
    "one mask more": lambda good: torch.cat([good, good[:1]]),
    "with channel axis": lambda good: good[:, None],
    "all the same": lambda good: good[:1].expand(len(good), -1, -1),
    "inverted": lambda good: 1 - good,
    "truth values": lambda good: good > 0.5,
    "one pixel set": lambda good: (
        torch.zeros_like(good).index_fill(1, torch.tensor([3]), 0.0)
        + (torch.arange(good.shape[-1]) == 5) * (torch.arange(good.shape[-2])[:, None] == 5)
    ),
}


def samples(maker: Maker) -> Maker:
    return lambda good: {**good, "samples": maker(good["samples"])}


LATENTS = {
    **{
        kind: samples(COMMON[kind])
        for kind in ("one NaN", "all NaN", "one inf", "all 0", "all 1e30", "empty batch")
    },
    "no batch axis": samples(lambda x: x[0]),
    "batch of 2": samples(batch(2)),
    "16 channels": samples(lambda x: x.repeat(1, 4, 1, 1)),
    "video": samples(lambda x: x[:, :, None]),
    "one cell": samples(lambda x: x[..., :1, :1]),
    "3 x 5 cells": samples(lambda x: x[..., :3, :5]),
    "noise mask of NaN": lambda good: {
        **good,
        "noise_mask": torch.full((1, 1, 128, 128), float("nan")),
    },
    "noise mask of another size": lambda good: {**good, "noise_mask": torch.ones(1, 1, 7, 9)},
    "batch index too long": lambda good: {**good, "batch_index": [0, 1, 2, 3]},
}
SIGMAS = {
    "none": lambda good: good[:0],
    "one": lambda good: good[:1],
    "one NaN": insert_value(float("nan")),
    "one inf": insert_value(float("inf")),
    "all 0": all_of(0.0),
    "rising": lambda good: good.flip(0),
    "negative": times(-1.0),
    "not to 0": times(1.0, 0.5),
    "1000 times": times(1000.0),
    "two axes": lambda good: good[None],
}


def texts(maker: Maker) -> Maker:
    """Of each entry's tensor."""
    return lambda good: [[maker(tensor), options] for tensor, options in good]


CONDITIONINGS = {
    "none": lambda _good: [],
    "one NaN": texts(insert_value(float("nan"))),
    "all NaN": texts(all_of(float("nan"))),
    "one inf": texts(insert_value(float("inf"))),
    "all 1e30": texts(all_of(1e30)),
    "no tokens": texts(lambda x: x[:, :0]),
    "no batch axis": texts(lambda x: x[0]),
    "batch of 2": texts(batch(2)),
    "empty batch": texts(lambda x: x[:0]),
    "too wide": texts(lambda x: x.repeat(1, 1, 3)),
    "T5's width": texts(lambda x: torch.zeros(1, x.shape[1], 4096)),
    "one token": texts(lambda x: x[:, :1]),
    "many tokens": texts(lambda x: x.repeat(1, 40, 1)),
    "five entries": lambda good: good * 5,
    "without options": lambda good: [[tensor, {}] for tensor, _ in good],
    "strength NaN": lambda good: [
        [x, {**options, "strength": float("nan")}] for x, options in good
    ],
    "area outside": lambda good: [[x, {**options, "area": (4, 4, 90, 90)}] for x, options in good],
    "mask of NaN": lambda good: [
        [x, {**options, "mask": torch.full((1, 128, 128), float("nan")), "mask_strength": 1.0}]
        for x, options in good
    ],
}


def change_inversion(name: str, change: Maker) -> Maker:
    """An inversion with another value in a field."""

    def make(good: Any) -> Any:
        made = copy.copy(good)
        object.__setattr__(made, name, change(getattr(good, name)))  # it is frozen
        return made

    return make


INVERSIONS = {
    "latents of NaN": change_inversion("latents", all_of(float("nan"))),
    "latents of 1e30": change_inversion("latents", all_of(1e30)),
    "latents of 16 channels": change_inversion("latents", lambda x: x.repeat(1, 1, 4, 1, 1)),
    "latents of another size": change_inversion("latents", lambda x: x[..., :3, :5]),
    "latents of two images": change_inversion("latents", lambda x: x.repeat(1, 2, 1, 1, 1)),
    "latents of fewer steps": change_inversion("latents", lambda x: x[:-1]),
    "no latents": change_inversion("latents", lambda x: x[:0]),
    "sigmas of NaN": change_inversion("sigmas", lambda x: (float("nan"),) * len(x)),
    "no sigmas": change_inversion("sigmas", lambda _x: ()),
    "another model": change_inversion("model", lambda _x: "0" * 64),
    "another prompt": change_inversion("prompt", lambda _x: "a photograph of nothing"),
    "unknown method": change_inversion("method", lambda _x: "magic"),
    "null texts of another width": change_inversion(
        "null_texts", lambda _x: torch.zeros(2, 1, 77, 5)
    ),
}
OTHER_THINGS: dict[str, Maker] = {
    "nothing": lambda _good: None,
    "a text": lambda _good: "photo.png",
    "a number": lambda _good: 7,
    "a list": lambda good: [good],
    "an empty dict": lambda _good: {},
}
"""What broken nodes of other packs put out."""
BY_TYPE = {
    "IMAGE": IMAGES,
    "MASK": MASKS,
    "LATENT": LATENTS,
    "SIGMAS": SIGMAS,
    "CONDITIONING": CONDITIONINGS,
    "ALE_INVERSION": INVERSIONS,
}
TENSORS = {
    **{f"{name}: {kind}": m for name, makers in BY_TYPE.items() for kind, m in makers.items()},
    **{f"any: {kind}": maker for kind, maker in OTHER_THINGS.items()},
}
