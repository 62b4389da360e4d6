#!/usr/bin/env python3
"""Edits images through a ComfyUI that has this pack: `python edit.py --help`.

Run it with ComfyUI's own Python, or any that has aiohttp and Pillow.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
PYTHON = (3, 10)  # or newer


def import_pack() -> ModuleType:
    """Make `import ale_edit` mean this folder, whatever it is called.

    It leaves sys.path, where its folders would shadow modules of the same names.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "ale_edit", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ale_edit"] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    if sys.version_info[:2] < PYTHON:
        sys.exit("edit.py: this Python is older than 3.10. Use the one that ComfyUI runs on.")
    import_pack()
    missing = [name for name in ("aiohttp", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"edit.py: {sys.executable} has no {', '.join(missing)}. Use the Python that ComfyUI "
            "runs on (from a clone, `dev.py serve` names its own), or install aiohttp and Pillow."
        )
    return importlib.import_module("ale_edit.headless.command").main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
