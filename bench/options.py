"""The arguments of the jobs over HTTP, `dev.py demo` and `dev.py bench NAME`, and their check.

Standard library only: dev.py reads and checks them here before there is any environment, and the
job reads the same ones here again. A wrong value is a ValueError of one sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VARIANTS = ("paper", "published code")
EDIT_TYPES = ("color", "material", "object", "color and object", "object and material", "custom")
SUBSET = 300  # edits of the demo bench by default: one instance of everything
PATIENCE_S = 120  # without any server, before a run gives up
PICTURES = 30  # edits with pictures in a report
PIE_IMAGES = "annotation_images"  # PIE-Bench's own folder beside its mapping
DATASET = "dataset.json"
MAKING = (
    "Give the place of one, or make one with `dev.py bench dataset ale photos --out NEW` "
    "(docs/bench.md)."
)
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
    if args.full:
        args.edits = None
    return checked_bench(args)


def tables_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    return checked_bench(tables_parser(parents).parse_args(argv))


def run_arguments(
    argv: Sequence[str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.Namespace:
    args = checked_bench(run_parser(parents).parse_args(argv))
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


def checked_bench(args: argparse.Namespace) -> argparse.Namespace:
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
}


def demo_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = new_parser(
        "dev.py demo",
        "Edit the objects of a demo scene, or of your own image, through a ComfyUI server: with "
        "ALE-Edit, and with the plain target prompt (the naive edit).",
        parents,
        out="output/demo",
    )
    options.add_argument("--seed", **whole(0, least=0), help="of the demo scene and the noise")
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
    options.add_argument("--first", **whole(0, least=0), help="seed of the first scene")
    options.add_argument("--count", **whole(10), help="number of scenes")
    return options


def bench_demo_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = bench_parser(
        "dev.py bench demo",
        "ALE-Bench's construction on the demo world: edits scenes by several methods, scores the "
        "images, and writes a report. A run that was stopped goes on where it was.",
        parents,
    )
    options.add_argument("--full", action="store_true", help="all 3,000 edits")
    add_methods(options)
    options.add_argument("--first-seed", **whole(0, least=0), help="seed of the first scene")
    options.add_argument("--scenes", **whole(20), help="number of scenes")
    add_settings(options, "to choose one; scenes from 10000 on only")
    return options


def add_methods(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="which (docs/bench.md lists them); default: naive, the components, published code",
    )


def add_settings(options: argparse.ArgumentParser, purpose: str) -> None:
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help=f"another setting of the workflow, {purpose}",
    )


def run_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = bench_parser(
        "dev.py bench run",
        "Edit the images of a data set by several methods, over one or more ComfyUI servers, score "
        "the results, and write a report. A run that was stopped goes on where it was.",
        parents,
        edits=None,
    )
    options.add_argument("dataset", type=Path, metavar="DATASET", help="folder of dataset.json")
    add_methods(options)
    options.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="a checkpoint that the servers have; then guidance is 1 (source) and 2 (target). "
        "Without it the demo model edits, which knows the demo world only",
    )
    add_settings(options, "for all methods")
    return options


def dataset_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="dev.py bench dataset",
        description="Make a data set for `bench run`: of ALE-Bench's construction from your "
        "images, masks and words, or from PIE-Bench. docs/bench.md describes what they hold.",
        parents=list(parents),
        allow_abbrev=False,
    )
    kinds = options.add_subparsers(dest="kind", required=True, metavar="KIND")
    ale = kinds.add_parser("ale", help="5 types of edit x 1 to 3 objects x 10 instances of each")
    ale.add_argument("source", type=Path, metavar="FOLDER", help="images, masks/, attributes.json")
    ale.add_argument(
        "--counts", type=at_least(1), nargs="+", default=[1, 2, 3], metavar="N", help="1 2 3"
    )
    ale.add_argument("--instances", **whole(10), help="default: 10")
    pie = kinds.add_parser("pie", help="PIE-Bench's edits of some types")
    pie.add_argument("source", type=Path, metavar="MAPPING", help="mapping_file.json")
    pie.add_argument(
        "--images", type=Path, metavar="DIR", help=f"default: {PIE_IMAGES} beside the mapping"
    )
    pie.add_argument(
        "--types",
        nargs="+",
        choices=[str(k) for k in range(10)],
        default=["1", "4", "6", "7"],
        metavar="N",
        help="editing_type_id; default: 1 4 6 7, as in the paper's table 14",
    )
    for parser in (ale, pie):
        parser.add_argument("--seed", **whole(0, least=0), help="of all that is drawn")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
        parser.add_argument("--name", metavar="NAME", help="of reports; default: that of --out")
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
    prog: str,
    description: str,
    parents: Sequence[argparse.ArgumentParser],
    edits: int | None = SUBSET,
) -> argparse.ArgumentParser:
    """The options that `bench run`, `bench demo` and `bench tables` share."""
    options = new_parser(
        prog, description, parents, out="output/bench", has_variant=False, several=True
    )
    options.add_argument(
        "--edits",
        **whole(edits),
        help=f"the first N edits, which are balanced; default: {edits or 'all'}",
    )
    options.add_argument(
        "--dask",
        default="",
        metavar="ADDRESS",
        help="spread the work over the workers of this dask scheduler",
    )
    options.add_argument(
        "--patience",
        **whole(PATIENCE_S, least=0, metavar="SECONDS"),
        help="how long to wait where no server, or no worker, answers any more; default: "
        f"{PATIENCE_S}",
    )
    options.add_argument(
        "--clip",
        type=Path,
        metavar="DIR",
        help="a CLIP model of transformers, for TE, TI and the other similarities",
    )
    options.add_argument(
        "--lpips",
        type=Path,
        metavar="FILE",
        help="torchvision's squeezenet1_1-*.pth, or its features alone, for LPIPS",
    )
    options.add_argument(
        "--dino",
        type=Path,
        metavar="FILE",
        help="dino_vitbase8_pretrain.pth, for the structure distance",
    )
    options.add_argument(
        "--pictures",
        **whole(PICTURES, least=0),
        help=f"edits whose pictures the report shows; default: {PICTURES}",
    )
    options.add_argument(
        "--score-only", action="store_true", help="score the images that are there; edit nothing"
    )
    # dev.py's, before it starts a server: check what needs none, and end
    options.add_argument("--check-only", action="store_true", help=argparse.SUPPRESS)
    return options


def new_parser(
    prog: str,
    description: str,
    parents: Sequence[argparse.ArgumentParser],
    *,
    out: str,
    has_variant: bool = True,
    several: bool = False,
) -> argparse.ArgumentParser:
    """The options that all jobs have; `several`: --server may be given more than once."""
    options = argparse.ArgumentParser(
        prog=prog, description=description, parents=list(parents), allow_abbrev=False
    )
    if several:
        options.add_argument(
            "--server",
            action="append",
            default=[],
            metavar="URL",
            help="use this running ComfyUI, with the pack in it; once for each, to use several",
        )
    else:
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


def whole(default: int | None, *, least: int = 1, metavar: str = "N") -> dict[str, Any]:
    """What `add_argument` takes for an option that is a whole number, `least` or more."""
    return {"type": at_least(least), "default": default, "metavar": metavar}


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def split_edit(text: str) -> tuple[str, str]:
    """(source, target), as headless/table.py has it; that cannot be imported without aiohttp."""
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
