"""Jobs: modules of the pack in a process of their own, with the ComfyUI that they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..bench.options import SERVER_FAILED
from .folders import ROOT
from .host import Host, bare_environ, device_options, format_version, missing_modules
from .host_choice import find_host
from .messages import DevError, ServerFailed, say
from .pins import PYTHONS
from .server import Server, answers

END_TIMEOUT_S = 15  # more than a server gets to answer that it took back a run
JOB_MODULES = ("torch", "numpy", "PIL", "aiohttp", "safetensors")  # what a job over HTTP imports


def run_module(python: Path, environ: dict[str, str], module: str, argv: Sequence[str]) -> int:
    """Run `module.main(argv)` of the pack with this interpreter, behind the bootstrap."""
    command = [str(python), str(ROOT / "dev.py"), "_run", f"ale_edit.{module}", *argv]
    child = subprocess.Popen(command, env=environ)
    try:
        return child.wait()
    except BaseException as problem:
        if not isinstance(problem, KeyboardInterrupt):  # which a terminal sends to both
            child.terminate()
        wait_for_end(child)
        raise


def wait_for_end(child: subprocess.Popen[bytes]) -> None:
    """Give a process that is to end the time to take its work out of the servers' queues."""
    for end in (child.terminate, child.kill):
        try:
            child.wait(END_TIMEOUT_S)
            return
        except subprocess.TimeoutExpired:
            end()
    child.wait()


def run_served(host: Host, module: str, argv: list[str], port: int | None = None) -> int:
    """Run a job against a ComfyUI that is started for it and stopped after it.

    What the server wrote is kept only where it failed.
    """
    base = Path(tempfile.mkdtemp(prefix="ale-edit-"))
    failed = False
    started_at = time.time()
    try:
        options = ["--disable-api-nodes", *device_options(host)]
        say("Starting ComfyUI" + (" on the CPU" if "--cpu" in options else "") + " ... ", end="")
        with Server(host, base, port=port, options=options) as server:
            say(f"{time.time() - started_at:.0f} s, {server.url}")
            served = [*argv, "--server", server.url, "--started-at", str(started_at)]
            code = run_module(host.python, host.environ(), module, served)
            server.check_alive("during the job")
            failed = code == SERVER_FAILED
            if failed:
                say(f"The server's log: {server.log}")
            return code
    except ServerFailed:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(base, ignore_errors=True)


def run_at(urls: Sequence[str], module: str, argv: list[str], comfyui: str | None) -> int:
    """Run a job against ComfyUIs that somebody else started; one of them must answer."""
    if not any(answers(url, timeout_s=10) for url in urls):
        raise DevError(
            f"No ComfyUI answers at {', '.join(urls)}. Start it, or check the address "
            "(http://HOST:PORT)."
        )
    return run_here(module, argv, comfyui)


def run_here(
    module: str, argv: list[str], comfyui: str | None, needed: Sequence[str] = JOB_MODULES
) -> int:
    """Run a job that starts no ComfyUI by this Python, if it has what is needed."""
    python, environ = Path(sys.executable), bare_environ()
    if comfyui:
        why = "it is that of --comfyui"
    elif sys.version_info < PYTHONS[0]:
        present, floor = format_version(sys.version_info[:2]), format_version(PYTHONS[0])
        why = f"this Python is {present}, below {floor}"
    elif missing := missing_modules(python, needed):
        why = f"{python} has no {', '.join(missing)}"
    else:
        why = ""
    if why:
        host = find_host(comfyui)
        python, environ = host.python, host.environ()
    say(f"The job is run by {python}" + (f": {why}." if why else "."))
    return run_module(python, environ, module, argv)
