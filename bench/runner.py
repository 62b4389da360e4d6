"""Both passes over a data set: `dev.py bench run`, and under `bench demo` and `bench tables`.

Editing goes through one or more ComfyUI servers (editing.py), scoring reads files
(scoring_pass.py). Both resume where they were stopped.
"""

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..headless.editors import ALE, editor_files
from ..headless.edits import MASKED
from ..headless.lock import alone_in
from ..headless.pack import ROOT, pack_version
from ..headless.pictures import write_whole
from ..headless.tasks import Outcome
from ..headless.workers import Workers, local_workers
from ..progress import ProgressBar
from .dask_workers import dask_workers
from .dataset import Dataset, ImageEdit, read_dataset
from .editing import (
    STALE,
    NodeInputs,
    Plan,
    check_servers,
    edit_all,
    find_pending,
    image_path,
    read_versions,
    state_of,
)
from .main_job import GOES_ON, guard
from .methods import Method, find_methods
from .options import fail, run_arguments, split_settings
from .page import page
from .report import Results, markdown, reference_of
from .scoring_pass import metrics_for, score
from .worlds import own_model, warn_of_unknown_words


def run_bench(
    args: argparse.Namespace,
    dataset: Dataset,
    methods: Sequence[Method],
    out: Path,
    settings: NodeInputs | None = None,
) -> Results:
    """Edit and score the first edits of a data set. `args` are those of parsers.bench_parser;
    images and scores go below `out`, which the caller is alone in (lock.alone_in)."""
    edits = dataset.edits[: args.edits]
    plan = _plan(args, dataset, edits, methods, out, settings)
    # first, in case a file cannot be read
    metrics = metrics_for(dataset, args.clip, args.lpips, args.dino)
    outcome = _tell_stale(plan) if args.score_only else _make_images(plan, args)
    left_out = {**outcome.failed, **outcome.cancelled}
    scored = {
        m.name: score(
            dataset,
            [e for e in edits if f"{m.name}/{e.name}" not in left_out],
            m.name,
            metrics,
            out,
            print,
        )
        for m in methods
    }
    if not any(scored.values()):
        if left_out:
            raise ValueError(f"No image was made. The first: {next(iter(left_out.values()))}")
        raise ValueError(f"There is no image below {out} to score. Run without --score-only.")
    workflow = plan.workflow(edits[0], reference_of(methods)).nodes
    return Results(dataset, edits, tuple(methods), scored, metrics.missing, out, outcome, workflow)


def check_bench(
    args: argparse.Namespace,
    dataset: Dataset,
    methods: Sequence[Method],
    out: Path,
    settings: NodeInputs | None = None,
) -> None:
    """What run_bench would find wrong before it needs a server: settings, weights of metrics."""
    _plan(args, dataset, dataset.edits[:1], methods, out, settings)
    metrics_for(dataset, args.clip, args.lpips, args.dino)


def _plan(
    args: argparse.Namespace,
    dataset: Dataset,
    edits: Sequence[ImageEdit],
    methods: Sequence[Method],
    out: Path,
    settings: NodeInputs | None,
) -> Plan:
    checkpoint = getattr(args, "checkpoint", None)
    context = ("" if checkpoint else own_model().weights_key()) + pack_version()
    return Plan(
        dataset, edits, methods, out, context=context, settings=settings, checkpoint=checkpoint
    )


def exit_code_of(job: str, found: Sequence[Results]) -> int:
    """FAILED, which is said, if any image failed or was left out of the scores."""
    all_of_them = sum(len(results.edits) * len(results.methods) for results in found)
    scored = sum(len(edits) for results in found for edits in results.scored.values())
    if scored == all_of_them:
        return 0
    return fail(
        job,
        f"{all_of_them - scored} of {all_of_them} images failed or are not there; the report is of "
        "the others. Mend what is listed above, and give the same command again.",
    )


def _make_images(plan: Plan, args: argparse.Namespace) -> Outcome:
    """The first pass; what failed is reported."""
    left = find_pending(plan.tasks, print)
    there = len(plan.tasks) - len(left)
    print(f"{plan.dataset.name}: {len(plan.tasks)} images, {there} are there.", flush=True)
    if not left:
        return Outcome()
    if not args.dask:  # whose servers this machine may not reach
        check_servers(args.server, left)
    with ProgressBar("images", len(left), "image") as bar, workers_of(args) as workers:
        outcome = edit_all(
            left,
            workers,
            lambda _task, outcome: bar.move_to(outcome.over),
            bar.tell,
            patience_s=args.patience,
        )
    if outcome.made:
        print(f"{outcome.made} images, {outcome.seconds / outcome.made:.2f} s each")
    if len(outcome.by_server) > 1:
        print(", ".join(f"{url}: {n}" for url, n in outcome.by_server.items()))
    for name, why in outcome.failed.items():
        print(f"{name} FAILED: {why}")
    for why in outcome.cancelled.values():
        print(why)
    return outcome


def workers_of(args: argparse.Namespace) -> AbstractContextManager[Workers]:
    return dask_workers(args.dask, args.server) if args.dask else local_workers(args.server)


def _tell_stale(plan: Plan) -> Outcome:
    stale = sum(state_of(task) == STALE for task in plan.tasks)
    if stale:
        print(f"{plan.dataset.name}: {stale} of {len(plan.tasks)} images {STALE}.")
    return Outcome()


def set_up(
    results: Results, command: str, facts: Mapping[str, Any], settings: NodeInputs | None = None
) -> dict[str, Any]:
    """What a report says of how it was made."""
    own = own_model()
    versions = {"ale_edit": pack_version(), f"{own.name} weights": own.weights_key()}
    paths = [
        image_path(results.out, method, edit)
        for method, found in results.scored.items()
        for edit in found
    ]
    servers = Counter(read_versions(path) or "unknown" for path in paths)
    return {
        "command": command,
        "data set": f"{results.dataset.name}: {len(results.edits)} of "
        f"{len(results.dataset.edits)} edits, {len(results.dataset.images)} images",
        **facts,
        "settings": settings or "those of the workflows",
        "methods": {m.name: _what(m) for m in results.methods},
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "made on": "; ".join(f"{what} ({n} images)" for what, n in sorted(servers.items())),
    }


def _what(method: Method) -> Any:
    """A method's workflow, and its own settings."""
    path = MASKED if method.editor == ALE else editor_files()[method.editor].path
    spoiled = {"masks": f"{method.mask_error} {method.amount}"} if method.mask_error else {}
    sampling = "" if method.editor == ALE or method.inputs else ", steps and guidance of ale"
    workflow = f"{path.relative_to(ROOT).as_posix()}{sampling}"
    return {"workflow": workflow, **method.inputs, **spoiled}


def command_of(job: str, argv: Sequence[str]) -> str:
    """The command without what is of one machine: addresses of servers, and the start time."""
    words, left = [], iter(argv)
    for word in left:
        if word in ("--server", "--started-at", "--dask"):
            next(left, None)
        elif not word.startswith(("--server=", "--started-at=", "--dask=")):
            words.append(word)
    return shlex.join(["dev.py", *job.split(), *words])


def write_report(
    out: Path, name: str, title: str, results: Results, setup: Mapping[str, Any], pictures: int
) -> None:
    """NAME.md, NAME.json and NAME.html below `out`."""
    content = {
        "setup": dict(setup),
        "missing": dict(results.missing),
        "failed": dict(results.outcome.failed),
        "methods": results.summary(),
        "workflow": dict(results.workflow),
    }
    texts = {
        "md": f"# {title}\n\n{markdown(results, setup)}",
        "json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "html": page(title, results, setup, pictures),
    }
    for kind, text in texts.items():
        write_whole(out / f"{name}.{kind}", text.encode("utf-8"))
    print(f"{name}.md, .json and .html are in {out.resolve()}")


def _silent(_text: str) -> None:
    pass


def main(argv: Sequence[str]) -> int:
    def run() -> int:
        args = run_arguments(argv)
        methods, settings = find_methods(args.methods), split_settings(args.set)
        dataset = read_dataset(args.dataset, _silent if args.check_only else print)
        out = args.out / dataset.name
        if args.check_only:
            check_bench(args, dataset, methods, out, settings)
            return 0
        if args.checkpoint is None:
            pairs = [(o.source, o.target) for edit in dataset.edits for o in edit.objects]
            warn_of_unknown_words(phrase for pair in pairs for phrase in pair)
        facts = {"made": dataset.about, "checkpoint": args.checkpoint or "the demo model"}
        title = f"ALE-Edit on {dataset.name}"
        with alone_in(out):
            results = run_bench(args, dataset, methods, out, settings)
            setup = set_up(results, command_of("bench run", argv), facts, settings)
            write_report(args.out, dataset.name, title, results, setup, args.pictures)
        print(markdown(results, setup), flush=True)
        return exit_code_of("bench run", [results])

    return guard("bench run", run, GOES_ON)
