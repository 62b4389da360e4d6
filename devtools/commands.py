"""The commands of dev.py and their options."""

from __future__ import annotations

import argparse
import hashlib
import sys
import webbrowser
from collections.abc import Sequence
from typing import Any

from ..bench.options import JOBS
from .folders import ROOT, cache_folder, data_folder
from .host import bare_environ, device_options
from .host_choice import find_host
from .jobs import JOB_MODULES, run_at, run_here, run_module, run_served
from .locales import command_locales
from .messages import DevError, say
from .own_host import models_in_environments
from .server import Server, check_port
from .testing import command_check, command_test

# glibc keeps what is freed: else each evaluation of the UNet asks the system for gigabytes of fresh
# pages, which on a virtual machine may take longer than the computing, each time another time.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
BENCHMARKS = {
    "scenes": "bench.scenes",
    "speed": "bench.speed",
    "inversions": "bench.inversions",
    "learned-words": "bench.learned_words",
    "dataset": "bench.make_dataset",
    "run": "bench.runner",
    "demo": "bench.demo_bench",
    "tables": "bench.tables",
    "reliability": "bench.reliability",
}
IN_ONE_PROCESS = ("speed", "inversions", "learned-words")
"""Benchmarks without a server, which read their own arguments."""


def job_arguments(command: str, rest: Sequence[str]) -> argparse.Namespace:
    """What the person asks of a job, checked: first of all, because it takes no time."""
    try:
        return JOBS[command](rest, [own_options(command)])
    except ValueError as error:
        raise DevError(str(error)) from error


def command_demo(args: argparse.Namespace, rest: list[str]) -> int:
    asked = job_arguments("demo", rest)
    own = asked.image is not None
    if asked.server:
        return run_at([asked.server], "bench.main_job", rest, args.comfyui)
    if args.port is not None:
        check_port(args.port)  # before any set-up
    host = find_host(args.comfyui)
    if own and (code := run_module(host.python, bare_environ(), "bench.own_input", rest)):
        return code
    return run_served(host, "bench.main_job", rest, args.port)


def command_serve(args: argparse.Namespace, rest: list[str]) -> int:
    if args.port is not None:
        check_port(args.port)  # before any set-up
    host = find_host(args.comfyui)
    name = f"serve-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
    base, earlier = data_folder() / name, cache_folder() / name
    if earlier.exists() and not base.exists():
        say(f"Pictures and workflows of earlier versions are in {earlier}.")
    for model in models_in_environments(cache_folder()):
        say(f"{model} lies in an environment, where no server looks. Move it to {host.models}.")
    with Server(host, base, port=args.port, options=[*device_options(host), *rest]) as server:
        say(f"ComfyUI with the pack: {server.url}   (log: {server.log}; Ctrl-C stops it)")
        say(f"Models go into {host.models}; pictures are in {base / 'output'}.")
        say(f"edit.py there: {host.python} {ROOT / 'edit.py'} --server {server.url}")
        if not args.no_browser:
            webbrowser.open(server.url)
        assert server.process is not None
        server.process.wait()
        server.check_alive("by itself")
    return 0


def command_bench(args: argparse.Namespace, rest: list[str]) -> int:
    module = BENCHMARKS[args.name]
    if args.name in IN_ONE_PROCESS:
        host = find_host(args.comfyui)
        return run_module(host.python, {**host.environ(), **KEPT_MEMORY}, module, rest)
    asked = job_arguments(f"bench {args.name}", rest)
    if args.name == "dataset":
        return run_here(module, rest, args.comfyui)
    if getattr(asked, "score_only", False) or args.name == "reliability":  # starts its own server
        host = find_host(args.comfyui)
        return run_module(host.python, host.environ(), module, rest)
    if getattr(asked, "dask", ""):  # its workers reach the servers, and this machine may not
        return run_here(module, rest, args.comfyui, [*JOB_MODULES, "distributed"])
    if asked.server:
        urls = [asked.server] if isinstance(asked.server, str) else asked.server
        return run_at(urls, module, rest, args.comfyui)
    host = find_host(args.comfyui)
    if hasattr(asked, "check_only"):  # first what needs no server
        code = run_module(host.python, host.environ(), module, [*rest, "--check-only"])
        if code:
            return code
    return run_served(host, module, rest)


def command_train_demo(args: argparse.Namespace, rest: list[str]) -> int:
    host = find_host(args.comfyui)
    return run_module(host.python, host.environ(), "demo.train", rest)


def own_options(command: str) -> argparse.ArgumentParser:
    """The options that dev.py itself acts on, whatever else a command takes."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument(
        "--comfyui",
        metavar="PATH",
        default=argparse.SUPPRESS,  # so that `bench --comfyui PATH NAME` is not forgotten at NAME
        help="use this ComfyUI instead of one in the cache",
    )
    if command in ("demo", "serve"):
        own.add_argument("--port", type=int, metavar="N", help="of the server (default: free)")
    if command == "serve":
        own.add_argument("--no-browser", action="store_true", help="do not open a browser")
    if command == "test":
        own.add_argument("--ci", action="store_true", help="also what CI adds, the marker ci")
    return own


def parser() -> argparse.ArgumentParser:
    """A command that is a job (bench/options.py) leaves --help to it."""
    names = ", ".join(COMMANDS)
    top = argparse.ArgumentParser(
        prog="dev.py",
        description=f"One script for newcomers and developers: {names}.",
        allow_abbrev=False,
    )
    top.set_defaults(comfyui=None)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(to: Any, name: str, text: str, *, job: bool = False) -> argparse.ArgumentParser:
        return to.add_parser(
            name,
            help=text,
            description=text,
            parents=[own_options(name if to is commands else f"bench {name}")],
            add_help=not job,
            allow_abbrev=False,
        )

    add(commands, "demo", "edit two objects of a demo scene, or your own image", job=True)
    add(commands, "serve", "start ComfyUI with the pack; further options go to ComfyUI")
    add(
        commands,
        "test",
        "run the usual tests, or with further options those that pytest selects by them",
    )
    add(commands, "check", "format, lint, types, fast tests; further options go to pytest")
    bench = add(commands, "bench", "run a benchmark, for example `bench speed --out speed.json`")
    names = bench.add_subparsers(dest="name", required=True, metavar="NAME")
    add(names, "dataset", "make a data set from your images, or from PIE-Bench", job=True)
    add(names, "run", "edit and score a data set by several methods, on several servers", job=True)
    add(names, "demo", "ALE-Bench's construction on the demo world, several methods", job=True)
    add(names, "tables", "the paper's ablations on the demo world", job=True)
    add(names, "scenes", "how often both objects of a demo scene come out right", job=True)
    add(names, "speed", "cost beside plain sampling; further options go to bench/speed/")
    add(names, "inversions", "how well each inversion gives demo scenes back")
    add(names, "learned-words", "how well DPL's learned nouns show where demo objects are")
    add(names, "reliability", "hostile inputs, interrupts, many edits, killed programs", job=True)
    add(commands, "train-demo", "train the demo model; further options go to demo/train.py")
    add(commands, "locales", "bring locales/ in line with the nodes, and list what to translate")
    return top


COMMANDS = {
    "demo": command_demo,
    "serve": command_serve,
    "test": command_test,
    "check": command_check,
    "bench": command_bench,
    "train-demo": command_train_demo,
    "locales": command_locales,
}


def main(argv: Sequence[str]) -> int:
    args, rest = parser().parse_known_args(argv)
    try:
        return COMMANDS[args.command](args, rest)
    except DevError as problem:
        sys.exit(f"dev.py: {problem}")
