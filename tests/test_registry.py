"""The pack and the Comfy Registry: its fields, what the scan looks for, and when it publishes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ale_edit.tests.packing import ROOT, git, pack
from ale_edit.tests.registry import faults, findings, missing

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 or newer")

# A person fills these in (docs/publishing.md), and then takes their names away here.
PLACEHOLDERS = ["PublisherId", "Repository", "Icon", "Banner"]
# What a scan finds though it does no harm; docs/publishing.md says why.
HARMLESS = {
    ("headless/connection.py", "network"),
    ("headless/edits.py", "network"),
}
FILLED = {
    "PublisherId": "someone",
    "Repository": "https://example.org/someone/pack",
    "Documentation": "https://example.org/someone/pack/wiki",
    "Bug Tracker": "https://example.org/someone/pack/issues",
    "Icon": "https://example.org/icon.png",
    "Banner": "https://example.org/banner.svg",
}


def read_config() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def with_value(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with another value of a field, in the table that it belongs to."""
    changed = deepcopy(config)
    project, comfy = changed["project"], changed["tool"]["comfy"]
    tables = (comfy, project["urls"], project)
    table = next((table for table in tables if key in table), comfy)
    if value is None:
        del table[key]
    else:
        table[key] = value
    return changed


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("registry"))


def test_the_placeholders_and_nothing_else_are_missing():
    assert missing(read_config()) == PLACEHOLDERS


def test_what_is_filled_in_is_right(package):
    assert not [*faults(read_config(), package)]


def test_a_filled_in_pack_misses_nothing_and_a_repository_asks_for_its_pages(package):
    config = read_config()
    for key, value in FILLED.items():
        config = with_value(config, key, value)
    assert missing(config) == [] and not [*faults(config, package)]
    assert missing(with_value(config, "Bug Tracker", "")) == ["Bug Tracker"]


@pytest.mark.parametrize(
    "key",
    [
        *("name", "version", "description", "license", "requires-python", "classifiers"),
        *("DisplayName", "requires-comfyui"),
    ],
)
def test_a_field_that_is_gone_is_missing(key):
    assert {*missing(with_value(read_config(), key, None))} == {*PLACEHOLDERS, key}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        *(("name", name, "name: under") for name in ("2ale", "ale edit", "ale--edit", "a" * 100)),
        ("name", "ComfyUI-ALE", "name: without ComfyUI"),
        *(
            ("version", version, "version: ")
            for version in ("0.2", "0.2.0-dev", "v0.2.0", "0.02.0")
        ),
        *(("license", licence, "license: {") for licence in ("GPL-3.0", {"name": "GPL"}, "")),
        ("license", {"file": "LICENCE"}, "license: a file"),
        ("requires-python", "3.10", "requires-python: "),
        ("classifiers", ["Operating System :: Linux"], "classifiers: known operating systems"),
        ("classifiers", ["Environment :: GPU :: NVIDIA"], "classifiers: known accelerators"),
        ("dependencies", "torch", "dependencies: a list"),
        ("dependencies", ["comfyui-frontend-package>=1.32"], "dependencies: a range of"),
        ("dependencies", ["numpy==1.26.4"], "dependencies: neither"),
        ("dependencies", ["x @ git+https://example.org/x"], "dependencies: neither"),
        *((key, "TODO", f"{key}: an address") for key in ("Repository", "Documentation")),
        ("Bug Tracker", "mailto:a@b.org", "Bug Tracker: an address"),
        *((key, "https://example.org/a.webp", f"{key}: the address") for key in ("Icon", "Banner")),
        ("PublisherId", "@someone", "PublisherId: "),
        *(("requires-comfyui", v, "requires-comfyui: ") for v in ("0.3", ">=0.3.75 or newer", "")),
        ("DisplayNames", "ALE-Edit", "DisplayNames: no key"),
    ],
)
def test_a_wrong_field_is_a_fault(key: str, value: Any, fault: str, package):
    found = [*faults(with_value(read_config(), key, value), package)]
    assert any(text.startswith(fault) for text in found), found
    if key != "classifiers":
        assert len(found) == 1


def test_the_package_holds_nothing_that_the_scan_looks_for_but_what_is_explained(package):
    assert findings(package) == HARMLESS
    page = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name, _ in HARMLESS)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.py", "x = eval(text)", "code from a string"),
        ("a.py", "exec (text)", "code from a string"),
        ("a.py", "model = pickle.load(file)", "pickles"),
        ("a.py", "model = torch.load(file, weights_only=False)", "pickles"),
        ("a.py", "import subprocess", "programs"),
        ("a.py", "os.system('pip install x')", "programs"),
        ("a.py", "pip.main(['install', 'x'])", "packages"),
        ("a.py", "hf_hub_download('a/b', 'c')", "downloads"),
        ("a.py", "urllib.request.urlopen(url)", "network"),
        ("a.py", "import requests\nrequests.get(url)", "network"),
        ("a.js", "this.callback = f.bind (this)", "network"),
        ("a.md", "It calls socket.create_connection.", "network"),
        ("a.py", "os.environ.get('HOME')", "environment"),
        ("a.py", "base64.b64decode(text)", "decoding"),
        ("a.json", '"' + "QUJD" * 60 + '"', "encoded data"),
        ("a.py", '"' + r"\x41" * 20 + '"', "encoded data"),
        ("a.py", "# needs sudo", "privileges"),
        ("a.sh", "echo", "kind of file"),
        ("a.pyc", "", "kind of file"),
        ("a.zip", "", "kind of file"),
    ],
)
def test_what_the_scan_looks_for_is_found(name: str, text: str, what: str, tmp_path):
    (tmp_path / name).write_text(text)
    assert findings(tmp_path) == {(name, what)}


def test_what_only_looks_alike_is_not_found(tmp_path):
    (tmp_path / "a.py").write_text("model.eval()\nre.compile(x)\nloader.exec_module(m)\n")
    assert findings(tmp_path) == set()


def lint(folder: Path) -> set[tuple[str, str]]:
    """(file, rule) of flake8-bandit, as ruff has it, and of two statements in one line; asserts
    aside, which the Registry's scan leaves out, too."""
    options = ["--isolated", "--ignore-noqa", "--select", "S,E702", "--ignore", "S101"]
    command = ["ruff", "check", *options, "--no-cache", "--output-format", "json", str(folder)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {(Path(e["filename"]).name, e["code"]) for e in json.loads(done.stdout)}


BAD_CODE = """
import hashlib, pickle, subprocess, urllib.request
def f(text):
    eval(text); exec(text)
    pickle.loads(text)
    subprocess.run(text, shell=True)
    urllib.request.urlopen(text)
    return hashlib.md5(text)
"""


def test_the_package_passes_the_security_rules_of_the_linter(package, tmp_path):
    pytest.importorskip("ruff")
    assert lint(package) == set()
    (tmp_path / "bad.py").write_text(BAD_CODE)
    expected = {"S307", "S102", "S301", "S602", "S310", "S324", "E702"}
    assert {rule for _, rule in lint(tmp_path)} == expected


# When .github/workflows/publish.yml publishes

HERE = "https://example.org/someone/pack"


@pytest.fixture
def decide(tmp_path: Path) -> Callable[..., str]:
    """Runs the workflow's own command in a repository with two commits, and returns what it writes
    for the steps after it."""
    if os.name == "nt":
        pytest.skip("needs the shell of the workflow's machine")
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["publish"]["steps"]
    step = next(step for step in steps if step.get("id") == "decide")
    assert set(step["env"]) == {"BEFORE", "HERE"}

    def run(versions: tuple[str, str], before: str | None = None, **fields: str) -> str:
        folder = tmp_path / "pack"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        git(folder, "init", "--quiet")
        fields = {"PublisherId": "someone", "Repository": HERE} | fields
        for version in versions:
            (folder / "pyproject.toml").write_text(
                f'[project]\nversion = "{version}"\n'
                f'[project.urls]\nRepository = "{fields["Repository"]}"\n'
                f'[tool.comfy]\nPublisherId = "{fields["PublisherId"]}"\n'
            )
            git(folder, "add", "--all")
            who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
            git(folder, *who, "commit", "--quiet", "--allow-empty", "-m", version)
        outputs = tmp_path / "outputs"
        outputs.write_text("")
        if before is None:
            before = git(folder, "rev-parse", "HEAD~1")[0].strip()
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        if not (programs / "python3").exists():
            (programs / "python3").symlink_to(sys.executable)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        given = {"PATH": path, "GITHUB_OUTPUT": str(outputs), "BEFORE": before, "HERE": HERE}
        subprocess.run(step["run"], shell=True, cwd=folder, env={**os.environ, **given}, check=True)
        return outputs.read_text()

    return run


def test_a_new_version_on_main_is_published_by_the_registry_s_action(decide):
    assert decide(("0.1.0", "0.2.0")) == "publish=true\n"
    assert decide(("0.1.0", "0.2.0"), Repository=f"{HERE}.git") == "publish=true\n"


def test_a_person_can_publish_and_so_does_a_push_whose_base_is_gone(decide):
    assert decide(("0.2.0", "0.2.0"), before="") == "publish=true\n"
    assert decide(("0.2.0", "0.2.0"), before="0" * 40) == "publish=true\n"


def test_an_old_version_a_fork_and_a_placeholder_are_not_published(decide):
    assert decide(("0.2.0", "0.2.0")) == "publish=false\n"
    fork = "https://example.org/other/pack"
    assert decide(("0.1.0", "0.2.0"), Repository=fork) == "publish=false\n"
    assert decide(("0.1.0", "0.2.0"), Repository="") == "publish=false\n"
    assert decide(("0.1.0", "0.2.0"), PublisherId="") == "publish=false\n"


def test_the_workflow_asks_before_it_publishes_and_does_not_ship(package):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"))
    trigger = workflow[True]  # YAML 1.1 reads "on" so
    assert trigger["push"] == {"branches": ["main"], "paths": ["pyproject.toml"]}
    first, decision, publish = workflow["jobs"]["publish"]["steps"]
    assert first["with"]["fetch-depth"] == 0 and decision["id"] == "decide"
    assert publish["uses"].startswith("Comfy-Org/publish-node-action@")
    assert publish["if"] == "steps.decide.outputs.publish == 'true'"
    token = publish["with"]["personal_access_token"]
    assert token == "${{ secrets.REGISTRY_ACCESS_TOKEN }}"
    page = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    assert "REGISTRY_ACCESS_TOKEN" in page
    assert not (package / ".github").exists() and not (package / ".ci").exists()
