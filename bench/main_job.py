"""The main job over ComfyUI's HTTP API: `dev.py demo` runs this against the server it started.

A demo scene, or a person's own image and masks, goes through workflows/api/ale_edit.json twice:
as it is, and with every part of the method switched off (the naive edit). Pictures and scores.json
go to --out.
"""

import argparse
import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..headless import (
    ComfyClient,
    ComfyError,
    Interrupted,
    NodeFailed,
    Progress,
    Workflow,
    WorkflowRejected,
)
from ..headless.edits import fill_workflow
from ..headless.output import print_anything
from ..headless.pack import pack_version
from ..headless.pictures import as_png, crop_centre, name_of_upload, upload, write_whole
from ..headless.signals import end_as_by_ctrl_c
from ..headless.spreading import RepeatedFailure
from ..progress import ProgressBar
from ..scoring.preservation import background_mse, psnr_of
from .ledger import LEDGER, check_places, make_ledger
from .options import (
    FAILED,
    OUTPUT_CLOSED,
    SERVER_FAILED,
    STOPPED,
    demo_arguments,
    fail,
    inputs_of,
)
from .own_input import own_input
from .pictures import side_by_side
from .worlds import warn_of_unknown_words

SAVED = ("edited", "reconstruction", "regions")  # titles "Save edited", ... of the workflow
KEPT = "What was made is kept: mend that, and give the same command again."
GOES_ON = "Stopped, and taken out of the queue. Give the same command again to resume."
NAIVE = {"ore": False, "rgb_cam": False, "blending": False}


@dataclass(frozen=True)
class MaskedEdit:
    """One object: its words, its mask, and what the judge must find there (a demo scene's only)."""

    source: str
    target: str
    mask: Image.Image
    asked: dict[str, str] | None


@dataclass(frozen=True)
class WorkflowResult:
    """One run of the workflow."""

    images: dict[str, Image.Image]
    seconds: float


class AttributeClassifier(Protocol):
    """Reads what an object looks like."""

    def read(self, image: Tensor, mask: Tensor) -> Any:
        """The words of an object (image (H, W, 3), mask (H, W)), as attributes, with `agrees`."""
        ...


# -- the input -------------------------------------------------------------------------------------


def own_edits(args: argparse.Namespace) -> tuple[Image.Image, list[MaskedEdit]]:
    image, masks = own_input(args, tell=print)
    return image, [
        MaskedEdit(source, target, mask, None)
        for (source, target), mask in zip(args.edit, masks, strict=True)
    ]


def to_picture(tensor: Tensor) -> Image.Image:
    """Image (H, W, 3) or mask (H, W) in [0, 1] -> 8-bit picture."""
    return Image.fromarray((tensor * 255).round().to(torch.uint8).cpu().numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255)


# -- the server ------------------------------------------------------------------------------------


async def run_workflow(client: ComfyClient, workflow: Workflow, label: str) -> WorkflowResult:
    start = time.monotonic()
    with ProgressBar(label, unit="step", every_s=None, keep=False) as bar:
        saved = await client.run(workflow, partial(show_progress, bar, label))
    seconds = time.monotonic() - start
    print(f"{label}: {seconds:.1f} s", flush=True)
    images = {}
    for image in saved:
        name = image.title.removeprefix("Save ")
        images[name] = Image.open(io.BytesIO(await client.fetch(image))).convert("RGB")
    if missing := [f"Save {name}" for name in SAVED if name not in images]:
        raise ComfyError(f"The run ended, but nothing came from {', '.join(missing)}.")
    return WorkflowResult(images, seconds)


def show_progress(bar: ProgressBar, label: str, progress: Progress) -> None:
    """The steps of a node on a terminal, and what nodes say, which a file gets alone."""
    if progress.notice:
        bar.tell(f"{label}: {progress.sentence}")
    else:
        bar.move_to(
            progress.value, label=f"{label}, {progress.title}", total=progress.maximum or None
        )


# -- the scores ------------------------------------------------------------------------------------


def scores_of(
    source: Image.Image,
    edited: Image.Image,
    edits: Sequence[MaskedEdit],
    judge: AttributeClassifier | None,
) -> dict[str, Any]:
    """What the judge finds under each object's raw mask, and how well the background is kept."""
    pixels = to_tensor(edited)
    masks = [to_tensor(crop_centre(edit.mask, edited.size)) for edit in edits]
    objects = []
    for edit, mask in zip(edits, masks, strict=True):
        reading = judge.read(pixels, mask) if judge and edit.asked else None
        objects.append(
            {
                "source": edit.source,
                "target": edit.target,
                "asked": edit.asked,
                "found": reading and {word: getattr(reading, word) for word in edit.asked or ()},
                "correct": reading and reading.agrees(edit.asked or {}),
            }
        )
    background = torch.stack(masks).amax(0) < 0.5
    return {
        "objects": objects,
        "background_psnr": background_psnr(
            to_tensor(crop_centre(source, edited.size)), pixels, background
        ),
    }


def background_psnr(source: Tensor, edited: Tensor, background: Tensor) -> float | None:
    """PSNR in dB over background pixels, or None if there are none."""
    decibels = psnr_of(background_mse(source, edited, background))
    return None if isnan(decibels) else round(decibels, 2)


def table(scores: dict[str, Any]) -> str:
    """The scores as a few lines of text."""

    def words(found: dict[str, str] | None) -> str:
        return " ".join(reversed(found.values())) if found else "not judged"

    def cell(entry: dict[str, Any]) -> str:
        mark = {True: " (right)", False: " (wrong)", None: ""}[entry["correct"]]
        return words(entry["found"]) + mark

    rows = [["edit", "ALE edit", "naive edit"]]
    for ale, naive in zip(scores["objects"], scores["naive"]["objects"], strict=True):
        rows.append([f"{ale['source']} -> {ale['target']}", cell(ale), cell(naive)])
    decibels = [scores["background_psnr"], scores["naive"]["background_psnr"]]
    rows.append(
        ["background kept (PSNR)", *("-" if d is None else f"{d:.1f} dB" for d in decibels)]
    )
    rows.append(
        ["seconds", f"{scores['edit_seconds']:.1f}", f"{scores['naive']['edit_seconds']:.1f}"]
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# -- the whole -------------------------------------------------------------------------------------


async def run_job(args: argparse.Namespace) -> dict[str, Any]:
    own = args.image is not None
    if own:
        judge, (source, edits) = None, own_edits(args)
        if args.checkpoint is None:
            warn_of_unknown_words(phrase for edit in edits for phrase in (edit.source, edit.target))
    else:
        from .demo_scenes import demo_input
        from .judging import Judge

        judge, (source, edits) = Judge.load(), demo_input(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    async with ComfyClient(args.server) as client:
        triples = [(e.source, e.target, name_of_upload(e.mask)) for e in edits]
        workflow = fill_workflow(
            name_of_upload(source),
            triples,
            seed=args.seed,
            checkpoint=args.checkpoint,
            variant=args.variant,
            edit_type=args.edit_type or ("object" if own else None),
            guidance=(args.source_guidance, args.target_guidance),
        )
        uploads = (source, *(e.mask for e in edits))
        await client.check_workflow(workflow, [name_of_upload(picture) for picture in uploads])
        for picture in uploads:
            await upload(client, picture)
        ale = await run_workflow(client, workflow, "ALE edit")
        plain = workflow.copy()
        plain.fill("Method", **NAIVE)
        naive = await run_workflow(client, plain, "naive edit")
        versions = {"ale_edit": pack_version(), **await client.versions()}
    edited, naively = ale.images["edited"], naive.images["edited"]
    pictures = {"source": source, **{name: ale.images[name] for name in SAVED}}
    pictures |= {f"mask_{number}": edit.mask for number, edit in enumerate(edits, 1)}
    pictures["comparison"] = side_by_side(
        [
            ("source", crop_centre(source, edited.size)),
            ("naive edit", naively),
            ("ALE edit", edited),
        ]
    )
    naive_scores = scores_of(source, naively, edits, judge)
    scores = {
        **scores_of(source, edited, edits, judge),
        "edit_seconds": round(ale.seconds, 2),
        "total_seconds": round(time.time() - args.started_at, 2),
        "versions": versions,
        "naive": {**naive_scores, "edit_seconds": round(naive.seconds, 2)},
    }
    contents = {f"{name}.png": as_png(picture) for name, picture in pictures.items()}
    contents["scores.json"] = (json.dumps(scores, indent=2) + "\n").encode("utf-8")
    write_files(args.out, contents, inputs_of(args))
    return scores


def write_files(out: Path, contents: Mapping[str, bytes], inputs: Sequence[Path] = ()) -> None:
    """Write files into a folder; ValueError where one would replace a file of somebody else."""
    check_places(out, contents, inputs)
    write_whole(out / LEDGER, make_ledger(out, contents))
    for name, data in contents.items():
        write_whole(out / name, data)


def guard(job: str, run: Callable[[], int | None], stopped: str = "Stopped.") -> int:
    """The exit code of a job: its own, or that of an error, which is one line.

    stopped: said after Ctrl-C, or a signal that ends processes. Where nobody reads the output any
    more (`| head`), the job ends without a word.
    """
    print_anything()
    try:
        with end_as_by_ctrl_c():
            return run() or 0
    except KeyboardInterrupt:
        return fail(job, stopped, STOPPED)
    except BrokenPipeError:
        _discard_output()
        return OUTPUT_CLOSED
    except (ComfyError, ValueError, OSError) as error:
        cure = f". {KEPT}" if isinstance(error, OSError) else ""
        return fail(job, f"{error}{cure}", exit_code(error))


def _discard_output() -> None:
    """So that Python's own flush at the end finds a file that takes it."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: Exception) -> int:
    """SERVER_FAILED unless the person can mend it from the sentence alone."""
    if isinstance(error, RepeatedFailure):
        return exit_code(error.last)
    if isinstance(error, NodeFailed):  # ValueErrors are the nodes' own sentences
        return FAILED if error.exception_type == "ValueError" else SERVER_FAILED
    if isinstance(error, WorkflowRejected | Interrupted):
        return FAILED
    return SERVER_FAILED if isinstance(error, ComfyError) else FAILED


def main(argv: Sequence[str]) -> int:
    def run() -> None:
        args = demo_arguments(argv)
        scores = asyncio.run(run_job(args))
        print(f"\n{table(scores)}\n\nPictures and scores.json are in {args.out.resolve()}")

    return guard("demo", run)
