"""A ComfyUI server of our own."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from .folders import ROOT, link_folder
from .host import Host
from .messages import DevError, ServerFailed

START_TIMEOUT_S = 300


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
        prepare_base(self.base, self.host.models)
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


def prepare_base(base: Path, models: Path) -> None:
    """A base directory with this pack and a link to these models."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for folder in ("input", "output", "temp", "user"):
        (base / folder).mkdir(exist_ok=True)
    link_folder(base / "custom_nodes" / "ale-edit", ROOT)
    if models.is_dir():
        link_folder(base / "models", models)
