"""The commands of README and docs run; tests/documents.py lists them, and those that do not."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.main_job import write_files
from ale_edit.headless.pictures import as_png
from ale_edit.tests.bench.samples import ale_sample, pie_sample
from ale_edit.tests.documents import ROOT, RUN

pytestmark = [pytest.mark.slow, pytest.mark.ci]
ADDRESSES = ("http://127.0.0.1:8188", "ADDRESS")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages assume to be there: a clone's docs, a scene of the demo, a person's files."""
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(ROOT / "docs", folder / "docs")
    write_files(folder / "output" / "demo", {"source.png": as_png(demo_input(0)[0])})
    ale_sample(folder / "photos", range(1))
    pie_sample(folder / "PIE-Bench_v1")
    return folder


def unique_runs() -> list[str]:
    """Two pages may give what is the same when it is shortened."""
    return list(dict.fromkeys(f"{text} {more}".strip() for text, more in RUN.items()))


@pytest.mark.parametrize("command", unique_runs())
def test_it_runs(command: str, folder: Path, server: Any):
    argv = [server.url if word in ADDRESSES else word for word in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, str(ROOT / argv[0]), *argv[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_write_what_the_pages_say(folder: Path):
    """After the runs above."""
    for name in ("demo/source.png", "demo/scores.json", "bench/demo.md", "bench/demo.html"):
        assert (folder / "output" / name).is_file()
    for name in ("photos", "pie"):
        assert (folder / "bench" / name / "dataset.json").is_file()
    assert list((folder / "edited").glob("*.png"))
    renewed = (folder / "docs" / "results.md").read_text(encoding="utf-8")
    assert "--only variants --edits 1`" in renewed and renewed.count("TE and TI are 100 x") == 1
