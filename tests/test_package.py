"""The published package: what .comfyignore leaves of a clone is whole, and works as a node pack."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ale_edit.tests.packing import ROOT, pack, packed_names
from ale_edit.tests.test_house import imports

CLONE = re.compile(r"from a clone|git clone", re.IGNORECASE)
TEMPLATES = "/api/workflow_templates/ale-edit/"
LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
DEVELOPERS = ("dev.py", "devtools/", "bench/", "tests/", ".ci/", "demo/train", "dev-constraints")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("package"))


def names(package: Path) -> set[str]:
    return {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}


def test_the_rules_are_read_as_git_reads_them(tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("# a comment\n/bench/\n/demo/train*.py\n*.pyc\n!keep.pyc\n")
    (tmp_path / "empty").mkdir()
    files = ["bench/a.py", "docs/bench/a.md", "demo/train_x.py", "demo/x.py", "a.pyc", "keep.pyc"]
    kept = packed_names(files, rules, tmp_path / "empty")
    assert kept == ["docs/bench/a.md", "demo/x.py", "keep.pyc"]


def test_pictures_ship_and_what_only_developers_use_does_not(package):
    shipped = names(package)
    assert not [name for name in shipped if name.startswith(DEVELOPERS)]
    pictures = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/images").iterdir()}
    assert pictures and pictures <= shipped
    assert {"edit.py", "pyproject.toml", "LICENSE", "web/version.json"} <= shipped
    assert {"demo/weights/unet.safetensors", "workflows/ale_edit_one_node.jpg"} <= shipped
    translated = {path.relative_to(ROOT).as_posix() for path in (ROOT / "locales").rglob("*.json")}
    assert translated and translated <= shipped


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in kept}


def package_of(page: Path) -> Path:
    """The root of the package that a page is in."""
    return next(folder for folder in page.parents if (folder / "pyproject.toml").is_file())


def broken_links(page: Path) -> list[str]:
    found = []
    for pair in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = "".join(pair).partition("#")
        if ":" in target:  # of the web
            continue
        if target.startswith(TEMPLATES):  # ComfyUI serves the pack's workflows there
            path = package_of(page) / "workflows" / target.removeprefix(TEMPLATES)
        else:
            path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(f"{page.name}: {''.join(pair)}")
    return found


def test_every_relative_link_resolves_in_the_package(package):
    pages = sorted(package.rglob("*.md"))
    assert {"README.md", "CONTRIBUTING.md", "MODEL_CARD.md", "ALEEdit.md"} <= {
        p.name for p in pages
    }
    assert any(LINK.search(page.read_text(encoding="utf-8")) for page in pages)
    broken = [link for page in pages for link in broken_links(page)]
    assert not broken, "\n".join(broken)


def test_a_link_to_nothing_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#other) ![c](c.png) [d](https://d/e)\n")
    assert broken_links(page) == ["page.md: #other", "page.md: c.png"]


def says_clone_in_time(text: str) -> bool:
    """Whether a text says that it is about a clone, before or where it first names dev.py."""
    first = text.find("dev.py")
    if first < 0:
        return True
    end = text.find("\n\n", first)
    return bool(CLONE.search(text[: end if end >= 0 else len(text)]))


def test_a_command_that_needs_a_clone_says_so(package):
    """README in each of its sections, other pages where they first name dev.py."""
    silent = []
    for page in sorted(package.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        parts = text.split("\n## ") if page.name == "README.md" else [text]
        silent += [f"{page.name}: {part[:40]!r}" for part in parts if not says_clone_in_time(part)]
    for workflow in sorted((package / "workflows").rglob("*.json")):
        text = workflow.read_text(encoding="utf-8")
        silent += [workflow.name] if not says_clone_in_time(text) else []
    assert not silent, "\n".join(silent)


def sentences(file: Path) -> Iterator[str]:
    """The texts of a module that a person can see: all but docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and id(node) not in docstrings:
            yield value


def test_an_error_that_names_a_tool_of_developers_says_that_it_is_in_a_clone(package):
    silent = [
        f"{file.relative_to(package)}: {text}"
        for file in sorted(package.rglob("*.py"))
        for text in sentences(file)
        if "dev.py" in text and not CLONE.search(text)
    ]
    assert not silent, "\n".join(silent)


def own_imports(package: Path, name: str) -> set[str]:
    """The files of the package that this file needs; one that is not there has its likely name."""
    found = set()
    for module, _late in imports((package / name).read_text(encoding="utf-8"), name):
        if not module.startswith("."):
            continue
        place = module[1:].replace(".", "/")
        choices = [f"{place}.py", f"{place}/__init__.py"]
        found.add(next((file for file in choices if (package / file).is_file()), choices[0]))
    return found


def test_every_import_of_the_package_is_in_it(package):
    shipped = names(package)
    missing = {
        f"{name} needs {needed}"
        for name in shipped
        if name.endswith(".py")
        for needed in own_imports(package, name) - shipped
    }
    assert not missing, "\n".join(sorted(missing))


def test_of_the_demo_world_exactly_what_nodes_and_edit_py_need_is_in_it(package):
    modules = {name for name in names(package) if name.endswith(".py")}
    reached = {name for name in modules if not name.startswith("demo/")} | {"demo/__init__.py"}
    new = reached
    while new:
        new = {needed for name in new for needed in own_imports(package, name)} - reached
        reached |= new
    demo = {name for name in modules if name.startswith("demo/")}
    assert demo == {name for name in reached if name.startswith("demo/")}
    assert {"demo/models.py", "demo/weights.py"} <= demo


IMPORT_ALL = """
import importlib, importlib.util, sys
from pathlib import Path
package, comfyui = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, comfyui)
import torch
from comfy.cli_args import args
args.cpu = not torch.cuda.is_available()
spec = importlib.util.spec_from_file_location(
    "ale_edit", package / "__init__.py", submodule_search_locations=[str(package)]
)
sys.modules["ale_edit"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for file in sorted(package.glob("*/**/*.py")):
    place = file.relative_to(package).with_suffix("")
    importlib.import_module(".".join(["ale_edit", *place.parts]).removesuffix(".__init__"))
from ale_edit.demo.models import load_demo_model
print(len(load_demo_model()), Path(sys.modules["ale_edit.nodes"].__file__).parent.parent)
"""


@pytest.mark.comfy
def test_every_module_of_the_package_can_be_imported_and_the_demo_model_loads(package, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(package), os.environ["COMFYUI_PATH"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(package)


def test_edit_py_of_the_package_starts(package, tmp_path):
    done = subprocess.run(
        [sys.executable, str(package / "edit.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--image" in done.stdout, done.stderr
