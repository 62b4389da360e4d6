#!/usr/bin/env python3
"""One script for newcomers and developers: demo, serve, test, check, bench, train-demo, locales.

It needs nothing but Python's standard library; devtools/ does the work. The first command builds
an environment (PyTorch, an unmodified ComfyUI, the development tools) in a cache folder; every
later command, and every other clone, reuses it. `--comfyui PATH` (or COMFYUI_PATH) uses an
existing ComfyUI instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent


def import_pack(comfyui: Path | None) -> ModuleType:
    """Make `import ale_edit` mean this folder, and ComfyUI's modules importable where one is given.

    The pack's root leaves sys.path: there, our nodes/ would shadow ComfyUI's nodes.py.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    if comfyui is not None and str(comfyui) not in sys.path:
        sys.path.insert(0, str(comfyui))
        choose_device()
    if "ale_edit" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "ale_edit", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ale_edit"] = module
        spec.loader.exec_module(module)
    return sys.modules["ale_edit"]


def choose_device() -> None:
    """ComfyUI picks its device while comfy.model_management is imported: choose before that."""
    import torch
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True


def run_job(module: str, argv: list[str]) -> int:
    """`dev.py _run MODULE ...`: what a command starts in the Python of its host."""
    comfyui = os.environ.get("COMFYUI_PATH")
    import_pack(Path(comfyui) if comfyui else None)
    return importlib.import_module(module).main(argv) or 0


def main(argv: list[str]) -> int:
    if argv[:1] == ["_run"]:
        return run_job(argv[1], argv[2:])
    import_pack(None)
    return importlib.import_module("ale_edit.devtools.commands").main(argv)


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
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads the output any more, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
