"""The parsers of the jobs' arguments, with their defaults and help; standard library only."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VARIANTS = ("paper", "published code")
EDIT_TYPES = ("color", "material", "object", "color and object", "object and material", "custom")
SUBSET = 300  # edits of the demo bench by default: one instance of everything
PATIENCE_S = 120  # without any server, before a run gives up
PICTURES = 30  # edits with pictures in a report
RELIABILITY_PARTS = ("queue", "interrupts", "edit-kills", "bench-kills", "hostile")
PIE_IMAGES = "annotation_images"  # PIE-Bench's own folder beside its mapping


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
        "images, and writes a report. A run that was stopped resumes where it was.",
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
        "the results, and write a report. A run that was stopped resumes where it was.",
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


def reliability_parser(parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="dev.py bench reliability",
        description="What people and machines do to a server, and what becomes of it: hostile "
        "inputs of all nodes, interrupts at every step, many edits, programs killed midway.",
        parents=list(parents),
        allow_abbrev=False,
    )
    options.add_argument(
        "--only",
        nargs="+",
        choices=RELIABILITY_PARTS,
        default=list(RELIABILITY_PARTS),
        metavar="PART",
        help=f"of {', '.join(RELIABILITY_PARTS)}; default: all",
    )
    options.add_argument(
        "--out", type=Path, metavar="FILE", help="also write FILE as JSON, and its tables as .md"
    )
    options.add_argument("--seed", **whole(0, least=0), help="of all that is drawn; default: 0")
    options.add_argument("--inputs", **whole(600), help="hostile inputs; default: 600")
    options.add_argument("--edits", **whole(200), help="queued edits; default: 200")
    options.add_argument("--kills", **whole(10), help="of edit.py, and of a bench; default: 10")
    options.add_argument("--quick", action="store_true", help="a little of each part")
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
