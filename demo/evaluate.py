"""Prints the model card's figures, on scene seeds that neither training nor tuning has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from .caption_sampler import EOS
from .captions import join_phrases, object_phrase
from .finding import find_objects
from .judge import Judge, Reading
from .models import build_clip, build_model, build_vae
from .render import IMAGE_SIZE, render_batch
from .scenes import CHECK_SEEDS, Scene, SceneObject, Triples, make_scene
from .weights import read_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

_ATTRIBUTES = ("shape", "color", "material")
_STEPS, _GUIDANCE = 20, 3.0
_BATCH = 25


@dataclass(frozen=True)
class _Demo:
    model: "ModelPatcher"
    clip: "CLIP"
    vae: "VAE"
    judge: Judge


def evaluate(folder: Path, count: int) -> str:
    """All figures as Markdown, `count` scenes or prompts each."""
    demo = _Demo(
        build_model(read_weights("unet", folder)),
        build_clip(read_weights("text", folder)),
        build_vae(read_weights("autoencoder", folder)),
        Judge.load(folder),
    )
    parts = [_ground_truth(demo, count)]
    kinds: tuple[tuple[str, int, Triples], ...] = (
        ("one object", 1, "trained"),
        ("one object, held-out triples", 1, "held_out"),
        ("two objects", 2, "trained"),
    )
    for title, objects, triples in kinds:
        seeds = CHECK_SEEDS[5_000 : 5_000 + count]
        scenes = [make_scene(s, objects, triples=triples) for s in seeds]
        parts.append(_text_to_image(demo, title, scenes))
    parts.append(_swap_table(demo, count))
    return "\n\n".join(parts)


def _ground_truth(demo: _Demo, count: int) -> str:
    """Autoencoder PSNR, and judge accuracy on ground truth before and after the autoencoder."""
    scenes = [make_scene(CHECK_SEEDS[i], 2, triples="all") for i in range(count)]
    images, masks = render_batch(scenes)
    decoded = demo.vae.decode(demo.vae.encode(images)).cpu()
    psnr = float((-10 * (decoded - images).square().mean((1, 2, 3)).log10()).mean())
    lines = [
        f"Ground truth, {count} two-object scenes: autoencoder {psnr:.1f} dB",
        "",
        "| judge on | shape | color | material |",
        "|---|---|---|---|",
    ]
    for name, shown in (("rendered images", images), ("decoded images", decoded)):
        pairs = [
            (demo.judge.read(image, mask), o)
            for image, rows, scene in zip(shown, masks, scenes, strict=True)
            for mask, o in zip(rows, scene.objects, strict=False)
        ]
        shares = [_share(pairs, a) for a in _ATTRIBUTES]
        lines.append(f"| {name} | " + " | ".join(f"{s:.3f}" for s in shares) + " |")
    return "\n".join(lines)


def _text_to_image(demo: _Demo, title: str, scenes: list[Scene]) -> str:
    """Share of named objects found with the attribute asked for, and of right object counts."""
    prompts = [
        join_phrases([object_phrase(o.shape, o.color, o.material) for o in s.objects])
        for s in scenes
    ]
    contexts = torch.cat([_encode(demo, prompt) for prompt in prompts])
    hits, counts = [], []
    for image, scene in zip(_sample(demo, contexts), scenes, strict=True):
        readings = [demo.judge.read(image, mask) for mask in find_objects(image)]
        counts.append(len(readings) == len(scene.objects))
        hits += _best_match(readings, scene.objects)
    shape, color, material = np.mean(hits, axis=0)
    every = np.mean([all(h) for h in hits])
    return (
        f"Text to image, {title} ({len(scenes)} prompts, {_STEPS} steps, guidance {_GUIDANCE}): "
        f"shape {shape:.2f}, color {color:.2f}, material {material:.2f}, all three {every:.2f}, "
        f"right object count {np.mean(counts):.2f}"
    )


def _best_match(
    readings: list[Reading], objects: tuple[SceneObject, ...]
) -> list[tuple[bool, bool, bool]]:
    """Per object, which attributes its patch has; the assignment with most hits counts."""
    slots: list[Reading | None] = [*readings, *[None] * len(objects)]
    options = []
    for choice in permutations(slots, len(objects)):
        options.append(
            [
                tuple(r is not None and getattr(r, a) == getattr(o, a) for a in _ATTRIBUTES)
                for r, o in zip(choice, objects, strict=True)
            ]
        )
    return max(options, key=lambda hits: sum(map(sum, hits)))


def _swap_table(demo: _Demo, count: int) -> str:
    """What images show when the words come from prompt A and the end-of-text run from B."""
    pairs = []
    for i in range(count):
        a, b = make_scene(CHECK_SEEDS[9_000 + i], 2).objects
        pairs.append((a, b, object_phrase(a.shape, a.color), object_phrase(b.shape, b.color)))
    rows = {
        "words of A, end-of-text of B": torch.cat([_splice(demo, a, b) for *_, a, b in pairs]),
        "words of A zeroed": torch.cat([_zeroed(demo, a, words=True) for *_, a, _ in pairs]),
        "end-of-text of A zeroed": torch.cat([_zeroed(demo, a, words=False) for *_, a, _ in pairs]),
    }
    lines = [
        f"Words against end-of-text, {count} prompt pairs: share that shows the shape / color of",
        "",
        "| conditioning | A | B |",
        "|---|---|---|",
    ]
    for name, contexts in rows.items():
        found = [_largest(demo, image) for image in _sample(demo, contexts)]
        cells = []
        for side in (0, 1):
            shares = [
                _share([(r, p[side]) for r, p in zip(found, pairs, strict=True)], attribute)
                for attribute in ("shape", "color")
            ]
            cells.append(f"{shares[0]:.2f} / {shares[1]:.2f}")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _share(pairs: Sequence[tuple[Reading | None, SceneObject]], attribute: str) -> float:
    """Share of (reading, object) pairs that agree in one attribute."""
    hits = [r is not None and getattr(r, attribute) == getattr(o, attribute) for r, o in pairs]
    return sum(hits) / len(hits)


def _largest(demo: _Demo, image: Tensor) -> Reading | None:
    masks = find_objects(image, 1)
    return demo.judge.read(image, masks[0]) if len(masks) else None


def _encode(demo: _Demo, prompt: str) -> Tensor:
    """Context (1, N, 128) of a prompt."""
    return cast("Tensor", demo.clip.encode_from_tokens(demo.clip.tokenize(prompt)))


def _first_end(demo: _Demo, prompt: str) -> int:
    return [token for token, _ in demo.clip.tokenize(prompt)["l"][0]].index(EOS)


def _splice(demo: _Demo, words: str, ends: str) -> Tensor:
    """Context with the words of one prompt and the end-of-text run of another."""
    context, other = _encode(demo, words).clone(), _encode(demo, ends)
    start, from_ = _first_end(demo, words), _first_end(demo, ends)
    length = context.shape[1] - max(start, from_)
    context[:, start:] = other[:, -1:]
    context[:, start : start + length] = other[:, from_ : from_ + length]
    return context


def _zeroed(demo: _Demo, prompt: str, *, words: bool) -> Tensor:
    """Context with either the words or the end-of-text run set to zero."""
    context, start = _encode(demo, prompt).clone(), _first_end(demo, prompt)
    context[:, slice(1, start) if words else slice(start, None)] = 0
    return context


def _sample(demo: _Demo, contexts: Tensor) -> Tensor:
    """Images (B, H, W, 3) of contexts (B, N, 128), by ComfyUI's own sampler."""
    import comfy.sample

    negative = [[_encode(demo, ""), {}]]
    images = []
    for start in range(0, len(contexts), _BATCH):
        positive = [[contexts[start : start + _BATCH], {}]]
        latent = torch.zeros(len(positive[0][0]), 4, IMAGE_SIZE // 8, IMAGE_SIZE // 8)
        noise = comfy.sample.prepare_noise(latent, CHECK_SEEDS.start + start)
        samples = comfy.sample.sample(
            demo.model,
            noise,
            _STEPS,
            _GUIDANCE,
            "euler",
            "normal",
            positive,
            negative,
            latent,
            disable_pbar=True,
        )
        images.append(demo.vae.decode(samples).cpu())
    return torch.cat(images)
