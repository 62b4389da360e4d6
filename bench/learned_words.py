"""`dev.py bench learned-words`: how well the attention maps of nouns show where their objects are,
before and after Dynamic Prompt Learning and LocInv.

As in figure 5 of Dynamic Prompt Learning: a noun's map is the mean over the steps of an inversion,
as a share of its greatest value. The places where it is above a threshold are compared with the
object's exact mask. There is no guidance, so the latents follow the inversion without null texts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..demo.captions import demo_edits
from ..demo.models import load_demo_model
from ..demo.render import render
from ..demo.scenes import make_scene
from ..editors import dpl
from ..host.attention.word_maps import map_words
from ..host.editing import open_edit
from ..inversion.stored import Inversion
from ..prompts.edits import Edits, make_edit
from ..regions.heat import enlarge
from ..regions.phrases import head_noun
from ..regions.regions import make_regions

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

THRESHOLDS = torch.linspace(0.05, 0.95, 19)
PLAIN = "plain words"


@dataclass(frozen=True, eq=False)
class Found:
    """Of one scene. updated: how many steps had updates of the words. curve: intersection over
    union of maps and masks, by threshold."""

    updated: int
    curve: Tensor


def list_cases(steps: int) -> dict[str, dpl.DPLSettings]:
    learned = dpl.DPLSettings(
        steps=steps, source_guidance=1.0, target_guidance=1.0, schedule="paper"
    )
    by_masks = replace(learned, priors="masks", updates=31)
    return {
        "DPL": learned,
        "DPL, cheap": replace(learned, schedule="cheap"),
        "LocInv": by_masks,
        "LocInv, cheap": replace(by_masks, schedule="cheap"),
    }


def measure_scene(
    seed: int, cases: Mapping[str, dpl.DPLSettings], demo: tuple[ModelPatcher, CLIP, VAE]
) -> dict[str, Found]:
    """Of the demo scene of a seed, by case; plain words on the latents of the first."""
    model, clip, vae = demo
    image, masks = render(make_scene(seed, 2))
    latent = cast("Tensor", vae.encode(image[None]))
    pairs = [(source, target) for source, target, _ in demo_edits(seed, name_colors=True)]
    edits = Edits(tuple(make_edit(*pair) for pair in pairs))
    regions = make_regions(list(masks), edits.sources, 0.0)
    prompt, nouns = edits.prompt("source"), [head_noun(source) for source in edits.sources]

    def find_curve(inversion: Inversion) -> Tensor:
        _, maps = map_words(
            model, clip, latent, prompt, ", ".join(nouns),
            steps=inversion.steps, first_share=0.0, last_share=1.0, seed=0, inversion=inversion,
        )  # fmt: skip
        return compare(enlarge(maps, masks.shape[-2:])[0], masks >= 0.5)

    found: dict[str, Found] = {}
    for name, settings in cases.items():
        given = regions if settings.priors == "masks" else None
        edit = open_edit(dpl.EDITOR, settings, model, clip, edits, regions=given)
        inversion = edit.invert(latent, seed=0)
        if not found:
            found[PLAIN] = Found(0, find_curve(replace(inversion, word_texts=None)))
        assert edit.learner is not None and inversion.word_vectors is not None
        before = torch.cat([edit.learner.read_vectors()[None, None], inversion.word_vectors[:-1]])
        updated = (inversion.word_vectors != before).flatten(1).any(1)
        found[name] = Found(int(updated.sum()), find_curve(inversion))
    return found


def compare(maps: Tensor, masks: Tensor) -> Tensor:
    """(T,) the mean over objects of the intersection over union, by threshold. maps, masks: (K, H,
    W)."""
    shown = maps > THRESHOLDS[:, None, None, None]
    both, either = ((shown & masks).sum((2, 3)), (shown | masks).sum((2, 3)))
    return (both / either).mean(1)


def summarise(scenes: Sequence[Mapping[str, Found]], steps: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in scenes[0]:
        curve = torch.stack([scene[name].curve for scene in scenes]).mean(0)
        rows.append(
            {
                "words": name,
                "updated": sum(scene[name].updated for scene in scenes) / len(scenes),
                "steps": steps,
                "iou": float(curve.mean()),
                "best_iou": float(curve.max()),
                "curve": [round(value, 4) for value in curve.tolist()],
            }
        )
    return rows


def write_table(rows: Sequence[Mapping[str, object]]) -> str:
    """The report in Markdown, as docs/methods.md holds it."""
    return "\n".join(
        [
            "| words | steps with updates | IoU, mean over thresholds ↑ | best threshold ↑ |",
            "|---|---|---|---|",
            *(
                f"| {row['words']} | {row['updated']:.1f} of {row['steps']} | {row['iou']:.3f} | "
                f"{row['best_iou']:.3f} |"
                for row in rows
            ),
        ]
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench learned-words", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--scenes", type=int, default=5, metavar="N", help="demo scenes 0 to N - 1 (default 5)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="of the inversions (default 20)"
    )
    options = parser.parse_args(argv)
    with torch.inference_mode():
        demo, cases = load_demo_model(), list_cases(options.steps)
        scenes = [measure_scene(seed, cases, demo) for seed in range(options.scenes)]
    rows = summarise(scenes, options.steps)
    print(write_table(rows))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"scenes": options.scenes, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
    return 0
