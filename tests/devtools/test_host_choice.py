"""A ComfyUI that is already on the machine, and the Python that runs it."""

import os
import sys
from pathlib import Path

import pytest

from ale_edit.devtools import host_choice
from ale_edit.devtools.host import Host, missing_modules
from ale_edit.devtools.host_choice import check_existing_host
from ale_edit.devtools.messages import DevError
from ale_edit.tests.devtools.fakes import make_comfyui


def test_an_existing_comfyui_runs_with_the_current_interpreter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(host_choice, "missing_modules", lambda python, names: [])
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert check_existing_host(comfyui) == Host(comfyui, Path(sys.executable))
    assert sys.executable in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="venv layout of other systems")
def test_an_existing_comfyuis_own_venv_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(host_choice, "missing_modules", lambda python, names: [])
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    own = comfyui / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert check_existing_host(comfyui).python == own


def test_a_folder_that_is_no_comfyui_is_an_error(tmp_path):
    with pytest.raises(DevError, match="not a ComfyUI folder"):
        check_existing_host(tmp_path)


def test_a_comfyui_below_the_floor_is_an_error(tmp_path):
    with pytest.raises(DevError, match=r"is 0\.3\.74; the pack needs 0\.3\.75"):
        check_existing_host(make_comfyui(tmp_path / "ComfyUI", "0.3.74"))


def test_an_interpreter_without_torch_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(host_choice, "missing_modules", lambda python, names: ["torch"])
    with pytest.raises(DevError, match="it has no torch"):
        check_existing_host(make_comfyui(tmp_path / "ComfyUI"))


def test_missing_modules_are_named():
    assert missing_modules(Path(sys.executable), ["json", "no_such_module"]) == ["no_such_module"]
