"""Puts the pack and (COMFYUI_PATH) ComfyUI on the import path; skips what cannot run here."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = os.environ.get("COMFYUI_PATH")
NEED_COMFYUI = (
    "browser",
    "host",
    "nodes",
    "server",
    "workflows",
)  # folders whose tests import ComfyUI
LONGEST_FIRST = ("server", "browser", "bench", "oracle")
"""Folders whose files take longest. Processes that share the files take them first, so that none
of them is alone with a long one in the end."""
LAST_LINE = pytest.StashKey[str]()


def load_dev() -> ModuleType:
    """dev.py as a module, whatever sys.path says; it owns the developers' bootstrap of the pack."""
    if "ale_edit_dev" not in sys.modules:
        spec = importlib.util.spec_from_file_location("ale_edit_dev", ROOT / "dev.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ale_edit_dev"] = module
        spec.loader.exec_module(module)
    return sys.modules["ale_edit_dev"]


load_dev().import_pack(Path(COMFYUI) if COMFYUI else None)
collect_ignore = [] if COMFYUI else list(NEED_COMFYUI)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        metavar="DIR",
        help="where the browser tests write their pictures; with . they renew those of the pack",
    )


def pytest_report_header() -> str:
    from ale_edit.tests.run_report import host_line

    return f"Tests on {host_line(COMFYUI)}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    from ale_edit.tests.run_report import host_line, not_run_line

    skipped = terminalreporter.stats.get("skipped", [])
    line = not_run_line(skipped, str(config.getoption("markexpr")), collect_ignore)
    config.stash[LAST_LINE] = f"Tests on {host_line(COMFYUI)}. {line}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """After pytest's own last line."""
    if line := config.stash.get(LAST_LINE, None):
        print(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    from ale_edit.tests.browser.chromium import why_no_browser

    reasons = {
        "weights": None if os.environ.get("ALE_EDIT_WEIGHTS") else "needs ALE_EDIT_WEIGHTS",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "comfy": None if COMFYUI else "needs COMFYUI_PATH",
        "server": None if COMFYUI else "needs COMFYUI_PATH",
        "browser": why_no_browser(),
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=place_in_run)


def place_in_run(item: pytest.Item) -> int:
    folder = item.path.parent.name
    known = folder in LONGEST_FIRST
    return LONGEST_FIRST.index(folder) if known else len(LONGEST_FIRST)


@pytest.fixture(scope="session")
def dev() -> ModuleType:
    return load_dev()
