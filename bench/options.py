"""The arguments of the jobs over HTTP, `dev.py demo` and `dev.py bench NAME`, and their check.

Standard library only: dev.py reads and checks them here before there is any environment, and the
job reads the same ones here again. A wrong value is a ValueError of one sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ledger import check_places
from .parsers import (
    PIE_IMAGES,
    SUBSET,
    bench_demo_parser,
    dataset_parser,
    demo_parser,
    reliability_parser,
    run_parser,
    scenes_parser,
    tables_parser,
)

DATASET = "dataset.json"
MAKING = (
    "Give the place of one, or make one with `dev.py bench dataset ale photos --out NEW` "
    "(docs/bench.md)."
)
SCENE_OBJECTS = 2
SCENES_FILES = ("comparison.png", "scenes.json")
FAILED = 1  # exit codes of a job; 2 is argparse's, for a command line that is not understood
SERVER_FAILED = 3  # the server's log says more than the error
STOPPED = 130
OUTPUT_CLOSED = 141


def demo_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    """The demo's arguments, `edit` as pairs of source and target."""
    args = demo_parser(parents).parse_args(argv)
    if args.image is None and (args.edit or args.mask):
        raise ValueError("--edit and --mask go with --image; a demo scene brings its own.")
    if args.image is not None and (not args.edit or len(args.edit) != len(args.mask)):
        raise ValueError(
            f"{len(args.edit)} times --edit and {len(args.mask)} times --mask. "
            "Give each once per object, in the same order."
        )
    args.edit = [split_edit(text) for text in args.edit]
    if args.image is not None:
        check_file("--image", args.image)
    for mask in args.mask:
        check_file("--mask", mask)
    check_folder(args.out)
    check_places(args.out, demo_files(len(args.edit) or SCENE_OBJECTS), inputs_of(args))
    return args


def demo_files(objects: int) -> list[str]:
    """What the demo writes."""
    pictures = ("source", "edited", "reconstruction", "regions", "comparison")
    masks = (f"mask_{number}" for number in range(1, objects + 1))
    return [*(f"{name}.png" for name in (*pictures, *masks)), "scores.json"]


def inputs_of(args: argparse.Namespace) -> list[Path]:
    """The demo's input files."""
    return [path for path in (args.image, *args.mask) if path is not None]


def scenes_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = scenes_parser(parents).parse_args(argv)
    check_folder(args.out)
    check_places(args.out, SCENES_FILES)
    for seed in range(args.first, args.first + args.count):
        check_places(args.out / f"scene{seed}", demo_files(SCENE_OBJECTS))
    return args


def bench_demo_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = bench_demo_parser(parents).parse_args(argv)
    if args.full and args.edits != SUBSET:
        raise ValueError(f"--full means all edits, --edits {args.edits} some of them. Give one.")
    if args.full:
        args.edits = None
    return check_bench_arguments(args)


def tables_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    return check_bench_arguments(tables_parser(parents).parse_args(argv))


def run_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = check_bench_arguments(run_parser(parents).parse_args(argv))
    split_settings(args.set)
    path = args.dataset if args.dataset.name == DATASET else args.dataset / DATASET
    if not path.exists():
        raise ValueError(f"There is no data set {path}. {MAKING}")
    return args


def dataset_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = dataset_parser(parents).parse_args(argv)
    check_folder(args.out)
    if args.kind == "pie":
        check_file("MAPPING", args.source, "its mapping_file.json")
        args.images = args.images or args.source.parent / PIE_IMAGES
    if not (folder := args.images if args.kind == "pie" else args.source).is_dir():
        raise ValueError(f"There is no folder {folder}. Give the one that has the images.")
    return args


def reliability_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = reliability_parser(parents).parse_args(argv)
    if args.out is not None:
        check_folder(args.out.parent)
    return args


def check_bench_arguments(args: argparse.Namespace) -> argparse.Namespace:
    check_folder(args.out)
    for option, file in (("--lpips", args.lpips), ("--dino", args.dino)):
        if file is not None:
            check_file(option, file, "the file of its weights")
    if args.clip is not None and not (args.clip / "config.json").is_file():
        raise ValueError(
            f"--clip {args.clip} is not a CLIP model of transformers (no config.json in it). Give "
            "a folder such as one of openai/clip-vit-large-patch14, or leave --clip out."
        )
    if repeated := [url for k, url in enumerate(args.server) if url in args.server[:k]]:
        raise ValueError(f"--server {repeated[0]} is given twice. Give each server once.")
    if args.dask and not args.server:
        raise ValueError("--dask needs --server: the addresses of ComfyUIs that its workers reach.")
    return args


def split_settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """--set Guider.target_guidance=4 as {"Guider": {"target_guidance": 4}}."""
    settings: dict[str, dict[str, Any]] = {}
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


JOBS = {
    "demo": demo_arguments,
    "bench scenes": scenes_arguments,
    "bench dataset": dataset_arguments,
    "bench run": run_arguments,
    "bench demo": bench_demo_arguments,
    "bench tables": tables_arguments,
    "bench reliability": reliability_arguments,
}


def split_edit(text: str) -> tuple[str, str]:
    """(source, target), as headless/table.py has it, which cannot be imported without aiohttp; but
    ALE-Edit, which the demo runs, needs both."""
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not (source and arrow and target) or "->" in target or source.startswith("#"):
        raise ValueError(
            f'--edit {text!r} is not of the form "source -> target". Write it in '
            'quotes, for example --edit "wolf -> brown goat".'
        )
    return source, target


def check_file(option: str, path: Path, what: str = "an image file") -> None:
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder. Give {what}.")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ValueError(
            f"There is no file {path} ({option}). Give its path, absolute or from {Path.cwd()}."
        ) from None
    except OSError as error:
        raise ValueError(
            f"{option} {path} cannot be opened ({error.strerror}). Make it readable, or copy it."
        ) from error


def check_folder(out: Path) -> None:
    if existing := [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]:
        raise ValueError(f"--out {out}: {existing[0]} is a file. Give another folder.")


def fail(job: str, error: Exception | str, code: int = FAILED) -> int:
    """Print an error as one line, and give the exit code."""
    print(f"{job}: {error}", file=sys.stderr)
    return code
