"""The paper's tables on the demo world: `dev.py bench tables`.

Each is a list of methods over the demo bench's runner; methods of one name share their images. The
tables go to --out, and with --write between the marks of a text such as docs/results.md.
"""

import argparse
import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..headless.lock import alone_in
from ..headless.pictures import write_whole
from .dataset import Dataset
from .demo_bench import scene_facts
from .demo_scenes import LARGE_SIZE, demo_dataset
from .demo_tasks import task_dataset
from .figure_table import FigureTable
from .main_job import GOES_ON, guard
from .methods import (
    ALE,
    BESIDE_ALE,
    BY_PAPERS,
    CODE,
    COMPONENTS,
    CPAM,
    CPAM_BACKGROUND,
    CPAM_REMOVE,
    DILATIONS,
    END_OF_TEXT,
    LCM,
    MASK_ERRORS,
    NAIVE,
    SCHEDULES,
    Method,
    find_methods,
)
from .options import tables_arguments
from .page import page
from .report import PIE_PRESERVATION, PRESERVATION, Results
from .runner import check_bench, exit_code_of, run_bench, set_up

SMALL = "demo"  # the folder of the scenes that all tables use
LARGE_COUNTS = (4, 6, 8)
LEGEND = "legend"  # the name of its marks, in a text that holds tables
TEXT_WIDTH = 100
LARGE_INSTANCES = 3  # of each type, count and scene; 300 edits of 20 scenes for each count


@dataclass(frozen=True)
class PaperTable:
    """A table of `name` in results.md; `counts`: objects an edit where it is about their number.
    task: of demo_tasks.py, whose edits and scores the table has in the place of the small scenes'.
    """

    name: str
    title: str
    methods: tuple[Method, ...]
    by_type: bool = False
    counts: tuple[int, ...] = ()
    task: str = ""


RELATED = find_methods(("cpam", "diffedit", "ledits"))
GRADIENTS = find_methods(("mag-token", "mag-spatial", "pix2pix-zero"))
"""They compute gradients for each edit, so their table has fewer edits."""
LEARNED = find_methods(("dpl", "locinv"))
"""They take minutes an edit, so their table has fewest."""


def choose_compared(methods: Sequence[Method]) -> list[Method]:
    """Those of the editors that ALE-Edit's paper compares with, and of SDEdit."""
    others = {method.editor for method in (*RELATED, *GRADIENTS, *LEARNED)}
    return [method for method in methods if method.editor not in others]


TABLES = (
    PaperTable("components", "Component ablation (the paper's table 13)", COMPONENTS),
    PaperTable("end-of-text", "End-of-text strategies (table 12)", END_OF_TEXT),
    PaperTable(
        "objects",
        f"Number of objects (table 3); from 4 on at {LARGE_SIZE}x{LARGE_SIZE}",
        (NAIVE, ALE),
        counts=(1, 2, 3, *LARGE_COUNTS),
    ),
    PaperTable("schedule", "Self-attention schedule (figure 11)", SCHEDULES, by_type=True),
    PaperTable("dilation", "Mask dilation, a fraction of the image's height", DILATIONS),
    PaperTable(
        "mask-errors", "Mask errors, by a fraction of the image's height", (NAIVE, *MASK_ERRORS)
    ),
    PaperTable("variants", "Paper and published code", (ALE, CODE), by_type=True),
    PaperTable(
        "editors",
        "Editors, with one model, steps and guidance",
        (NAIVE, ALE, *choose_compared(BESIDE_ALE)),
    ),
    PaperTable(
        "editors-paper",
        "Editors, with their papers' settings",
        (NAIVE, ALE, *choose_compared(BY_PAPERS)),
    ),
    PaperTable("related", "Related systems", (NAIVE, ALE, *RELATED)),
    PaperTable("gradients", "Related systems that optimise", (NAIVE, ALE, *GRADIENTS)),
    PaperTable("learned", "Related systems that learn words", (NAIVE, ALE, *LEARNED)),
    PaperTable("removal", "Object removal", CPAM_REMOVE, task="removal"),
    PaperTable("mixed", "One object goes while another changes", CPAM, task="mixed"),
    PaperTable("background", "Background change", CPAM_BACKGROUND, task="background"),
    PaperTable("lcm", "Latent consistency LoRA, guidance 1 and 2", (NAIVE, ALE, *LCM)),
)


def find_tables(names: Sequence[str]) -> tuple[PaperTable, ...]:
    known = {table.name: table for table in TABLES}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"There is no table {', '.join(map(repr, unknown))}. There are: {', '.join(known)}."
        )
    return tuple(known[name] for name in dict.fromkeys(names)) or TABLES


def make_table(
    table: PaperTable, args: argparse.Namespace
) -> tuple[list[Results], list[FigureTable]]:
    """Edit and score what a table needs, and lay it out."""
    if table.task:
        dataset = task_dataset(args.out / table.task / "dataset", table.task)
        results = run_bench(args, dataset, table.methods, args.out / table.task)
        return [results], results.tables()
    small = _small(args)
    if table.counts:
        return _by_count(table, args, small)
    results = run_bench(args, small, table.methods, args.out / SMALL)
    tables = results.tables()
    if table.by_type:
        tables += results.split_tables(by_count=False)
    return [results], tables


def _small(args: argparse.Namespace) -> Dataset:
    return demo_dataset(args.out / SMALL / "dataset")


def _by_count(
    table: PaperTable, args: argparse.Namespace, small: Dataset
) -> tuple[list[Results], list[FigureTable]]:
    """One set of tables for each number of objects: rows are methods."""
    found = [run_bench(args, small, table.methods, args.out / SMALL)]
    for k in (k for k in table.counts if k in LARGE_COUNTS):
        large = large_dataset(args.out, k)
        found.append(run_bench(args, large, table.methods, args.out / large.name))
    tables = []
    for place, title in enumerate(("Edited objects", PRESERVATION, PIE_PRESERVATION)):
        rows: list[tuple[str, ...]] = []
        columns: tuple[str, ...] = ()
        for results in found:
            columns, own = _count_rows(results, place)
            rows += own
        tables.append(FigureTable(title, ("objects", *columns), tuple(rows)))
    return found, tables


def _count_rows(results: Results, place: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Rows of (objects, method, figures...) for each number of objects that an edit has."""
    columns: tuple[str, ...] = ()
    rows = []
    for count in results.counts():
        edits = tuple(e for e in results.edits if len(e.objects) == count)
        table = replace(results, edits=edits).tables()[place]
        columns = table.columns
        rows += [(str(count), *row) for row in table.rows]
    return columns, rows


def large_name(count: int) -> str:
    return f"objects{count}"


def large_dataset(out: Path, count: int) -> Dataset:
    """Edits of `count` objects at once on images of 256x256."""
    name = large_name(count)
    return demo_dataset(
        out / name / "dataset",
        name,
        counts=(count,),
        instances=LARGE_INSTANCES,
        size=LARGE_SIZE,
    )


def command_of(table: PaperTable, args: argparse.Namespace) -> str:
    words = ["dev.py", "bench", "tables", "--only", table.name, "--edits", str(args.edits)]
    for option, file in (("--lpips", args.lpips), ("--dino", args.dino)):
        words += [option, file.name] if file else []
    return shlex.join(words)


def section(setup: Mapping[str, Any], results: Results, tables: Sequence[FigureTable]) -> str:
    """The Markdown of a table: the figures, then how they were made."""
    made_by = (
        f"`python3 {setup['command']}`; scene seeds {setup['scene seeds']}; {setup['versions']}."
    )
    return "\n\n".join([*(t.markdown() for t in tables), *_wrap([*results.remarks(), made_by])])


def legend_of(results: Results) -> str:
    """What the figures of all tables mean: once for a text with several."""
    return "\n\n".join(_wrap(results.legend()))


def _wrap(paragraphs: Sequence[str]) -> list[str]:
    wrapper = textwrap.TextWrapper(TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [wrapper.fill(paragraph) for paragraph in paragraphs]


def renew_table(text: str, name: str, content: str) -> str:
    """A text with what stands between the marks of a table replaced; ValueError without them."""
    first, last = f"<!-- table {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(
            f"The text for --write must have {first} and {last} once. Add these two lines where "
            "the table is to stand."
        )
    return pattern.sub(lambda _: f"{first}\n\n{content}\n\n{last}", text)


def main(argv: Sequence[str]) -> int:
    def run() -> int:
        args = tables_arguments(argv)
        chosen = find_tables(args.only)
        text = args.write.read_text(encoding="utf-8") if args.write else None
        for table in chosen:  # before any work
            text = renew_table(text, table.name, "") if text else text
        text = renew_table(text, LEGEND, "") if text else text
        if args.check_only:
            small, methods = _small(args), [m for table in chosen for m in table.methods]
            check_bench(args, small, methods, args.out / SMALL)
            return 0
        with ExitStack() as alone:  # in all folders until the last table is written
            for folder in folders_of(chosen, args.out):
                alone.enter_context(alone_in(folder))
            found = make_tables(chosen, args)
        print(f"Tables and pages are in {(args.out / 'tables').resolve()}", flush=True)
        return exit_code_of("bench tables", found)

    return guard("bench tables", run, GOES_ON)


def folders_of(chosen: Sequence[PaperTable], out: Path) -> list[Path]:
    """Where the images of these tables go; that of the small scenes is a part of all that have no
    task."""
    counts = {count for table in chosen for count in table.counts if count in LARGE_COUNTS}
    names = dict.fromkeys(table.task or SMALL for table in chosen)
    return [out / name for name in (*names, *map(large_name, sorted(counts)))]


def make_tables(chosen: Sequence[PaperTable], args: argparse.Namespace) -> list[Results]:
    """Make, write and print each table."""
    found = []
    for table in chosen:
        results, tables = make_table(table, args)
        found += results
        setup = set_up(results[0], command_of(table, args), scene_facts(results[0]))
        content, legend = section(setup, results[0], tables), legend_of(results[0])
        whole = f"{content}\n\n{legend}"
        write_table(args.out / "tables", table, results, setup, whole, args.pictures)
        if args.write:  # table by table, so that a stopped run keeps what it has
            text = renew_table(args.write.read_text(encoding="utf-8"), table.name, content)
            text = text if table.task else renew_table(text, LEGEND, legend)
            write_whole(args.write, text.encode("utf-8"))
        print(f"## {table.title}\n\n{whole}\n", flush=True)
    return found


def write_table(
    out: Path,
    table: PaperTable,
    results: Sequence[Results],
    setup: Mapping[str, Any],
    content: str,
    pictures: int,
) -> None:
    """NAME.md, NAME.json, and a page for each data set."""
    write_whole(out / f"{table.name}.md", f"# {table.title}\n\n{content}\n".encode())
    content_json = {
        "setup": dict(setup),
        "missing": dict(results[0].missing),
        "data sets": {r.dataset.name: r.summary() for r in results},
    }
    text = json.dumps(content_json, indent=1, allow_nan=False) + "\n"
    write_whole(out / f"{table.name}.json", text.encode("utf-8"))
    for r in results:
        name = table.name if len(results) == 1 else f"{table.name}-{r.dataset.name}"
        write_whole(out / f"{name}.html", page(table.title, r, setup, pictures).encode("utf-8"))
