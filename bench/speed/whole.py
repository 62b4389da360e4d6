"""The pack as a whole: what it adds to ComfyUI's start, a whole edit, and where it was measured."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...demo.models import load_demo_model
from ...demo.world import demo_edits, make_scene, render
from ...editors import ale
from ...host.editing import edit_image
from ...prompts.edits import Edits, make_edit
from ...regions.regions import make_regions
from .times import seconds

ROOT = Path(__file__).resolve().parents[2]

IMPORT_PROGRAM = """
import asyncio, json, sys, time
from comfy.cli_args import args
args.cpu = sys.argv[2] == "cpu"
import nodes
import comfy_config.config_parser  # ComfyUI's own, which the first pack of an install waits for
start = time.perf_counter()
is_loaded = asyncio.run(nodes.load_custom_node(sys.argv[1]))
print(json.dumps([is_loaded, time.perf_counter() - start]))
"""


def import_seconds(repeats: int) -> float:
    """What the pack adds to ComfyUI's start: the least of fresh processes that load it as ComfyUI
    does, after one that leaves its bytecode behind, as the first start of an installation does."""
    device = "gpu" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "-c", IMPORT_PROGRAM, str(ROOT), device]
    comfyui = Path(management.__file__).parent.parent
    found = []
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(1 + repeats):
            answer = subprocess.run(
                command, cwd=comfyui, env=environment, capture_output=True, text=True, check=True
            )
            is_loaded, taken = json.loads(answer.stdout.splitlines()[-1])
            if not is_loaded:
                raise RuntimeError(f"ComfyUI could not load the pack:\n{answer.stderr}")
            found.append(taken)
    return round(min(found[1:]), 4)


def demo_edit_seconds() -> float:
    """A whole edit of the demo scene, the model loaded: encoding, sampling, decoding."""
    model, clip, vae = load_demo_model()
    image, masks = render(make_scene(0))
    pairs = [(source, target) for source, target, _ in demo_edits(0)]
    edits = Edits(tuple(make_edit(*pair, mask) for pair, mask in zip(pairs, masks, strict=True)))
    settings = ale.ALESettings()
    regions = make_regions(list(masks), edits.sources, settings.dilation)

    def edit() -> Tensor:
        return edit_image(
            ale.EDITOR, settings, model, clip, vae, image[None], edits, 0, regions=regions
        )

    edit()
    return round(seconds(edit), 3)


def machine() -> dict[str, Any]:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "attention": optimized_attention.__name__,
    }


def versions() -> dict[str, str]:
    comfyui = importlib.import_module("comfyui_version").__version__
    return {"python": platform.python_version(), "torch": torch.__version__, "comfyui": comfyui}
