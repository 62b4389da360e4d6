"""Prints the model card's figures, on scene seeds that neither training nor tuning has seen.

Rates come with the half width of a 95 % interval, by bootstrap over prompts or scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..regions.detection import Thresholds, match
from .captions import join_phrases, object_phrase
from .card_images import DemoSetup, plain_images, regional_images, sample, splice, zero_part
from .finder import SceneFinder
from .finding import find_objects
from .judge import Judge, Reading
from .mini_clip import MiniClip
from .models import add_lcm, build_clip, build_model, build_vae
from .render import render_batch
from .scenes import CHECK_SEEDS, COLORS, MATERIALS, SHAPES, Scene, SceneObject, Triples, make_scene
from .weights import read_weights, weight_table

_ATTRIBUTES = ("shape", "color", "material")
_LCM_STEPS = (4, 8, 15)
_BOX, _NOUN = 0.35, 0.25  # thresholds, the defaults of Grounded-SAM Masks
_COLUMNS = (
    "| {0} | shape | color | material | all three | another object's attribute | right count |\n"
    "|---|---|---|---|---|---|---|"
)

Row = tuple[float, float, float, float, float]  # hits of shape, color, material, all; swapped
Measure = list[Row]


def evaluate(folder: Path, count: int, parts: Sequence[str] = ()) -> str:
    """The figures of some parts (`PARTS_OF_CARD`; none: all) as Markdown, `count` prompts each."""
    unknown = set(parts) - set(PARTS_OF_CARD)
    if unknown:
        raise ValueError(
            f"There are no figures called {', '.join(sorted(unknown))}. There are: "
            f"{', '.join(PARTS_OF_CARD)}."
        )
    clip = build_clip(read_weights("text", folder))
    vae = build_vae(read_weights("autoencoder", folder))
    model = build_model(read_weights("unet", folder))
    demo = DemoSetup(model, clip, vae, Judge.load(folder), folder)
    return "\n\n".join(PARTS_OF_CARD[part](demo, count) for part in parts or PARTS_OF_CARD)


def _ground_truth(demo: DemoSetup, count: int) -> str:
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


def _measure_finder(demo: DemoSetup, count: int) -> str:
    """Intersection over union of true masks with those that the finder makes of each object's
    phrase alone, 0 for an object that it does not find."""
    finder = SceneFinder.load(demo.folder)
    scenes = [make_scene(CHECK_SEEDS[i], 1 + i % 4, triples="all") for i in range(count)]
    images, masks = render_batch(scenes)
    decoded = demo.vae.decode(demo.vae.encode(images)).cpu()
    lines = [
        f"Detection, {count} scenes of one to four objects, by phrases of shape and color",
        "",
        "| finder on | objects found | mask IoU |",
        "|---|---|---|",
    ]
    for name, shown in (("rendered images", images), ("decoded images", decoded)):
        overlaps = measure_overlaps(finder, shown, masks, scenes)
        lines.append(f"| {name} | {_rate([o > 0 for o in overlaps])} | {_rate(overlaps)} |")
    return "\n".join(lines)


def measure_overlaps(
    finder: SceneFinder, images: Tensor, masks: Tensor, scenes: Sequence[Scene]
) -> list[float]:
    """For each object of images (B, H, W, 3) with true masks (B, K, H, W): the intersection over
    union of its mask with what the finder makes of its shape and color, 0 where it finds nothing.
    """
    overlaps = []
    for image, rows, scene in zip(images, masks > 0.5, scenes, strict=True):
        phrases = tuple(object_phrase(o.shape, o.color) for o in scene.objects)
        found = match(finder.detect(image, phrases), phrases, Thresholds(_BOX, _NOUN))
        boxes = [instance.box for own in found for instance in own.instances]
        made = iter(finder.segment(image, torch.tensor(boxes).view(-1, 4)))
        for own, mask in zip(found, rows, strict=False):
            patch = torch.zeros_like(mask)
            for _ in own.instances:
                patch |= next(made)
            overlaps.append(float((patch & mask).sum() / (patch | mask).sum()))
    return overlaps


def _text_to_image(demo: DemoSetup, count: int) -> str:
    """Plain prompts with 1 to 3 objects, and one object of a triple that was never trained on."""
    kinds: tuple[tuple[str, int, Triples], ...] = (
        ("one object", 1, "trained"),
        ("one object, held-out triples", 1, "held_out"),
        ("two objects", 2, "trained"),
        ("three objects", 3, "trained"),
    )
    lines = [_COLUMNS.format(f"text to image, {count} prompts, {demo.sampling}")]
    for title, objects, triples in kinds:
        scenes = _prompt_scenes(count, objects, triples)
        lines.append(_attribute_row(title, demo, plain_images(demo, scenes), scenes))
    return "\n".join(lines)


def _region_control(demo: DemoSetup, count: int) -> str:
    """Two objects, the same prompts and noise with and without ORE and RGB-CAM in a KSampler."""
    scenes = _prompt_scenes(count, 2, "trained")
    lines = [
        _COLUMNS.format(f"region control, two objects, {count} prompts, {demo.sampling}"),
        _attribute_row("off", demo, plain_images(demo, scenes), scenes),
    ]
    for name, has_background in (("on", False), ("on, with a text for the background", True)):
        images = regional_images(demo, scenes, has_background)
        lines.append(_attribute_row(name, demo, images, scenes))
        lines.append(
            _attribute_row(f"{name}, read in each object's own region", demo, images, scenes, True)
        )
    return "\n".join(lines)


def _judge_lcm(demo: DemoSetup, count: int) -> str:
    """Two objects by the latent consistency LoRA, as ComfyUI's own nodes apply it."""
    model = add_lcm(demo.model, read_weights("lcm", demo.folder))
    scenes = _prompt_scenes(count, 2, "trained")
    lines = [_COLUMNS.format(f"LCM LoRA, two objects, {count} prompts, lcm, guidance 1")]
    for steps in _LCM_STEPS:
        fast = replace(
            demo, model=model, steps=steps, guidance=1.0, sampler="lcm", scheduler="sgm_uniform"
        )
        lines.append(_attribute_row(f"{steps} steps", demo, plain_images(fast, scenes), scenes))
    return "\n".join(lines)


def _mini_clip(demo: DemoSetup, count: int) -> str:
    """Share of cut-out objects to which the mini CLIP gives the right word, and of whole scenes
    that it prefers with their own caption over one with the two colours exchanged.
    """
    scorer = MiniClip.load(cast("Any", demo.clip), demo.folder)
    scenes = [make_scene(CHECK_SEEDS[20_000 + i], 2, triples="all") for i in range(count)]
    images, masks = render_batch(scenes)
    decoded = demo.vae.decode(demo.vae.encode(images)).cpu()
    lines = [
        f"| mini CLIP, {count} two-object scenes | shape | color | material | own colours |",
        "|---|---|---|---|---|",
    ]
    objects = [o for scene in scenes for o in scene.objects]
    shapes = [SHAPES.index(o.shape) for o in objects]
    questions = (  # the texts to choose from for an object of each shape, and the right ones
        ([[object_phrase(s) for s in SHAPES]] * len(SHAPES), shapes),
        (
            [[object_phrase(s, c) for c in COLORS] for s in SHAPES],
            [COLORS.index(o.color) for o in objects],
        ),
        (
            [[object_phrase(s, None, m) for m in MATERIALS] for s in SHAPES],
            [MATERIALS.index(o.material) for o in objects],
        ),
    )
    for name, shown in (("rendered images", images), ("decoded images", decoded)):
        cut = (shown[:, None] * masks[:, :2, ..., None]).flatten(0, 1)
        shares = []
        for texts, right in questions:
            cosines = scorer.similarity(cut, [text for row in texts for text in row])
            own_row = cosines.unflatten(1, (len(texts), -1))[range(len(objects)), shapes]
            shares.append(float((own_row.argmax(1) == torch.tensor(right)).float().mean()))
        own = [
            float(scorer.similarity(image[None], _captions_of_colors(scene))[0].argmax() == 0)
            for image, scene in zip(shown, scenes, strict=True)
        ]
        cells = [*shares, sum(own) / len(own)]
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in cells) + " |")
    return "\n".join(lines)


def _captions_of_colors(scene: Scene) -> list[str]:
    """The caption of two objects, and that with their colours exchanged."""
    a, b = scene.objects
    return [
        join_phrases([object_phrase(a.shape, first), object_phrase(b.shape, second)])
        for first, second in ((a.color, b.color), (b.color, a.color))
    ]


def _prompt_scenes(count: int, objects: int, triples: Triples) -> list[Scene]:
    seeds = CHECK_SEEDS[5_000 : 5_000 + count]
    return [make_scene(s, objects, triples=triples) for s in seeds]


def _attribute_row(
    title: str, demo: DemoSetup, images: Tensor, scenes: list[Scene], in_place: bool = False
) -> str:
    """How often named objects have the attributes asked for, and those of another object.

    Objects are found by their saturation and matched to the prompt's for most agreement, or with
    in_place read in their scene's regions.
    """
    masks = render_batch(scenes)[1] if in_place else None
    rows, counts = [], []
    for b, (image, scene) in enumerate(zip(images, scenes, strict=True)):
        found = find_objects(image) if masks is None else masks[b, : len(scene.objects)]
        readings: list[Reading | None] = [demo.judge.read(image, mask) for mask in found]
        if masks is None:
            counts.append(len(readings) == len(scene.objects))
            readings = _match(readings, scene.objects)
        measured = [_measure(r, o, scene) for r, o in zip(readings, scene.objects, strict=True)]
        rows.append(np.mean(measured, axis=0))
    cells = [_rate(column) for column in np.transpose(rows)]
    return f"| {title} | {' | '.join(cells)} | {_rate(counts) if counts else '-'} |"


def _match(
    readings: list[Reading | None], objects: tuple[SceneObject, ...]
) -> list[Reading | None]:
    """One patch, or none, per object; the assignment with most right attributes."""
    slots = [*readings, *[None] * len(objects)]
    return max(
        (list(choice) for choice in permutations(slots, len(objects))),
        key=lambda choice: sum(sum(_hits(r, o)) for r, o in zip(choice, objects, strict=True)),
    )


def _hits(reading: Reading | None, o: SceneObject) -> list[bool]:
    return [reading is not None and getattr(reading, a) == getattr(o, a) for a in _ATTRIBUTES]


def _measure(reading: Reading | None, o: SceneObject, scene: Scene) -> Row:
    """Hits of shape, color, material, all three; and whether it has another object's attribute."""
    hits = _hits(reading, o)
    swapped = reading is not None and any(
        getattr(reading, a) != getattr(o, a)
        and getattr(reading, a) in {getattr(other, a) for other in scene.objects if other is not o}
        for a in ("color", "material")
    )
    return (*(float(h) for h in hits), float(all(hits)), float(swapped))  # pyright: ignore[reportReturnType]


def _rate(values: Sequence[float] | np.ndarray) -> str:
    """Mean and half width of its 95 % interval."""
    sample = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(sample), (1000, len(sample)))
    low, high = np.quantile(sample[picks].mean(1), (0.025, 0.975))
    return f"{sample.mean():.3f} ±{(high - low) / 2:.3f}"


def _end_of_text(demo: DemoSetup, count: int) -> str:
    """What images show when the words come from prompt A and the end-of-text run from B."""
    pairs = []
    for i in range(count):
        a, b = make_scene(CHECK_SEEDS[9_000 + i], 2).objects
        pairs.append((a, b, object_phrase(a.shape, a.color), object_phrase(b.shape, b.color)))
    rows = {
        "words of A, end-of-text of B": torch.cat([splice(demo, a, b) for *_, a, b in pairs]),
        "words of A zeroed": torch.cat([zero_part(demo, a, words=True) for *_, a, _ in pairs]),
        "end-of-text of A zeroed": torch.cat(
            [zero_part(demo, a, words=False) for *_, a, _ in pairs]
        ),
    }
    lines = [
        f"Words against end-of-text, {count} prompt pairs: share that shows the shape / color of",
        "",
        "| conditioning | A | B |",
        "|---|---|---|",
    ]
    for name, contexts in rows.items():
        found = [_largest(demo, image) for image in sample(demo, contexts)]
        cells = []
        for side in (0, 1):
            shares = [
                _share([(r, p[side]) for r, p in zip(found, pairs, strict=True)], attribute)
                for attribute in ("shape", "color")
            ]
            cells.append(f"{shares[0]:.2f} / {shares[1]:.2f}")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _files(demo: DemoSetup, _count: int) -> str:
    return weight_table(demo.folder)


def _share(pairs: Sequence[tuple[Reading | None, SceneObject]], attribute: str) -> float:
    """Share of (reading, object) pairs that agree in one attribute."""
    hits = [r is not None and getattr(r, attribute) == getattr(o, attribute) for r, o in pairs]
    return sum(hits) / len(hits)


def _largest(demo: DemoSetup, image: Tensor) -> Reading | None:
    masks = find_objects(image, 1)
    return demo.judge.read(image, masks[0]) if len(masks) else None


PARTS_OF_CARD: dict[str, Callable[[DemoSetup, int], str]] = {
    "files": _files,
    "ground-truth": _ground_truth,
    "finder": _measure_finder,
    "text-to-image": _text_to_image,
    "region-control": _region_control,
    "end-of-text": _end_of_text,
    "lcm": _judge_lcm,
    "clip": _mini_clip,
}
