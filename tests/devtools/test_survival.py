"""Files of a person, and programs that run in an environment, survive every command of dev.py."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ale_edit.devtools import commands, jobs, locales, pins, testing
from ale_edit.devtools.environment import Environment
from ale_edit.devtools.host_choice import find_host
from ale_edit.devtools.pins import pins_key
from ale_edit.devtools.server import Server, answers
from ale_edit.tests.devtools.fakes import make_set

COMMANDS = [
    *(["demo"], ["serve", "--no-browser"], ["test"], ["check"], ["train-demo"], ["locales"]),
    *(["bench", name] for name in ("speed", "scenes", "demo", "tables", "inversions")),
    *(["bench", name] for name in ("reliability", "learned-words")),
    ["bench", "run", "set"],
    ["bench", "dataset", "ale", "set", "--out", "new"],
]


@pytest.fixture
def cache(installer, tmp_path, monkeypatch) -> Path:
    """Commands that find their environment as they always do, and then run nothing long."""
    monkeypatch.chdir(tmp_path)
    make_set(Path("set"))
    monkeypatch.setattr(locales, "LOCALES", shutil.copytree(locales.LOCALES, tmp_path / "locales"))
    monkeypatch.setenv("ALE_EDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    for module in (commands, jobs):
        monkeypatch.setattr(module, "device_options", lambda host: ["--cpu"])
        monkeypatch.setattr(module, "run_module", lambda *_args: 0)
    monkeypatch.setattr(testing, "need_tools", lambda host, names: None)
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(testing, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    return tmp_path / "cache"


def test_every_command_is_among_them():
    assert {argv[0] for argv in COMMANDS} == set(commands.COMMANDS)
    assert {argv[1] for argv in COMMANDS if argv[0] == "bench"} == set(commands.BENCHMARKS)


def run_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in COMMANDS:
        with monkeypatch.context() as patch:
            if argv[0] == "serve":  # until its server has ended
                patch.setenv("FAKE_MODE", "dies later")
                with pytest.raises(SystemExit, match="ended by itself"):
                    commands.main(argv)
            else:
                assert commands.main(argv) == 0, argv


def test_files_and_programs_survive_every_command_and_other_pins(cache, monkeypatch):
    host = find_host(None)
    environment = Environment(host.comfyui.parent)
    base = cache / "serve-of-a-person"
    server = Server(host, base)
    program = subprocess.Popen(
        [host.python, "-c", "input(); import json"], stdin=subprocess.PIPE, cwd=environment.folder
    )
    files = [
        host.models / "checkpoints" / "mine.safetensors",
        base / "output" / "picture.png",
        *(
            environment.comfyui / name
            for name in (
                "models/checkpoints/laid_there.safetensors",
                "output/picture.png",
                "temp/preview.png",
                "custom_nodes/other/__init__.py",
            )
        ),
    ]
    with server:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"mine: {file.name}")
        run_all_commands(monkeypatch)
        assert list(cache.glob("env-*-*")) == [environment.folder]
        monkeypatch.setattr(pins, "TORCH", ("torch==9.9.9",))
        run_all_commands(monkeypatch)
        (other,) = set(cache.glob("env-*-*")) - {environment.folder}
        assert other.name.startswith(pins_key())
        environment.stamp.unlink()  # even that makes no environment a set-up's to remove
        run_all_commands(monkeypatch)
        monkeypatch.undo()
        assert [file.read_text() for file in files] == [f"mine: {file.name}" for file in files]
        assert answers(server.url) and server.process is not None and server.process.poll() is None
    program.communicate(b"\n", timeout=30)
    assert program.returncode == 0 and environment.python.samefile(sys.executable)


def test_models_lie_outside_every_environment_and_stay_with_other_pins(cache, monkeypatch):
    first = find_host(None)
    assert not any(path.name.startswith("env-") for path in first.models.resolve().parents)
    assert (first.models / "checkpoints" / "put_checkpoints_here").is_file()
    assert (first.models / "configs" / "v1-inference.yaml").is_file()
    monkeypatch.setattr(pins, "TORCH", ("torch==9.9.9",))
    second = find_host(None)
    assert second.models == first.models and second.comfyui != first.comfyui
    with Server(second, cache / "base") as server:
        assert (server.base / "models").resolve() == first.models.resolve()


def test_serve_names_the_folders_of_models_and_pictures_and_models_where_none_is_looked_for(
    cache, monkeypatch, capsys
):
    host = find_host(None)
    stray = host.comfyui / "models" / "checkpoints" / "mine.safetensors"
    stray.write_text("weights")
    capsys.readouterr()
    monkeypatch.setenv("FAKE_MODE", "dies later")
    with pytest.raises(SystemExit):
        commands.main(["serve", "--no-browser"])
    said = capsys.readouterr().out
    assert f"{stray} lies in an environment" in said and f"Move it to {host.models}" in said
    (base,) = cache.glob("serve-*")
    assert f"Models go into {host.models}; pictures are in {base / 'output'}." in said
