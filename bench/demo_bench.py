"""The demo bench: `dev.py bench demo`, which is `bench run` on scenes of the demo world."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..headless.lock import alone_in
from .dataset import Dataset
from .demo_scenes import demo_dataset, seeds_use
from .editing import NodeInputs
from .main_job import GOES_ON, guard
from .methods import find_methods
from .options import bench_demo_arguments, split_settings
from .report import Results, markdown
from .runner import check_bench, command_of, exit_code_of, run_bench, set_up, write_report


def scene_facts(results: Results) -> dict[str, Any]:
    """Which scenes, and what their seeds are for."""
    about = results.dataset.about
    first, last = about["scene seeds"]
    return {"scene seeds": f"{first} to {last}, for {about['seeds are for']}"}


def demo_settings(args: argparse.Namespace) -> NodeInputs:
    """--set, which is for scenes that settings may be chosen on."""
    use = seeds_use(range(args.first_seed, args.first_seed + args.scenes))
    if args.set and use != "choosing settings":
        raise ValueError(
            "--set is for choosing settings, and published tables keep theirs: give --first-seed "
            "10000 or higher with it."
        )
    return split_settings(args.set)


def demo_of(args: argparse.Namespace) -> tuple[Dataset, Path]:
    """The data set, and where its images and scores go."""
    name = "demo" if args.first_seed == 0 else f"demo{args.first_seed}"
    out = args.out / name
    seeds = {"first_seed": args.first_seed, "scenes": args.scenes}
    return demo_dataset(out / "dataset", name, **seeds), out


def main(argv: Sequence[str]) -> int:
    def run() -> int:
        args = bench_demo_arguments(argv)
        settings, methods = demo_settings(args), find_methods(args.methods)
        dataset, out = demo_of(args)
        if args.check_only:
            check_bench(args, dataset, methods, out, settings)
            return 0
        command, title = command_of("bench demo", argv), "ALE-Edit on the demo bench"
        with alone_in(out):
            results = run_bench(args, dataset, methods, out, settings)
            setup = set_up(results, command, scene_facts(results), settings)
            write_report(args.out, dataset.name, title, results, setup, args.pictures)
        print(markdown(results, setup), flush=True)
        return exit_code_of("bench demo", [results])

    return guard("bench demo", run, GOES_ON)
