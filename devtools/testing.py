"""`dev.py test` and `dev.py check`."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .folders import ROOT, link_folder
from .host import Host, missing_modules
from .host_choice import find_host
from .messages import DevError, say
from .pins import TOOLS


def need_tools(host: Host, names: Sequence[str]) -> None:
    if missing := missing_modules(host.python, names):
        raise DevError(
            f"{host.python} has no {', '.join(missing)}. Install what tests need with "
            f"`{host.python} -m pip install {' '.join(TOOLS)}`."
        )


def run_pytest(host: Host, markers: str, rest: Sequence[str], processes: int = 1) -> int:
    """pytest's exit status; several processes share the files, with one thread each."""
    need_tools(host, ["pytest", "diffusers", "torchmetrics"])
    command, environ = [str(host.python), "-m", "pytest", "-m", markers, *rest], host.environ()
    if processes > 1:
        command += ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"]
        environ = {"OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, cwd=ROOT, env=environ).returncode


LEFT_OUT = ("gpu", "weights", "fullsize", "reference")
"""Markers of tests that neither a usual run nor CI has."""
FAST = " and ".join(f"not {name}" for name in (*LEFT_OUT, "ci", "slow", "server"))
"""What `check` runs: no test of CI alone, none that starts a server or takes over 10 s."""


def command_test(args: argparse.Namespace, rest: list[str]) -> int:
    """The usual tests, in as many processes as there are cores, at most 4; each process has servers
    of its own. With --ci also the wider matrix of settings. With further options, all of them in
    one process, with these options for pytest."""
    host = find_host(args.comfyui)
    markers = " and ".join(
        f"not {name}" for name in (*LEFT_OUT, *(() if args.ci or rest else ("ci",)))
    )
    processes = min(os.cpu_count() or 1, 4)
    if rest or processes == 1 or missing_modules(host.python, ["xdist"]):
        return run_pytest(host, markers, rest)
    return run_pytest(host, markers, rest, processes)


def command_check(args: argparse.Namespace, rest: list[str]) -> int:
    host = find_host(args.comfyui)
    need_tools(host, ["ruff", "basedpyright"])
    python, failed = str(host.python), []
    with tempfile.TemporaryDirectory() as folder:
        link_folder(
            Path(folder) / "ale_edit", ROOT
        )  # so that tests' `import ale_edit` resolves for the type checker
        typing_path = os.pathsep.join([folder, str(host.comfyui)])
        checks = {
            "format": ([python, "-m", "ruff", "format", "--check", "."], {}),
            "lint": ([python, "-m", "ruff", "check", "."], {}),
            "types": (
                [python, "-m", "basedpyright", "--pythonpath", python],
                {"PYTHONPATH": typing_path},
            ),
        }
        for name, (command, extra) in checks.items():
            start = time.monotonic()
            code = subprocess.run(command, cwd=ROOT, env={**host.environ(), **extra}).returncode
            say(f"{name}: {'ok' if code == 0 else 'FAILED'}, {time.monotonic() - start:.0f} s")
            failed += [name] if code else []
    if run_pytest(host, FAST, rest):
        failed.append("fast tests")
    say("check: " + (f"FAILED ({', '.join(failed)})" if failed else "all ok"))
    return 1 if failed else 0
