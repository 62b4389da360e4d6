"""The command line of edit.py: edits images through a ComfyUI that has the pack."""

import argparse
import asyncio
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from .batch import check_servers, edit_jobs
from .client import Progress
from .connection import address_problem
from .editors import ALE, editor_names
from .edits import SETTINGS, Model
from .errors import ComfyError, ServerGone
from .jobs import Job, JobDefaults, build_jobs
from .lock import alone_in
from .manifest import FILE, Manifest
from .output import print_anything
from .pack import pack_version
from .signals import end_as_by_ctrl_c
from .spreading import PATIENCE_S
from .table import Problems, Row, name_rows, read_table, rows_of, split_edit
from .tasks import Outcome
from .workflow import Workflow

SERVER = "http://127.0.0.1:8188"  # ComfyUI's own default
FAILED, WRONG_INPUT, CANNOT_GO_ON, STOPPED = 1, 2, 3, 130  # exit codes
MANY = 100  # rows, whose check takes a while
SHOWN = 20  # problems or failures that are printed
EPILOG = """\
examples:
  python edit.py edits.csv --checkpoint v1-5.safetensors --lora lcm-lora-sdv1-5.safetensors
  python edit.py --image photo.png --edit "wolf -> brown goat" --mask wolf.png \\
      --checkpoint LCM_Dreamshaper_v7.safetensors --lcm
  python edit.py --image photos/ --edit "dog -> cat" --checkpoint LCM.safetensors --lcm

A table needs the columns image and edits. Optional columns: masks, name, editor, source_prompt,
target_prompt, settings, and TITLE.INPUT for any input of any node of the workflow. The settings of
ale are
%(settings)s;
those of the other editors are the inputs of their nodes.

The editor ale (ALE-Edit) takes masks. Without masks it finds the objects from the words of the
edits, with the GroundingDINO and Segment Anything models of the server. cpam and mag-edit need
masks, and the other editors take none. Without --checkpoint, the demo model edits pictures of the
demo world, and the demo detector finds the objects.

Run the same command again to resume after a stop, or after you changed the table. An image is never
replaced by that of another edit: the earlier one is kept as NAME.kept-1.png.

exit codes:
  0    all images are there
  1    some rows failed or were cancelled
  2    something that you gave is wrong, or no ComfyUI answers; nothing was queued
  3    the run could not continue: all servers lost, no pack, another version, a full disk
  130  stopped

More: docs/headless.md"""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edit.py",
        description="Edit the objects of images by text, through a ComfyUI that has ALE-Edit.",
        epilog=EPILOG % {"settings": textwrap.fill(", ".join(SETTINGS), 98)},
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_what(
        parser.add_argument_group("what to edit: a table, or an image or folder with its edits")
    )
    _add_how(parser.add_argument_group("how"))
    _add_where(parser.add_argument_group("where"))
    parser.add_argument("--version", action="version", version=f"ALE-Edit {pack_version()}")
    return parser.parse_args(argv)


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "table", nargs="?", type=Path, metavar="TABLE", help="a table of edits, .csv or .jsonl"
    )
    what.add_argument("--image", type=Path, metavar="PATH", help="an image, or a folder of images")
    what.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar='"SOURCE -> TARGET"',
        help="an object and what it becomes, or 'SOURCE ->' to remove it and '-> TARGET' to add it "
        "(--editor cpam); repeat it for each object",
    )
    what.add_argument(
        "--mask",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a mask, white on the object; one for each --edit, in the same order; for a folder of "
        "images, a folder of masks with the same names",
    )
    what.add_argument(
        "--name",
        metavar="NAME",
        default="",
        help="name of the result, without ending; default: that of the image",
    )


def _add_how(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--editor",
        metavar="NAME",
        default="",
        help=f"the editor of rows that name none: {', '.join(editor_names())}; default: {ALE}",
    )
    how.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="a checkpoint that the server has; default: the demo model",
    )
    how.add_argument(
        "--lora", metavar="NAME", help="an LCM LoRA that the server has, for the checkpoint"
    )
    how.add_argument("--lcm", action="store_true", help="the checkpoint itself is an LCM")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting for all rows that do not give it themselves, for example --set type=color",
    )
    how.add_argument(
        "--workflow", type=Path, metavar="FILE", help="your own workflow, saved with Export (API)"
    )
    how.add_argument(
        "--result",
        metavar="TITLE",
        help="title of the node of that workflow that saves the edited image",
    )


def _add_where(where: argparse._ArgumentGroup) -> None:
    where.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help=f"a ComfyUI; repeat it to share the work between several; default: {SERVER}",
    )
    where.add_argument(
        "--out",
        type=Path,
        default=Path("edited"),
        metavar="DIR",
        help="folder for the results; default: edited",
    )
    where.add_argument("--check", action="store_true", help="check everything, and edit nothing")
    where.add_argument(
        "--redo", action="store_true", help="edit all images, including finished ones"
    )
    where.add_argument(
        "--any-version",
        action="store_true",
        help="accept a server with another version of the pack",
    )
    where.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_S,
        metavar="SECONDS",
        help=f"how long to wait while no server answers; default: {PATIENCE_S:.0f}",
    )


def read_rows(args: argparse.Namespace) -> list[Row]:
    if (args.table is None) == (args.image is None):
        raise Problems(["Give a table, or --image with --edit (--help shows both)."])
    if args.table is not None:
        if args.edit or args.mask or args.name:
            raise Problems(
                ["--edit, --mask and --name go with --image; a table has columns for them."]
            )
        return name_rows(read_table(args.table))
    if not args.edit:
        raise Problems(["--image needs --edit: what each object is, and what it becomes."])
    edits = [split_edit(edit) for edit in args.edit]
    return name_rows(rows_of(args.image, edits, args.mask, args.name))


def read_defaults(args: argparse.Namespace) -> JobDefaults:
    if args.workflow is not None and (args.checkpoint or args.lora or args.lcm):
        raise Problems(
            ["--workflow brings its own model. Set another with --set 'TITLE.INPUT=NAME'."]
        )
    if args.result is not None and args.workflow is None:
        raise Problems(["--result goes with --workflow. Give --workflow, or leave out --result."])
    settings = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise Problems([f"--set {text!r} is not of the form NAME=VALUE."])
        settings[name.strip()] = value.strip()
    model = Model(args.checkpoint, args.lora, args.lcm)
    workflow = Workflow.load(args.workflow) if args.workflow is not None else None
    return JobDefaults(model, settings, workflow, args.result, args.editor)


# -- what the person sees --------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


class BatchBar:
    """One line with what is done, what is at work, and the time left; in a file a line an image.

    Steps come from several threads.
    """

    def __init__(self, total: int, *, is_terminal: bool):
        self._total, self._is_terminal = total, is_terminal
        self._start, self._over, self._made = time.monotonic(), 0, 0
        self._shown, self._at_work = False, ""
        self._lock = threading.RLock()
        self._width = min(shutil.get_terminal_size((100, 24)).columns - 1, 120)

    def finish_job(self, job: Job, outcome: Outcome) -> None:
        with self._lock:
            self._over, self._made = outcome.over, outcome.made
            self._at_work = "" if self._at_work == job.name else self._at_work
            if job.name in outcome.failed:
                self.tell(f"failed: {outcome.failed[job.name]}")
            elif job.name in outcome.cancelled:
                self.tell(outcome.cancelled[job.name])
            elif not self._is_terminal:
                say(f"{self._over}/{self._total} {job.name}{self._estimate_left()}")
            if self._is_terminal:
                self._draw("")

    def progress(self, name: str, step: Progress) -> None:
        if not self._is_terminal or step.notice:  # which the spreader tells once
            return
        with self._lock:
            if step.ahead and not self._at_work:  # else it waits for one of ours
                self._draw(f"{name}: waiting, {step.ahead} before it")
            elif not step.ahead:
                self._at_work = name
                steps = f" {step.value}/{step.maximum}" if step.maximum else ""
                self._draw(f"{name}: {step.title}{steps}")

    def tell(self, text: str) -> None:
        """A sentence above the line."""
        with self._lock:
            if self._shown:
                print(f"\r{'':<{self._width}}\r", end="")
                self._shown = False
            say(text)

    def close(self) -> None:
        if self._shown:
            print(flush=True)
            self._shown = False

    def _estimate_left(self) -> str:
        if not self._made:
            return ""
        each = (time.monotonic() - self._start) / self._over
        left = round(each * (self._total - self._over))
        return f", {each:.1f} s each, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def _draw(self, at_work: str) -> None:
        full = 20 * self._over // max(self._total, 1)
        text = (
            f"[{'#' * full}{'-' * (20 - full)}] {self._over}/{self._total}{self._estimate_left()}"
        )
        line = f"{text}  {at_work}"[: self._width]
        print(f"\r{line:<{self._width}}", end="", flush=True)
        self._shown = True


def summary(outcome: Outcome, kept: int, out: Path) -> str:
    parts = [f"{outcome.made} made"]
    parts += [f"{kept} already there"] if kept else []
    parts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    parts += [f"{len(outcome.cancelled)} cancelled"] if outcome.cancelled else []
    return f"{', '.join(parts)}. Images and {FILE} are in {out.resolve()}"


# -- the whole -------------------------------------------------------------------------------------


def read_servers(args: argparse.Namespace) -> list[str]:
    servers = list(dict.fromkeys(url.rstrip("/") for url in args.server or [SERVER]))
    if problems := [problem for url in servers if (problem := address_problem(url))]:
        raise Problems(problems)
    return servers


def edit(args: argparse.Namespace, jobs: Sequence[Job], servers: Sequence[str]) -> int:
    """Check everything, and make what is to be made; the exit code."""
    notes: list[str] = []  # what will be done, which counts only once a server answers
    manifest = Manifest(args.out, notes.append)
    manifest.check_places(jobs)
    pending = manifest.pending(jobs, redo=args.redo)
    if pending or args.check:
        try:
            asyncio.run(check_servers(servers, pending or jobs, any_version=args.any_version))
        except ServerGone as error:
            raise Problems([str(error)]) from error
    for note in notes:
        say(note)
    if not pending and not args.check:
        say(summary(Outcome(), len(jobs), args.out))
        return 0
    if args.check:
        say(f"No problems found. {len(pending)} of {len(jobs)} images would be made.")
        return 0
    if args.checkpoint is None and args.workflow is None:
        say("There is no --checkpoint: the demo model edits, and it only knows the demo world.")
    bar = BatchBar(len(pending), is_terminal=sys.stdout.isatty())
    manifest.tell = bar.tell
    try:
        outcome = edit_jobs(
            pending,
            servers,
            manifest,
            tell=bar.tell,
            on_done=bar.finish_job,
            on_progress=bar.progress,
            patience_s=args.patience,
            redo=args.redo,
            any_version=args.any_version,
        )
    finally:
        bar.close()
    say(summary(outcome, len(jobs) - len(pending), args.out))
    return FAILED if outcome.failed or outcome.cancelled else 0


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    print_anything()
    args = arguments(argv)
    try:
        with end_as_by_ctrl_c():
            servers, rows, defaults = read_servers(args), read_rows(args), read_defaults(args)
            if len(rows) >= MANY:
                say(f"Checking {len(rows)} rows ...")
            jobs = build_jobs(rows, defaults, tell=say)
            with nullcontext() if args.check else alone_in(args.out):
                return edit(args, jobs, servers)
    except ValueError as error:
        lines = error.sentences if isinstance(error, Problems) else [str(error)]
        more = [f"... and {len(lines) - SHOWN} more."] if len(lines) > SHOWN else []
        return fail([*lines[:SHOWN], *more, "Nothing was queued."], WRONG_INPUT)
    except ComfyError as error:
        return fail([str(error)], CANNOT_GO_ON)
    except OSError as error:
        return fail(
            [f"{error}. Finished images are kept. Solve this, and run the same command again."],
            CANNOT_GO_ON,
        )
    except KeyboardInterrupt:
        return fail(["Stopped, and taken out of the queue. Run it again to resume."], STOPPED)


def fail(lines: Sequence[str], code: int) -> int:
    for line in lines:
        print(f"edit.py: {line}", file=sys.stderr)
    return code
