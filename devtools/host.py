"""A ComfyUI and the Python that runs it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Host:
    comfyui: Path
    python: Path
    own_models: Path | None = None  # for the servers of dev.py, in the place of ComfyUI's folder

    @property
    def models(self) -> Path:
        return self.own_models or self.comfyui / "models"

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


def comfyui_version(comfyui: Path) -> tuple[int, ...]:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    quoted = text.split("__version__", 1)[1].split('"')[1]
    return tuple(int(part) for part in quoted.split(".") if part.isdigit())


def format_version(version: Sequence[int]) -> str:
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


def device_options(host: Host) -> list[str]:
    return [] if has_gpu(host) else ["--cpu"]
