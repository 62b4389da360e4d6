"""How often both objects of a demo scene come out right: `dev.py bench scenes`.

Runs the main job of every scene, ALE edit and naive edit, over the HTTP API of a ComfyUI, reads the
results with the judge, and prints a table. Scenes 0 to 9 are the published ones; settings were
chosen on seeds from 10000 on.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..headless.pictures import as_png
from .main_job import guard, run_job, write_files
from .options import SCENES_FILES, demo_arguments, scenes_arguments

METHODS = ("naive edit", "ALE edit")


def summary(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the objects of one method's scores, one entry a scene.

    leaked: objects in which the judge finds the colour that another object was to get.
    """
    objects = [entry for scene in scores for entry in scene["objects"]]
    leaked = 0
    for scene in scores:
        for entry in scene["objects"]:
            others = [other["asked"] for other in scene["objects"] if other is not entry]
            leaked += any(entry["found"]["color"] == asked["color"] for asked in others)
    decibels = [scene["background_psnr"] for scene in scores]
    return {
        "scenes": len(scores),
        "scenes_right": sum(all(e["correct"] for e in scene["objects"]) for scene in scores),
        "objects": len(objects),
        "objects_right": sum(entry["correct"] for entry in objects),
        "objects_leaked": leaked,
        "background_psnr": round(sum(decibels) / len(decibels), 2),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The summaries as Markdown."""
    lines = [
        "| method | scenes right | objects right | leaked | background PSNR |",
        "|---|---|---|---|---|",
    ]
    for method, r in results.items():
        lines.append(
            f"| {method} | {r['scenes_right']} / {r['scenes']} "
            f"| {r['objects_right']} / {r['objects']} | {r['objects_leaked']} / {r['objects']} "
            f"| {r['background_psnr']} dB |"
        )
    return "\n".join(lines)


def run_scenes(
    server: str, seeds: range, out: Path, variant: str = "paper"
) -> dict[str, dict[str, Any]]:
    """Run the scenes on a server, write their pictures below `out`, and summarise both methods."""
    scores = []
    for seed in seeds:
        options = ["--server", server, "--seed", str(seed), "--out", str(out / f"scene{seed}")]
        args = demo_arguments([*options, "--variant", variant])
        args.started_at = time.time()
        scores.append(asyncio.run(run_job(args)))
    by_method = ([scene["naive"] for scene in scores], scores)
    return {method: summary(s) for method, s in zip(METHODS, by_method, strict=True)}


def stack(paths: Sequence[Path]) -> Image.Image:
    """Pictures of one width below each other."""
    pictures = [Image.open(path) for path in paths]
    out = Image.new("RGB", (pictures[0].width, sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        out.paste(picture, (0, top))
        top += picture.height
    return out


def main(argv: Sequence[str]) -> int:
    def run() -> None:
        args = scenes_arguments(argv)
        seeds = range(args.first, args.first + args.count)
        results = run_scenes(args.server, seeds, args.out, args.variant)
        shown = [args.out / f"scene{seed}" / "comparison.png" for seed in seeds[:3]]
        text = json.dumps(results, indent=2) + "\n"
        contents = (as_png(stack(shown)), text.encode("utf-8"))
        write_files(args.out, dict(zip(SCENES_FILES, contents, strict=True)))
        print(table(results))

    return guard("bench scenes", run)
