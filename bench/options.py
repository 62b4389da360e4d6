"""The arguments of the jobs over HTTP, `dev.py demo` and `dev.py bench NAME`, and their check.

Standard library only: dev.py reads and checks them here before there is any environment, and the
job reads the same ones here again. A wrong value is a ValueError of one sentence.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

VARIANTS = ("paper", "published code")
EDIT_TYPES = ("color", "material", "object", "color and object", "object and material", "custom")
SUBSET = 300  # edits of the demo bench by default: one instance of everything
SERVER_FAILED = 3  # exit code of a job where the server's log says more than the error


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
    return args


def scenes_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = scenes_parser(parents).parse_args(argv)
    check_folder(args.out)
    return args


def bench_demo_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = bench_demo_parser(parents).parse_args(argv)
    if args.full and args.edits != SUBSET:
        raise ValueError(f"--full means all edits, --edits {args.edits} some of them. Give one.")
    return checked_bench(args)


def tables_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    return checked_bench(tables_parser(parents).parse_args(argv))


def checked_bench(args: argparse.Namespace) -> argparse.Namespace:
    check_folder(args.out)
    if args.lpips is not None:
        check_file("--lpips", args.lpips)
    return args


JOBS = {
    "demo": demo_arguments,
    "bench scenes": scenes_arguments,
    "bench demo": bench_demo_arguments,
    "bench tables": tables_arguments,
}


def demo_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = new_parser(
        "dev.py demo",
        "Edit the objects of a demo scene, or of your own image, through a ComfyUI server: with "
        "ALE-Edit, and with the plain target prompt (the naive edit).",
        parents,
        out="output/demo",
    )
    options.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the demo scene and the noise"
    )
    options.add_argument(
        "--image", type=Path, metavar="FILE", help="your own image, 512 to 768 pixels"
    )
    options.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar='"SOURCE -> TARGET"',
        help="an object of --image and what it becomes; once per object",
    )
    options.add_argument(
        "--mask",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="where the object of the --edit of the same place is, white on the object",
    )
    options.add_argument(
        "--edit-type",
        choices=EDIT_TYPES,
        help="its schedule; object for --image, color for a scene",
    )
    for branch in ("source", "target"):
        options.add_argument(
            f"--{branch}-guidance", type=float, metavar="SCALE", help=f"of the {branch} branch"
        )
    options.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="a checkpoint the server has; then guidance is 1 (source) and 2 (target)",
    )
    return options


def scenes_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = new_parser(
        "dev.py bench scenes",
        "How often both objects of a demo scene come out right, with ALE-Edit and naively.",
        parents,
        out="output/scenes",
    )
    options.add_argument(
        "--first", type=at_least(0), default=0, metavar="N", help="seed of the first scene"
    )
    options.add_argument(
        "--count", type=at_least(1), default=10, metavar="N", help="number of scenes"
    )
    return options


def bench_demo_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = bench_parser(
        "dev.py bench demo",
        "ALE-Bench's construction on the demo world: edits scenes by several methods, scores the "
        "images, and writes a report. A run that was stopped goes on where it was.",
        parents,
    )
    options.add_argument("--full", action="store_true", help="all 3,000 edits")
    options.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="which (docs/bench.md lists them); default: naive, the components, published code",
    )
    options.add_argument(
        "--first-seed", type=at_least(0), default=0, metavar="N", help="seed of the first scene"
    )
    options.add_argument(
        "--scenes", type=at_least(1), default=20, metavar="N", help="number of scenes"
    )
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="another setting of the workflow, to choose one; scenes from 10000 on only",
    )
    return options


def tables_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = bench_parser(
        "dev.py bench tables",
        "The paper's ablations on the demo world, and further ones, into docs/results.md. Images "
        "of `bench demo` in the same folder are used.",
        parents,
    )
    options.add_argument(
        "--only", nargs="+", default=[], metavar="TABLE", help="some tables (docs/bench.md)"
    )
    options.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="renew the tables between this file's marks, for example docs/results.md",
    )
    return options


def bench_parser(
    prog: str, description: str, parents: Sequence[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """The options that `bench demo` and `bench tables` share."""
    options = new_parser(prog, description, parents, out="output/bench", has_variant=False)
    options.add_argument(
        "--edits",
        type=at_least(1),
        default=SUBSET,
        metavar="N",
        help=f"the first N edits, which are balanced; default {SUBSET}, a smoke test 15",
    )
    options.add_argument(
        "--lpips", type=Path, metavar="FILE", help="torchvision's squeezenet1_1-*.pth, for LPIPS"
    )
    options.add_argument(
        "--score-only", action="store_true", help="score the images that are there; edit nothing"
    )
    return options


def new_parser(
    prog: str,
    description: str,
    parents: Sequence[argparse.ArgumentParser],
    *,
    out: str,
    has_variant: bool = True,
) -> argparse.ArgumentParser:
    """The options that all jobs have."""
    options = argparse.ArgumentParser(
        prog=prog, description=description, parents=list(parents), allow_abbrev=False
    )
    options.add_argument(
        "--server",
        default="",
        metavar="URL",
        help="use this running ComfyUI, with the pack in it, instead of starting one",
    )
    options.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help=f"default: {out}"
    )
    if has_variant:
        options.add_argument(
            "--variant", choices=VARIANTS, default=VARIANTS[0], help="of the method"
        )
    options.add_argument("--started-at", type=float, default=time.time(), help=argparse.SUPPRESS)
    return options


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def split_edit(text: str) -> tuple[str, str]:
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not (source and arrow and target):
        raise ValueError(
            f'--edit {text!r} is not of the form "source -> target". Write it in '
            'quotes, for example --edit "wolf -> brown goat".'
        )
    return source, target


def check_file(option: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder. Give an image file.")
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


def fail(job: str, error: Exception, code: int = 1) -> int:
    """Print an error as one line, and give the exit code."""
    print(f"{job}: {error}", file=sys.stderr)
    return code
