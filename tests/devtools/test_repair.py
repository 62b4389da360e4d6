"""A damaged environment: repaired in place, or left as it is with a new one beside it."""

import shutil
import stat
from collections.abc import Callable

import pytest

from ale_edit.devtools.environment import Environment, inspect
from ale_edit.devtools.own_host import choose_own_host
from ale_edit.devtools.pins import pins_key
from ale_edit.tests.devtools.fakes import FAKE_MAIN, site_packages

Harm = Callable[[Environment], object]


def change_comfyui(environment: Environment) -> None:
    (environment.comfyui / "main.py").write_text("# mine")


def lose_file(environment: Environment) -> None:
    shutil.rmtree(environment.comfyui / "comfy")


def lose_package(environment: Environment) -> None:
    next(site_packages(environment.venv).glob("diffusers-*.dist-info")).rmdir()


def lose_wheel_and_file(environment: Environment) -> None:
    shutil.rmtree(environment.wheel)
    lose_file(environment)


def spoil_wheel_and_file(environment: Environment) -> None:
    next(environment.wheel.iterdir()).write_text("no wheel")
    lose_file(environment)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (change_comfyui, "changed in comfyui/: main.py"),
        (lose_file, "missing from comfyui/: comfy/sd.py"),
        (lose_package, "no longer installed: diffusers-1.0"),
        (lose_wheel_and_file, "missing from comfyui/: comfy/sd.py"),
        (spoil_wheel_and_file, "missing from comfyui/: comfy/sd.py"),
    ],
)
def test_a_damage_is_said_and_repaired_in_place(installer, tmp_path, capsys, harm: Harm, expected):
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    environment = Environment(host.comfyui.parent)
    harm(environment)
    before = {path for path in environment.folder.rglob("*") if "wheel" not in path.parts}
    capsys.readouterr()
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == host
    assert f"The environment in {environment.folder} is damaged ({expected})." in (
        capsys.readouterr().out
    )
    assert (environment.comfyui / "main.py").read_text() == FAKE_MAIN
    assert not inspect(environment, pins_key())
    assert all(path.exists() for path in before)
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == host
    assert capsys.readouterr().out == ""


def test_a_repair_installs_the_lost_packages_alone(installer, tmp_path):
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    lose_package(Environment(host.comfyui.parent))
    done = len(installer.steps)
    choose_own_host(tmp_path / "cache", tmp_path / "data")
    (step,) = installer.steps[done:]
    assert step.endswith("--no-deps diffusers==1.0")


def test_a_repair_keeps_what_a_person_had_changed(installer, tmp_path, capsys):
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    environment = Environment(host.comfyui.parent)
    for text in ("# mine", "# mine, later"):
        (environment.comfyui / "main.py").write_text(text)
        choose_own_host(tmp_path / "cache", tmp_path / "data")
    kept = [path.read_text() for path in environment.changes_folder.iterdir()]
    assert sorted(kept) == ["# mine", "# mine, later"]
    assert str(environment.changes_folder) in capsys.readouterr().out


def test_an_open_file_is_replaced_and_not_overwritten(installer, tmp_path):
    """What a running program has mapped or open stays as it is."""
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    change_comfyui(Environment(host.comfyui.parent))
    with (host.comfyui / "main.py").open() as opened:
        choose_own_host(tmp_path / "cache", tmp_path / "data")
        assert opened.read() == "# mine"


@pytest.mark.parametrize(
    "name",
    [
        "temp/preview.png",
        "models/checkpoints/mine.safetensors",
        "input/example.png",
        "models/configs/v1-inference.yaml",
        "custom_nodes/other/__init__.py",
        "comfy/__pycache__/sd.cpython-311.pyc",
        "comfy/extra.py",
        "user/default/workflows/w.json",
    ],
)
def test_files_of_people_and_of_programs_are_no_damage(installer, tmp_path, capsys, name):
    host = choose_own_host(tmp_path / "cache", tmp_path / "data")
    path = host.comfyui / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    capsys.readouterr()
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == host
    assert path.read_text() == "mine" and capsys.readouterr().out == ""


def damage_stamp(environment: Environment) -> None:
    environment.stamp.write_text('{"key": "env')


def lose_stamp(environment: Environment) -> None:
    environment.stamp.unlink()


def write_a_list(environment: Environment) -> None:
    environment.stamp.write_text("[]")


def lose_python(environment: Environment) -> None:
    environment.python.unlink()


def break_python(environment: Environment) -> None:
    environment.python.unlink()
    environment.python.write_text("#!/bin/sh\nexit 1\n")
    environment.python.chmod(environment.python.stat().st_mode | stat.S_IXUSR)


def replace_package(environment: Environment) -> None:
    place = site_packages(environment.venv)
    (place / "diffusers-1.0.dist-info").rename(place / "diffusers-0.9.dist-info")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (damage_stamp, "stamp.json cannot be read"),
        (lose_stamp, "stamp.json cannot be opened"),
        (write_a_list, "stamp.json cannot be read"),
        (lose_python, "python cannot be opened"),
        (break_python, "its Python does not run"),
        (replace_package, "other versions are installed of diffusers-1.0"),
    ],
)
def test_what_cannot_be_repaired_under_a_program_stays_and_a_new_one_is_made_beside_it(
    installer, tmp_path, capsys, harm: Harm, expected
):
    environment = Environment(choose_own_host(tmp_path / "cache", tmp_path / "data").comfyui.parent)
    harm(environment)
    before = {path: path.lstat().st_mtime_ns for path in environment.folder.rglob("*")}
    fresh = choose_own_host(tmp_path / "cache", tmp_path / "data")
    assert environment.folder not in fresh.comfyui.parents
    assert {path: path.lstat().st_mtime_ns for path in environment.folder.rglob("*")} == before
    said = capsys.readouterr().out
    assert expected in said and f"Delete {environment.folder} when nothing uses it" in said
    assert choose_own_host(tmp_path / "cache", tmp_path / "data") == fresh
    assert capsys.readouterr().out == ""
