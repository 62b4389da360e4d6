"""The demo bench: `dev.py bench demo` edits, scores and reports.

Two passes over files below --out: editing through a ComfyUI (editing.py), then scoring
(scoring_pass.py). Both go on where they were stopped.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..headless import ComfyClient
from .dataset import Dataset, write_bytes
from .demo_scenes import demo_dataset, seeds_use
from .editing import STALE, Plan, ProgressLine, edit_all, pending, state_of
from .judging import weights_key
from .main_job import guarded, pack_version
from .methods import Method, named_methods
from .options import bench_demo_arguments
from .report import Results, markdown, page
from .scoring_pass import demo_metrics, score

Settings = dict[str, dict[str, Any]]


def demo_results(
    args: argparse.Namespace,
    dataset: Dataset,
    count: int,
    methods: Sequence[Method],
    settings: Settings | None = None,
) -> Results:
    """Both passes over the first `count` edits of a data set."""
    edits = dataset.edits[:count]
    context = weights_key() + pack_version()
    plan = Plan(dataset, edits, methods, context=context, settings=settings)
    failed = told_stale(plan) if args.score_only else edited(plan, args.server)
    metrics = demo_metrics(args.lpips)
    scored = {
        m.name: score(
            dataset, [e for e in edits if f"{m.name}/{e.id}" not in failed], m.name, metrics, print
        )
        for m in methods
    }
    if not any(scored.values()):
        raise ValueError(
            f"There is no image below {dataset.folder.parent} to score. Run without --score-only."
        )
    return Results(dataset, edits, tuple(methods), scored, metrics.missing)


def edited(plan: Plan, server: str) -> set[str]:
    """The first pass; names of the jobs that failed, which are told and not to be scored."""
    left = pending(plan.jobs, print)
    print(
        f"{plan.dataset.name}: {len(plan.jobs)} images, {len(plan.jobs) - len(left)} are there.",
        flush=True,
    )
    if not left:
        return set()
    progress = ProgressLine(len(left), sys.stdout.isatty())
    outcome = asyncio.run(edit_all([server], left, progress))
    if outcome.made:
        print(f"\n{outcome.made} images, {outcome.seconds / outcome.made:.2f} s each")
    for name, why in outcome.failed.items():
        print(f"{name} FAILED: {why}")
    return set(outcome.failed)


def told_stale(plan: Plan) -> set[str]:
    """Say how many images were made with other settings; they are scored as they are."""
    stale = sum(state_of(job) == STALE for job in plan.jobs)
    if stale:
        print(f"{plan.dataset.name}: {stale} of {len(plan.jobs)} images {STALE}.")
    return set()


def versions(args: argparse.Namespace) -> dict[str, str]:
    """Of the pack, and of the server where there is one."""

    async def ask() -> dict[str, str]:
        async with ComfyClient(args.server) as client:
            return await client.versions()

    return {
        "ale_edit": pack_version(),
        "demo weights": weights_key(),
        **({} if args.score_only else asyncio.run(ask())),
    }


def set_up(
    args: argparse.Namespace, results: Results, command: str, settings: Settings | None = None
) -> dict[str, Any]:
    """What a report says of how it was made."""
    about = results.dataset.about
    first, last = about["scene seeds"]
    return {
        "command": command,
        "scene seeds": f"{first} to {last}, for {about['seeds are for']}",
        "edits": f"{len(results.edits)} of {len(results.dataset.edits)}",
        "settings": settings or "those of workflows/api/ale_edit.json",
        "versions": ", ".join(f"{k} {v}" for k, v in versions(args).items()),
    }


def write_report(out: Path, name: str, results: Results, setup: Mapping[str, Any]) -> None:
    """NAME.md, NAME.json and NAME.html below `out`."""
    content = {"setup": dict(setup), "missing": results.missing, "methods": results.summary()}
    texts = {
        "md": f"# Demo bench\n\n{markdown(results, setup)}",
        "json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "html": page("ALE-Edit on the demo bench", results, setup),
    }
    for kind, text in texts.items():
        write_bytes(out / f"{name}.{kind}", text.encode("utf-8"))


def parsed_settings(texts: Sequence[str], first_seed: int, scenes: int) -> Settings:
    """--set Guider.target_guidance=4 as {"Guider": {"target_guidance": 4}}."""
    use = seeds_use(range(first_seed, first_seed + scenes))
    if texts and use != "choosing settings":
        raise ValueError(
            "--set is for choosing settings, and published tables keep theirs: give --first-seed "
            "10000 or higher with it."
        )
    settings: Settings = {}
    for text in texts:
        place, equals, value = text.partition("=")
        title, dot, name = place.rpartition(".")
        if not (equals and dot and title and name):
            raise ValueError(f"--set {text!r} is not of the form NODE.INPUT=VALUE.")
        try:
            settings.setdefault(title, {})[name] = json.loads(value)
        except ValueError:
            settings.setdefault(title, {})[name] = value
    return settings


def main(argv: Sequence[str]) -> int:
    def run() -> None:
        args = bench_demo_arguments(argv)
        settings = parsed_settings(args.set, args.first_seed, args.scenes)
        methods = named_methods(args.methods)
        name = "demo" if args.first_seed == 0 else f"demo{args.first_seed}"
        dataset = demo_dataset(
            args.out / name / "dataset", name, first_seed=args.first_seed, scenes=args.scenes
        )
        count = len(dataset.edits) if args.full else min(args.edits, len(dataset.edits))
        results = demo_results(args, dataset, count, methods, settings)
        words = [a for a in argv if not a.startswith("http")]
        words = words[: words.index("--server")] if "--server" in words else words
        setup = set_up(args, results, " ".join(["dev.py bench demo", *words]), settings)
        write_report(args.out, name, results, setup)
        print(markdown(results, setup))
        print(f"{name}.md, .json and .html are in {args.out.resolve()}")

    return guarded("bench demo", run)
