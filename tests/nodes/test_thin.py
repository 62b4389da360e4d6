"""Nodes are thin: a schema, and one call."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ale_edit.editors import COMPARED
from ale_edit.tests.nodes.graph import nodes

FOLDER = Path(__file__).resolve().parents[2] / "nodes"
FILES = sorted(FOLDER.glob("*.py"))
LONGEST_BODY = 15
HEAVY = ("torch", "numpy", "math", "PIL", "comfy")

every_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def functions(path: Path, name: str) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]


def test_the_nodes_are_found() -> None:
    """Those written by hand, and one for all editors whose node is made from its settings."""
    assert sum(len(functions(path, "execute")) for path in FILES) == 33
    assert len(nodes()) - len(COMPARED) + 1 == 33


@every_file
def test_a_body_has_at_most_fifteen_lines(path: Path) -> None:
    for function in functions(path, "execute"):
        first, last = function.body[0], function.body[-1]
        lines = (last.end_lineno or last.lineno) - first.lineno + 1
        assert lines <= LONGEST_BODY, f"{path.name}:{function.lineno}"


@every_file
def test_a_body_holds_no_arithmetic(path: Path) -> None:
    sums = (ast.BinOp, ast.AugAssign, ast.For, ast.While)
    for function in functions(path, "execute"):
        inside = (node for statement in function.body for node in ast.walk(statement))
        found = [node for node in inside if isinstance(node, sums)]
        assert not found, f"{path.name}:{found[0].lineno}"


@every_file
def test_no_node_imports_a_library_that_computes(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not _is_for_types(n)]
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0]
    names += [n.module or "" for n in imports]
    assert not {name.split(".")[0] for name in names} & set(HEAVY)


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
