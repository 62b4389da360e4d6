"""The ComfyUI that a part of the bench runs on, and what it says of itself."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ...devtools.folders import link_folder
from ...devtools.host import Host, comfyui_version, device_options, format_version
from ...devtools.server import Server, prepare_base
from ...headless.pack import pack_version

HOSTILE_NODES = Path(__file__).parent / "hostile_nodes"


@contextmanager
def serve(*options: str, models: Path | None = None) -> Iterator[Server]:
    """A ComfyUI of this host with the pack and the hostile nodes, in a folder that is removed.

    models: its folder of models, instead of ComfyUI's.
    """
    comfyui = Path(os.environ["COMFYUI_PATH"])
    host = Host(comfyui, Path(sys.executable), models)
    with tempfile.TemporaryDirectory(prefix="ale-edit-") as folder:
        base = Path(folder)
        prepare_base(base, host.models)
        link_folder(base / "custom_nodes" / "ale-edit-hostile", HOSTILE_NODES)
        always = ["--disable-api-nodes", *device_options(host)]
        with Server(host, base, options=[*always, *options]) as server:
            yield server


def resident_bytes(server: Server) -> int:
    """What the server's process holds of the machine's memory."""
    assert server.process is not None
    return psutil.Process(server.process.pid).memory_info().rss


def about_this() -> str:
    """The machine, and what ran on it."""
    memory = psutil.virtual_memory().total / 1e9
    comfyui = comfyui_version(Path(os.environ["COMFYUI_PATH"]))
    machine = f"{os.cpu_count()} cores, {memory:.0f} GB of memory, demo model"
    versions = f"ComfyUI {format_version(comfyui)}, Python {platform.python_version()}"
    return f"{machine}, {versions}, ALE-Edit {pack_version()}"


def is_alive(server: Server) -> bool:
    return server.process is not None and server.process.poll() is None


def percent_growth(values: Sequence[float], around: int, width: int) -> float:
    """How much the median of the last `width` values lies above that of those around one."""
    early = sorted(values[max(around - width // 2, 0) : around + width // 2 + 1])
    late = sorted(values[-width:])
    return 100 * (late[len(late) // 2] / early[len(early) // 2] - 1)
