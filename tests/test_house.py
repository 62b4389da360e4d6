"""The house keeps its plan: imports go one way only, and the files that name a version agree."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ale_edit.devtools.pins import TOOLS, TORCH, UNLISTED
from ale_edit.headless.pack import pack_version

ROOT = Path(__file__).resolve().parent.parent
PURE = ("prompts", "regions", "attention", "inversion")
COMFY = {
    *("comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras"),
    *("app", "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "protocol"),
    "server",
}

SCORING = ("comparing", "inputs", "networks", "scores", "similarity")

# What a folder (or one file) may import of the pack, and of other packages.
PACK: dict[str, set[str]] = {
    "__init__.py": set(),
    "nodes": {"host", "editors", "scoring", *PURE},
    "nodes/demo.py": {"host", "scoring", "demo", *PURE},
    "host": {"editors", *PURE},
    **{f"host/scoring/{name}.py": {"scoring", *PURE} for name in SCORING},
    "host/inverting/files.py": {"editors", *PURE},
    "editors": set(PURE),
    **{folder: set() for folder in (*PURE, "scoring")},
    "regions/preview.py": set(),
    **{f"scoring/{name}.py": set() for name in ("comparison", "clip", "lpips_network")},
    "demo": set(),
    "demo/stage.py": {"progress"},
    "demo/evaluate.py": {"regions"},
    "demo/card_images.py": {"host", *PURE},
    "demo/finder.py": {"regions"},
    "demo/finding.py": set(),
    "bench": {"headless", "scoring", "progress"},
    "bench/page.py": set(),
    "bench/judging.py": {"demo", "regions", "scoring"},
    "bench/demo_scenes.py": {"demo"},
    "bench/demo_tasks.py": {"demo"},
    "bench/task_scores.py": {"demo", "scoring"},
    "bench/speed": {"host", "editors", "demo", *PURE},
    "bench/inversions.py": {"host", "demo", "inversion"},
    "bench/learned_words.py": {"host", "editors", "demo", "inversion", "prompts", "regions"},
    "bench/reliability": {"headless", "devtools"},
    "bench/reliability/hostile_nodes": set(),
    "bench/options.py": set(),
    "bench/ledger.py": set(),
    "bench/parsers.py": set(),
    "bench/methods.py": {"headless", "editors", "prompts", "regions"},
    "bench/own_input.py": {"headless"},
    "bench/lpips_network.py": {"scoring"},
    "bench/clip_network.py": {"scoring"},
    "bench/dino_network.py": {"scoring"},
    "bench/weight_files.py": set(),
    "bench/dask_workers.py": {"headless"},
    "headless": set(),
    **{f"headless/{name}.py": set() for name in ("batch", "jobs", "masks", "pictures")},
    "edit.py": {"headless"},
    "progress.py": set(),
    "dev.py": set(),
    "devtools": {"bench"},
    "devtools/environment.py": set(),  # builds an environment, knows no job
}
OTHERS: dict[str, set[str]] = {
    "__init__.py": set(),
    "nodes": {"torch", "numpy", *COMFY},
    "nodes/demo.py": {"torch", *COMFY},
    "host": {"torch", "numpy", *COMFY},
    **{folder: {"torch", "numpy"} for folder in ("editors", *PURE, "scoring", "demo")},
    "demo/stage.py": {"torch"},
    "demo/evaluate.py": {"torch", "numpy"},
    "demo/card_images.py": {"torch"},
    "demo/finder.py": {"torch"},
    "demo/finding.py": {"torch", "numpy"},
    **{f"host/scoring/{name}.py": {"torch", *COMFY} for name in SCORING},
    "host/inverting/files.py": {"safetensors", *COMFY},
    "regions/preview.py": {"torch", "numpy", "PIL"},  # labels need a font
    "scoring/comparison.py": {"torch", "numpy", "PIL"},  # labels need a font
    "scoring/clip.py": {"torch", "numpy", "PIL"},
    "scoring/lpips_network.py": {"torch"},
    "bench": {"torch", "numpy", "PIL", "aiohttp", "pydantic", "pydantic_core"},
    "bench/page.py": {"PIL", "jinja2", "markupsafe"},
    "bench/judging.py": {"torch"},
    "bench/demo_scenes.py": {"torch", "numpy", "PIL"},
    "bench/demo_tasks.py": set(),
    "bench/task_scores.py": {"torch"},
    "bench/lpips_network.py": {"torch"},
    "bench/clip_network.py": {"torch"},
    "bench/dino_network.py": set(),
    "bench/weight_files.py": {"torch"},
    "bench/dask_workers.py": set(),
    "bench/speed": {"torch", "numpy", *COMFY},
    **{f"bench/{name}.py": {"torch", "comfy"} for name in ("inversions", "learned_words")},
    "bench/reliability": {"PIL", "psutil"},  # psutil comes with ComfyUI
    "bench/reliability/hostile_nodes": {"torch"},  # a server loads them as a pack of their own
    "bench/ledger.py": set(),
    "bench/options.py": set(),  # dev.py reads arguments with it, before any environment
    "bench/parsers.py": set(),
    "bench/methods.py": {"torch", "numpy", "PIL"},
    "bench/own_input.py": {"PIL"},
    "headless": {"aiohttp"},
    **{f"headless/{name}.py": {"PIL"} for name in ("batch", "jobs", "masks", "pictures")},
    "edit.py": set(),
    "progress.py": {"tqdm"},
    "dev.py": set(),
    "devtools": set(),
    "devtools/environment.py": set(),
}
LATE: dict[str, set[str]] = {  # only inside a function
    "__init__.py": {"nodes"},
    "regions": {"transformers", "tokenizers", "scipy"},
    "attention": {"scipy"},
    "scoring/clip.py": {"transformers"},
    "scoring/lpips_network.py": {"torchvision"},
    "demo": COMFY | {"safetensors", "PIL"},
    "demo/finding.py": {"scipy"},
    "demo/card_images.py": COMFY,
    "bench/reliability/hostile_nodes": COMFY,
    "bench/lpips_network.py": {"torchvision", "torchmetrics"},
    "bench/clip_network.py": {"transformers"},
    "bench/weight_files.py": {"safetensors"},
    "bench/dask_workers.py": {"distributed"},
    "dev.py": {"torch", "comfy"},
}


@cache
def imports_of(file: str) -> list[tuple[str, bool]]:
    """Of a file of the pack."""
    return list(imports((ROOT / file).read_text(encoding="utf-8"), file))


def imports(source: str, file: str) -> Iterator[tuple[str, bool]]:
    """Every module a file imports, and whether inside a function; the pack's own start with '.'."""

    def visit(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from ((name, late) for name in resolved(node, names, file))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    return visit(ast.parse(source), False)


def resolved(node: ast.ImportFrom, names: list[str], file: str) -> list[str]:
    """`from ..a.b import c` as '.a.b', seen from the pack's root; `from .. import a` as '.a'."""
    if not node.level:
        return [node.module or ""]
    folders = Path(file).parts[:-1]
    if node.level > len(folders) + 1:
        return [f"outside the pack: {'.' * node.level}{node.module or ''}"]
    base = list(folders[: len(folders) + 1 - node.level])
    modules = [node.module] if node.module else names
    return ["." + ".".join([*base, module]) for module in modules]


def place_of(file: str) -> str:
    """The file itself, or the innermost of its folders, that has rules."""
    return next(str(p) for p in (Path(file), *Path(file).parents) if p.as_posix() in PACK)


def violations(source: str, file: str) -> list[str]:
    """What this file imports against the plan."""
    folder = file.split("/")[0]
    place = place_of(file)
    found = []
    for module, late in imports(source, file):
        own = module.startswith(".") or module.split(".")[0] == "ale_edit"
        top = module.lstrip(".").removeprefix("ale_edit.").split(".")[0]
        if own:
            allowed = top == folder or top in PACK[place] or (late and top in LATE.get(place, ()))
        else:
            allowed = (
                top in sys.stdlib_module_names
                or top in OTHERS[place]
                or (late and top in LATE.get(place, ()))
            )
        if not allowed or (own and not module.startswith(".")):
            found.append(f"{file} imports {module}{' (late)' if late else ''}")
    return found


def pack_files() -> list[str]:
    files = [path for path in ROOT.glob("*.py")]
    for folder in {place for place in PACK if not place.endswith(".py")}:
        files += (ROOT / folder).rglob("*.py")
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def test_imports_go_one_way_only():
    files = pack_files()
    assert "dev.py" in files and any(file.startswith("nodes/") for file in files)
    found = [
        violation
        for file in files
        for violation in violations((ROOT / file).read_text(encoding="utf-8"), file)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("attention/rgb_cam.py", "from ..inversion.update_rule import step"),
        ("attention/rgb_cam.py", "from .. import inversion"),
        ("attention/rgb_cam.py", "import comfy.model_management"),
        ("attention/rgb_cam.py", "def f():\n    import comfy.ops"),
        ("prompts/ore.py", "from ..host.text import spans"),
        ("prompts/ore.py", "import transformers"),
        ("regions/segment.py", "import transformers"),
        ("editors/ale.py", "from ..host import rows"),
        ("editors/ale.py", "import folder_paths"),
        ("host/attention/rows.py", "from ...nodes import sockets"),
        ("host/attention/rows.py", "from ...scoring import psnr"),
        ("host/attention/rows.py", "from ale_edit.prompts import edits"),
        ("host/scoring/similarity.py", "from ...demo.mini_clip import MiniClip"),
        ("host/text/embedding.py", "def f():\n    from ...demo.captions import unknown_words"),
        ("nodes/scores.py", "from ..demo.render import IMAGE_SIZE"),
        ("bench/runner.py", "from ..demo.world import unknown_words"),
        ("bench/scoring_pass.py", "def f():\n    from ..demo.judge import Judge"),
        ("demo/models.py", "import comfy.sd"),
        ("demo/models.py", "from ..prompts.edits import Edit"),
        ("bench/main_job.py", "def f():\n    from ..host import rows"),
        ("bench/main_job.py", "import nodes"),
        ("bench/options.py", "from PIL import Image"),
        ("bench/options.py", "from ..headless import ComfyClient"),
        ("bench/own_input.py", "import torch"),
        ("headless/client.py", "import requests"),
        ("headless/client.py", "from ..demo.world import render"),
        ("headless/client.py", "from ... import elsewhere"),
        ("headless/client.py", "from PIL import Image"),
        ("headless/pictures.py", "import torch"),
        ("edit.py", "import subprocess, torch"),
        ("edit.py", "from ale_edit.bench import main_job"),
        ("dev.py", "import torch"),
        ("dev.py", "import requests"),
        ("devtools/jobs.py", "import torch"),
        ("devtools/jobs.py", "from ..headless import ComfyClient"),
        ("devtools/environment.py", "from ..bench.options import JOBS"),
        ("__init__.py", "from .nodes import ALEEditExtension"),
        ("__init__.py", "import torch"),
    ],
)
def test_a_planted_import_against_the_plan_is_found(file: str, source: str):
    assert violations(source, file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nodes/model.py", "from ..host.rows import rows\nfrom comfy_api.latest import io"),
        ("regions/segment.py", "def load():\n    import transformers"),
        ("demo/models.py", "def build():\n    import comfy.sd"),
        ("bench/demo_scenes.py", "from ..demo.world import render\nfrom .pictures import x"),
        ("nodes/demo.py", "from ..demo.models import load_demo_model"),
        ("bench/speed/times.py", "from ...host.rows import rows\nimport comfy.samplers"),
        ("attention/rgb_cam.py", "import math\nimport torch\nfrom .maps import x"),
        ("__init__.py", "async def comfy_entrypoint():\n    from .nodes import ALEEditExtension"),
    ],
)
def test_imports_of_the_plan_are_allowed(file: str, source: str):
    assert not violations(source, file)


def loads(file: str) -> set[str]:
    """All files of the pack that are imported with a file, those inside functions left out."""
    found, todo = set(), [file]
    while todo:
        file = todo.pop()
        found.add(file)
        for name, late in imports_of(file):
            path = name.lstrip(".").replace(".", "/")
            if name.startswith(".") and not late:
                places = (
                    f"{path}.py",
                    f"{path}/__init__.py",
                    f"{path.rpartition('/')[0]}/__init__.py",
                )
                todo += [p for p in places if (ROOT / p).is_file() and p not in found]
    return found


def test_dev_py_reads_arguments_before_there_is_any_environment():
    """What `bench/options.py` loads needs the standard library alone."""
    assert loads("bench/options.py") == {
        *("bench/__init__.py", "bench/ledger.py", "bench/options.py", "bench/parsers.py"),
    }


DEMO_FILES = (
    *("nodes/demo.py", "bench/judging.py", "bench/demo_scenes.py"),
    *("bench/inversions.py", "bench/learned_words.py"),
    *("bench/demo_tasks.py", "bench/task_scores.py"),
    *(f"bench/speed/{name}.py" for name in ("command", "editors", "models", "whole")),
)
"""The files outside demo/ that know its world: they make it known to nodes and benches, draw its
data, or measure on its model."""


def test_the_demo_world_is_known_to_its_own_files_only():
    """Nor is it loaded with what edits, judges or measures by real models."""
    knowing = {
        file for file in pack_files() if any(m.startswith(".demo") for m, _ in imports_of(file))
    }
    assert {file for file in knowing if not file.startswith("demo/")} == set(DEMO_FILES)
    of_real_models = [
        *(f"bench/{name}.py" for name in ("runner", "scoring_pass", "editing", "main_job")),
        *(f"bench/{name}.py" for name in ("make_dataset", "pie_bench", "ale_bench", "worlds")),
        *(file for file in pack_files() if file.startswith(("host/", "headless/", "edit.py"))),
    ]
    for file in of_real_models:
        assert not [f for f in loads(file) if f.startswith("demo/") or f in DEMO_FILES], file
    assert "demo/captions.py" in loads("nodes/__init__.py")


def test_no_file_stands_outside_the_plan():
    outside = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("*/**/*.py")
        if path.relative_to(ROOT).parts[0] not in {*PACK, "tests", "output"}
        and not path.relative_to(ROOT).parts[0].startswith(".")
    ]
    assert not outside


def test_all_files_that_name_the_version_name_the_same():
    version = pack_version()  # of pyproject.toml
    headings = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    newest = next(heading for heading in headings if heading != "Unreleased")
    assert re.fullmatch(re.escape(version) + r" - 20\d\d-\d\d-\d\d", newest)
    answer = json.loads(read("web/version.json"))  # what a server answers (headless/client.py)
    assert answer == {"name": "ale-edit", "version": version}


def test_dev_py_and_the_constraints_pin_the_same_torch():
    constraints = read("dev-constraints.txt").splitlines()
    assert set(TORCH) <= set(constraints)
    pinned = {line.split("==")[0].lower() for line in constraints}
    assert {tool.lower() for tool in (*TOOLS, *UNLISTED)} <= pinned


def test_dev_py_is_a_door():
    assert len(read("dev.py").splitlines()) < 100


def test_no_python_file_is_over_400_lines():
    files = [*pack_files(), *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("tests/**/*.py"))]
    lengths = {file: len(read(file).splitlines()) for file in files}
    assert "demo/evaluate.py" in lengths and "tests/test_house.py" in lengths
    assert not {file: n for file, n in lengths.items() if n > 400}


def test_no_file_holds_a_path_of_one_machine():
    machine_paths = re.compile(r"/(?:root|work|opt|home/\w+)/")
    texts = [ROOT / "dev-constraints.txt", *ROOT.glob("*.md"), *ROOT.glob(".ci/*")]
    texts += [ROOT / file for file in pack_files()]
    found = [path.name for path in texts if machine_paths.search(path.read_text(encoding="utf-8"))]
    assert not found


def test_no_file_gives_an_address_of_this_repository():
    """There is none yet that a newcomer could clone."""
    invented = re.compile(r"(?:github|gitlab)\.com/[\w.-]*/?ale-edit|\bREPOSITORY\b")
    texts = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    texts += [*ROOT.glob("demo/*.md"), *ROOT.glob("web/docs/*.md")]
    found = [path.name for path in texts if invented.search(path.read_text(encoding="utf-8"))]
    assert not found


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
