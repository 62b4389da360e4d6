"""The package under comfy-cli's own checks and packing, and under bandit: what the Comfy Registry
has of tools that are public."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ale_edit.devtools.folders import cache_folder
from ale_edit.tests.packing import ROOT, git, pack
from ale_edit.tests.registry import ACCELERATORS

REQUIRED = ("comfy-cli==1.23.0", "bandit==1.9.4")
LEFT_OUT = "B101,B112,B311"  # as in custom-nodes-security-scan's config.json
READ_CONFIG = """
import dataclasses, json
from comfy_cli.registry.config_parser import extract_node_configuration
print(json.dumps(dataclasses.asdict(extract_node_configuration("pyproject.toml"))))
"""
LOCAL_CONFIGURATION = {  # from_pretrained of a folder, which has no revision: docs/publishing.md
    *(("regions/grounding_dino.py", "B615"), ("regions/sam.py", "B615")),
    ("scoring/clip.py", "B615"),
}

pytestmark = [pytest.mark.reference, pytest.mark.slow]


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where comfy, bandit and their Python are, in an environment made once."""
    folder = cache_folder() / "-".join(["registry", *(r.split("==")[1] for r in REQUIRED)])
    place = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "env"], check=True)
        install = [place / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *REQUIRED], check=True)
        done.touch()
    return place


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return pack(tmp_path)


def run(programs: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """One of the programs, in this folder, with settings of its own beside the folder."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    places = {name: str(home) for name in ("HOME", "XDG_CONFIG_HOME", "USERPROFILE", "APPDATA")}
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    environ = {**os.environ, **places, "PATH": path, "DO_NOT_TRACK": "1", "COLUMNS": "200"}
    call = [str(programs / command[0]), *command[1:]]
    return subprocess.run(call, cwd=folder, env=environ, capture_output=True, text=True)


def comfy(programs: Path, folder: Path, command: str) -> tuple[int, str]:
    """The exit status of `comfy node COMMAND`, and all that it said, on one line."""
    options = ("--skip-prompt", "--no-enable-telemetry", "node")
    done = run(programs, folder, "comfy", *options, command)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def parsed(programs: Path, folder: Path) -> dict[str, Any]:
    done = run(programs, folder, "python", "-c", READ_CONFIG)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), done.stdout  # no warning before it
    return json.loads(done.stdout)


def test_comfy_node_validate_finds_nothing(programs, package):
    code, said = comfy(programs, package, "validate")
    assert code == 0 and "All validation checks passed" in said, said
    assert "arning" not in said


def test_the_parser_of_the_registry_reads_our_fields_and_sees_the_placeholders_as_empty(
    programs, package
):
    found = parsed(programs, package)
    project, comfy_table = found["project"], found["tool_comfy"]
    empty = [name for name in ("publisher_id", "icon", "banner_url") if not comfy_table[name]]
    assert empty == ["publisher_id", "icon", "banner_url"]
    assert set(project["urls"].values()) == {""}
    assert project["name"] == "ale-edit" and comfy_table["display_name"] == "ALE-Edit"
    assert project["license"] == {"file": "LICENSE", "text": ""}
    assert project["supported_os"] == ["OS Independent"]
    assert project["supported_accelerators"] and {*project["supported_accelerators"]} <= {
        *ACCELERATORS
    }
    assert project["supported_comfyui_version"].startswith(">=0.3.75")
    version = json.loads((package / "web" / "version.json").read_text())["version"]
    assert project["version"] == version


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("GPU :: NVIDIA CUDA", "GPU :: NVIDIA", "Invalid Environment classifier"),
        ("System :: OS Independent", "System :: Linux", "Invalid Operating System classifier"),
        ('">=0.3.75"', '">=0.3"', "Invalid requires-comfyui"),
        ('{ file = "LICENSE" }', '{ name = "GPL" }', "License should be in one of these"),
        ('\nversion = "', '\nversions = "', "project version is empty"),
    ],
)
def test_comfy_node_validate_names_a_wrong_field(old, new, expected, programs, package):
    config = package / "pyproject.toml"
    text = config.read_text()
    assert text.count(old) == 1
    config.write_text(text.replace(old, new))
    assert expected in comfy(programs, package, "validate")[1]


def test_comfy_node_validate_finds_code_that_is_run_from_a_string(programs, package):
    (package / "bad.py").write_text("exec('a')\n")
    assert "Security warnings found" in comfy(programs, package, "validate")[1]


def test_comfy_node_pack_packs_what_our_tests_pack(programs, package, tmp_path):
    clone = tmp_path / "clone"
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    code, said = comfy(programs, clone, "pack")
    assert code == 0, said
    with zipfile.ZipFile(clone / "node.zip") as archive:
        packed = {*archive.namelist()}
    ours = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
    assert packed == ours


def bandit(programs: Path, folder: Path) -> set[tuple[str, str]]:
    """(file, test) of every finding, of any severity."""
    done = run(programs, folder, "bandit", "-q", "-r", ".", "-f", "json", "-s", LEFT_OUT)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert not report["errors"]
    return {(r["filename"].removeprefix("./"), r["test_id"]) for r in report["results"]}


def test_bandit_finds_only_what_docs_publishing_explains(programs, package):
    assert bandit(programs, package) == LOCAL_CONFIGURATION
    page = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name, _ in LOCAL_CONFIGURATION)
    for name, _ in LOCAL_CONFIGURATION:
        text = (package / name).read_text()
        assert text.count("from_pretrained(") == text.count("local_files_only=True")


def test_bandit_finds_forbidden_calls(programs, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "bad.py").write_text(
        "import pickle, subprocess, urllib.request\n"
        "eval('1')\npickle.loads(b'')\nsubprocess.run('pip install x', shell=True)\n"
        "urllib.request.urlopen('http://example.org')\n"
    )
    assert {test for _, test in bandit(programs, folder)} >= {"B307", "B301", "B602", "B310"}
