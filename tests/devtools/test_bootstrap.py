"""The bootstrap of dev.py: what it puts on the import path, and what it keeps off it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ale_edit.devtools.folders import ROOT


@pytest.mark.comfy
@pytest.mark.parametrize("here", ["root", "elsewhere"])
def test_the_bootstrap_imports_the_pack_and_leaves_comfyuis_nodes_alone(tmp_path, here):
    code = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("ale_edit_dev", {str(ROOT / "dev.py")!r})
dev = importlib.util.module_from_spec(spec)
sys.modules["ale_edit_dev"] = dev
spec.loader.exec_module(dev)
comfyui = Path({os.environ.get("COMFYUI_PATH")!r})
dev.import_pack(comfyui)
import ale_edit.headless
assert Path(ale_edit.__file__) == dev.ROOT / "__init__.py"
assert all(Path(entry or ".").resolve() != dev.ROOT for entry in sys.path), sys.path
assert sys.path[0] == str(comfyui)
assert Path(importlib.util.find_spec("nodes").origin).parent.resolve() == comfyui.resolve()
import torch, comfy.cli_args
assert comfy.cli_args.args.cpu is not torch.cuda.is_available()
"""
    cwd = ROOT if here == "root" else tmp_path
    subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True)


def test_the_packs_root_is_not_on_the_path_of_the_tests():
    assert all(Path(entry or os.curdir).resolve() != ROOT for entry in sys.path)
