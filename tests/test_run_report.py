"""A run of the tests says on which ComfyUI it ran and, in its last line, what it did not run."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ale_edit.tests.run_report import host_line, not_run_line

ROOT = Path(__file__).resolve().parent.parent
USUAL = "not gpu and not weights and not fullsize and not reference"


def skip(*keywords: str) -> SimpleNamespace:
    return SimpleNamespace(keywords=dict.fromkeys(keywords, 1))


def test_skipped_tests_are_counted_by_what_they_need():
    skipped = [skip("browser", "slow", "x.py"), skip("browser"), skip("gpu"), skip("test_it")]
    line = not_run_line(skipped, "")
    assert line.startswith("Not run: skipped 2 browser (Debian: apt-get install chromium;")
    assert "skipped 1 gpu (run them on a machine with a CUDA device); skipped 1 more (-rs" in line


def test_what_a_marker_expression_leaves_out_is_named_with_what_it_costs():
    line = not_run_line([], USUAL)
    assert line == (
        "Not run: left out gpu (a CUDA device), weights (real checkpoints), fullsize (10 GB of "
        "memory), reference (5 GB of disk): `python3 dev.py test -m NAME` includes one."
    )
    assert "left out slow, server: " in not_run_line([], "not slow and not server")


def test_folders_without_a_comfyui_are_named_and_a_whole_run_says_so():
    assert "left out tests/{host,nodes}: `python3 dev.py test`" in not_run_line(
        [], "", ["host", "nodes"]
    )
    assert not_run_line([], "browser") == "Nothing was skipped or left out."


def test_the_line_of_the_host_has_the_version_of_comfyui(tmp_path):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.33.1"\n')
    line = host_line(str(tmp_path))
    assert line.startswith("ComfyUI 0.33.1, front end ") and line.endswith(f"({tmp_path})")
    assert host_line(None) == "no ComfyUI (COMFYUI_PATH is not set)"


@pytest.mark.comfy
@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["one process", "xdist"])
def test_plain_pytest_says_both_at_its_start_and_in_its_last_line(processes):
    if processes:
        pytest.importorskip("xdist")
    tests = [
        "tests/test_ci.py::test_ci_finds_the_chromium_that_the_browser_tests_find",
        "tests/browser/test_report.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *processes, "-m", USUAL, *tests],
        cwd=ROOT,
        env={**os.environ, "ALE_EDIT_CHROMIUM": "no-such-program"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    host = f"Tests on {host_line(os.environ['COMFYUI_PATH'])}"
    assert host in lines
    assert lines[-1].startswith(f"{host}. Not run: skipped ")
    assert " browser (Debian" in lines[-1] and "; left out gpu (a CUDA device)" in lines[-1]
