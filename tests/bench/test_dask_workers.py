"""What is sent to workers: code that needs Python and aiohttp alone."""

import subprocess
import sys
from pathlib import Path

import aiohttp

from ale_edit.bench.dask_workers import _code

TRIED = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "PIL", "distributed", "comfy", "safetensors"):
            raise ImportError(f"{name} is not on a worker")

sys.meta_path.insert(0, Nothing())
sys.path[:0] = sys.argv[1:]
import pickle
from ale_edit.headless import work
assert work.__file__.startswith(sys.argv[1]), work.__file__
item = work.Item("r", "ale/one", {"1": {"class_type": "X", "inputs": {}}}, {}, "Save")
try:
    work.make(pickle.loads(pickle.dumps(item)), "http://127.0.0.1:1")
except work.ServerGone as error:
    print(pickle.loads(pickle.dumps(error)))
"""


def test_the_code_for_workers_runs_with_python_and_aiohttp_alone(tmp_path):
    (tmp_path / "code.zip").write_bytes(_code())
    places = [str(tmp_path / "code.zip"), str(Path(aiohttp.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRIED, *places],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("No ComfyUI answers at http://127.0.0.1:1"), done.stderr


def test_the_same_code_is_the_same_file():
    assert _code() == _code()
