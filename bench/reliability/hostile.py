"""Hostile inputs over HTTP: what becomes of each, and whether it is a clear error."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...devtools.server import Server
from ...headless import ComfyClient, ComfyError, NodeFailed, WorkflowRejected
from ...headless.schema import PACK, Info
from .files import write_damaged_inversions
from .hostile_nodes import MARK
from .inputs import (
    LOOK,
    WHERE_FROM,
    Base,
    HostileInput,
    bases,
    choose,
    find_left_out,
    generate,
    nodes_of_pack,
    nodes_without_inputs,
)
from .serving import is_alive

REFUSED, SENTENCE, EDITED = "refused before the run", "a sentence of the node", "edited all right"
CLEAR = (REFUSED, SENTENCE, EDITED)
TIMEOUT_S = 180
LONGEST = 1500
"""Characters of a sentence that can be read."""
RAW = re.compile(
    r"Traceback|\w+Error\b|size mismatch|shapes? cannot|must match|has no attribute|out of range|"
    r"not subscriptable|not supported between|unexpected keyword|positional argument|<class '|"
    r"torch\.(Size|float|int)|object is not"
)
VERBS = (
    "Add|Apply|Choose|Compare|Connect|Convert|Decode|Do not|Download|Draw|Encode|Export|Give|"
    "Install|Invert|Leave|Load|Lower|Make|Name|Paint|Put|Raise|Remove|Run|Save|Say|Select|Set|Shorten|Start|Take|"
    "Type|Use|Write"
)
CURE = re.compile(rf"[.;:] ({VERBS})\b")


def fault_of_sentence(message: str, names: Sequence[str]) -> str:
    """Why an error is no sentence of our own form; empty where it is.

    Such a sentence stands on one line, names a node, says what to do, and shows nothing of Python.
    """
    if "\n" in message.strip():
        return "several lines"
    if len(message) > LONGEST:
        return f"{len(message)} characters"
    if found := RAW.search(message):
        return f"raw error: {found[0]}"
    if not any(name in message for name in names):
        return "no node is named"
    if not CURE.search(message):
        return "no cure"
    return "" if message.strip().endswith(".") else "no end"


def judge(hostile: HostileInput, error: BaseException | None, names: Sequence[str]) -> str:
    """One of CLEAR, or what is wrong with the answer to an input."""
    if error is None:
        return EDITED
    if isinstance(error, WorkflowRejected):
        ours = [e for e in error.errors if (e.class_type, e.input_name) == place(hostile)]
        raw = [e.message for e in error.errors if "Exception when validating" in e.message]
        return REFUSED if ours and not raw else f"refused, but not by name: {error}"
    if isinstance(error, NodeFailed):
        message = error.error.message
        if error.error.class_type == LOOK and MARK in message:
            return f"silent: {message}"
        if error.exception_type != "ValueError":
            return f"{error.exception_type} in {error.error.class_type}: {message}"
        why = fault_of_sentence(message, names)
        return f"{why}: {message[:LONGEST]}" if why else SENTENCE
    return f"{type(error).__name__}: {error}"


def place(hostile: HostileInput) -> tuple[str, str]:
    return hostile.node, hostile.input_name


def display_names(info: Info) -> list[str]:
    return [
        node["display_name"].partition(" (")[0]
        for name, node in info.items()
        if name.startswith(PACK)
    ]


async def run_inputs(
    server: Server, found: Sequence[HostileInput], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Queue each input, and judge what comes back."""
    rows = []
    for hostile in found:
        error: BaseException | None = None
        start = time.monotonic()
        try:
            async with ComfyClient(server.url) as client:
                await asyncio.wait_for(client.run(hostile.workflow), TIMEOUT_S)
        except (ComfyError, asyncio.TimeoutError) as problem:
            error = problem
        verdict = judge(hostile, error, names)
        said = str(error or "")[:LONGEST]
        row = {"node": hostile.node, "input": hostile.input_name, "kind": hostile.kind}
        row |= {"family": hostile.family, "verdict": verdict, "said": said}
        rows.append({**row, "seconds": round(time.monotonic() - start, 2)})
        if not is_alive(server) or isinstance(error, asyncio.TimeoutError):
            rows[-1]["verdict"] = "the server hangs" if is_alive(server) else "the server ended"
            break
    return rows


async def ask_nodes(server: Server) -> Info:
    async with ComfyClient(server.url) as client:
        return await client.nodes()


async def run_bases(server: Server, good: Sequence[Base]) -> list[str]:
    """Workflows as they are; those that fail, which would make all that is made of them void."""
    failed = []
    for base in good:
        try:
            async with ComfyClient(server.url) as client:
                await asyncio.wait_for(client.run(base.workflow), TIMEOUT_S)
        except (ComfyError, asyncio.TimeoutError) as problem:
            failed.append(f"{base.node}: {problem}")
    return failed


def measure_hostile(
    server: Server, count: int, seed: int, damaged: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """`count` hostile inputs of those that can be generated, and good workflows after them.

    damaged: files that the server's loaders list, by loader.
    """
    damaged = {**damaged, **write_damaged_inversions(server.base / "output", seed)}
    info = asyncio.run(ask_nodes(server))
    possible = generate(info, damaged)
    chosen = choose(possible, count, seed)
    rows = asyncio.run(run_inputs(server, chosen, display_names(info)))
    good = [base for base in bases(info) if any(row["node"] == base.node for row in rows)]
    good = [base for base in good if base.node not in WHERE_FROM]  # has no CLIP Vision that is one
    failed = asyncio.run(run_bases(server, good)) if is_alive(server) else ["the server ended"]
    faults = [f"{r['node']}.{r['input']}, {r['kind']}: {r['verdict']}" for r in rows if is_fault(r)]
    faults += [f"nothing hostile is generated for {left}" for left in find_left_out(possible, info)]
    nodes = nodes_of_pack(info)
    return {
        "seed": seed,
        "possible": len(possible),
        "inputs": len(rows),
        "nodes": len({row["node"] for row in rows} & nodes),
        "nodes of the pack": len(nodes),
        "nodes without inputs": nodes_without_inputs(info),
        "server alive": is_alive(server),
        "families": families(rows),
        "good workflows": len(good) - len(failed),
        "faults": [*faults, *(f"afterwards, {text}" for text in failed)],
        "failed afterwards": failed,
        "rows": rows,
    }


def is_fault(row: Mapping[str, Any]) -> bool:
    return row["verdict"] not in CLEAR


def families(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many inputs of each family came to each verdict."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(row["family"], dict.fromkeys((*CLEAR, "faults"), 0))
        counts[row["verdict"] if row["verdict"] in CLEAR else "faults"] += 1
    return dict(sorted(found.items()))
