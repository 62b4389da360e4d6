"""Steps of the set-up, the lock around them, and the folders of dev.py."""

import os
import sys
import threading

import pytest

from ale_edit.devtools.folders import cache_folder, data_folder
from ale_edit.devtools.installing import run_logged
from ale_edit.devtools.locks import hold_lock
from ale_edit.devtools.messages import DevError


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
        with hold_lock(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=second)
    with hold_lock(tmp_path / "lock"):
        thread.start()
        assert not entered.wait(0.7)
    assert entered.wait(5)
    thread.join()
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "environ", "cache", "data"),
    [
        ("linux", {"ALE_EDIT_CACHE": "/a/b"}, "/a/b", "/a/b"),
        ("linux", {"XDG_CACHE_HOME": "/x", "XDG_DATA_HOME": "/y"}, "/x/ale-edit", "/y/ale-edit"),
        ("linux", {"HOME": "/h"}, "/h/.cache/ale-edit", "/h/.local/share/ale-edit"),
        (
            "darwin",
            {"HOME": "/h"},
            "/h/Library/Caches/ale-edit",
            "/h/Library/Application Support/ale-edit",
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="these are the paths of other systems")
def test_caches_and_a_persons_files_are_where_the_platform_keeps_such(
    monkeypatch, platform, environ, cache, data
):
    for name in ("ALE_EDIT_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix() == cache
    assert data_folder().as_posix() == data
