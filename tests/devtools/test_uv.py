"""uv installs from where pip is set to install from; where it cannot, pip does."""

import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest

from ale_edit.devtools import installing
from ale_edit.devtools.environment import Environment
from ale_edit.devtools.installing import install, run_logged
from ale_edit.devtools.messages import DevError
from ale_edit.devtools.uv import has_uv, pip_settings, translate

BEST = ["--index-strategy", "unsafe-best-match"]


@pytest.mark.parametrize(
    ("settings", "options", "variables"),
    [
        ({}, [], {}),
        ({"index-url": "https://a/simple"}, ["--default-index", "https://a/simple"], {}),
        ({"extra-index-url": "\nfile:///b\nc"}, ["--index", "file:///b", "--index", "c"], {}),
        ({"find-links": "/d /e"}, ["--find-links", "/d", "--find-links", "/e"], {}),
        ({"trusted-host": "f"}, ["--allow-insecure-host", "f"], {}),
        ({"cert": "/g.crt"}, [], {"SSL_CERT_FILE": "/g.crt"}),
        ({"proxy": "http://h"}, [], {"HTTP_PROXY": "http://h", "HTTPS_PROXY": "http://h"}),
        (
            {
                "timeout": "9",
                "config-file": "c",
                "disable-pip-version-check": "1",
                "constraint": "c.txt",
            },
            [],
            {},
        ),
    ],
)
def test_settings_of_pip_are_handed_to_uv(settings, options, variables):
    translated = translate(settings)
    assert translated is not None
    assert (translated.options, translated.variables) == ([*BEST, *options], variables)


@pytest.mark.parametrize("key", ["client-cert", "keyring-provider", "no-index", "no-binary"])
def test_a_setting_that_uv_has_not_leaves_the_work_to_pip(key):
    assert translate({"index-url": "https://a", key: "x"}) is None


def test_variables_override_pips_files_and_its_section_for_installing_the_general_one(
    tmp_path, monkeypatch
):
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a/simple\nfind-links = /a\ncert = /a.crt\n"
        "extra-index-url =\n    file:///x\n    file:///y\n"
        "[install]\nfind-links = /b\ncert = /b.crt\n[download]\nindex-url = https://d\n"
    )
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_CERT", "/c.crt")
    settings = pip_settings(Path(sys.executable))
    assert settings["index-url"] == "https://a/simple"
    assert settings["extra-index-url"].split() == ["file:///x", "file:///y"]
    assert (settings["find-links"], settings["cert"]) == ("/b", "/c.crt")


@pytest.fixture
def environment(tmp_path, monkeypatch) -> Environment:
    """A real one without uv. pip finds the package `tiny` in a folder; 1.0 is pinned."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    if os.name == "nt":
        pytest.skip("symbolic links, which Windows reserves")
    for version in ("1.0", "2.0"):
        info = f"tiny-{version}.dist-info"
        files = {
            "tiny.py": f"version = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(wheels / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
            wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("tiny==1.0\n")
    monkeypatch.setattr(installing, "CONSTRAINTS", constraints)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    environment = Environment(tmp_path / "cache" / "env")
    environment.folder.mkdir(parents=True)
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment.venv)]
    run_logged(command, environment.log)
    borrow(environment, "pip")
    return environment


def borrow(environment: Environment, package: str) -> Path:
    """Make a package of the tests' own environment one of this environment; returns its place."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs an environment with {package}, such as dev.py's own")
    (place,) = environment.venv.glob("lib/python*/site-packages")
    (place / package).symlink_to(spec.submodule_search_locations[0])
    return place / package


def borrow_uv(environment: Environment) -> Path:
    module = borrow(environment, "uv")
    environment.python.with_name("uv").symlink_to(Path(sys.executable).with_name("uv"))
    return module


def test_uv_installs_the_pinned_version_from_where_pip_takes_it(environment):
    borrow_uv(environment)
    assert has_uv(environment.python)
    install(environment.python, environment.log, "tiny")
    assert "tiny-1.0" in environment.packages()
    log = environment.log.read_text()
    assert "-m uv pip install" in log and "-m pip install" not in log
    assert (environment.folder.parent / "uv").is_dir()


def test_where_uv_fails_pip_installs_and_the_log_says_so(environment):
    borrow_uv(environment).unlink()  # the program stays, `-m uv` fails
    install(environment.python, environment.log, "tiny")
    assert "tiny-1.0" in environment.packages()
    log = environment.log.read_text()
    assert "uv could not do it, so pip does" in log and "-m pip install" in log


def test_without_uv_pip_installs_the_pinned_version(environment):
    assert not has_uv(environment.python)
    install(environment.python, environment.log, "tiny")
    assert "tiny-1.0" in environment.packages()


def test_a_package_that_cannot_be_found_is_an_error(environment, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DevError, match="could not reach a package index"):
        install(environment.python, environment.log, "no-such-package")
