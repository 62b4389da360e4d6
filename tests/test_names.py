"""Names of the pack: functions have no participles for names, and nothing shadows a builtin."""

import ast
import builtins
from collections.abc import Iterator

import pytest

from ale_edit.tests.test_house import pack_files, read

IRREGULAR = {
    *("built", "bound", "brought", "chosen", "done", "drawn", "found", "given", "held", "hidden"),
    *("kept", "known", "laid", "left", "lent", "lost", "made", "said", "sent", "shown", "sunk"),
    *("taken", "told", "thrown", "torn", "unknown", "written", "worn"),
}
NOT_PARTICIPLES = ("embed", "need", "speed", "seed", "shed", "feed", "proceed", "red")
NOUNS = {
    "left_to_right": "the direction of reading",
    "unknown_words": "the words themselves, as a tokenizer names them",
    "unknown": "a property: the id of the unknown token",
}


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (word.endswith("ed") and word not in NOT_PARTICIPLES)


def wrong_names(source: str) -> Iterator[str]:
    """Functions named by a participle or by what they are with or without, and parameters and
    fields with the name of a builtin."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, *more = node.name.strip("_").split("_")
            is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
            bad = is_participle(first) and not (is_property and more)
            if (bad or first in ("with", "without")) and node.name not in NOUNS:
                yield node.name
        elif isinstance(node, ast.arg) and is_builtin(node.arg):
            yield node.arg
        elif isinstance(node, ast.ClassDef):
            fields = [s.target for s in node.body if isinstance(s, ast.AnnAssign)]
            yield from (f.id for f in fields if isinstance(f, ast.Name) and is_builtin(f.id))


def is_builtin(name: str) -> bool:
    return hasattr(builtins, name)


def test_functions_have_no_participles_for_names_and_nothing_shadows_a_builtin():
    found = {file: names for file in pack_files() if (names := [*wrong_names(read(file))])}
    assert not found


def test_every_noun_of_the_list_is_in_use():
    whole = "\n".join(read(file) for file in pack_files())
    assert all(f"def {name}(" in whole for name in NOUNS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def told(): ...", "told"),
        ("def masked_workflow(): ...", "masked_workflow"),
        ("async def _noised(): ...", "_noised"),
        ("def with_room(): ...", "with_room"),
        ("def _without_masks(): ...", "_without_masks"),
        ("class A:\n    @property\n    def changed(self): ...", "changed"),
        ("class A:\n    def kept_alone(self): ...", "kept_alone"),
        ("def f(input): ...", "input"),
        ("def f(*, id=0): ...", "id"),
        ("class A:\n    type: str", "type"),
    ],
)
def test_a_planted_name_is_found(source: str, name: str):
    assert list(wrong_names(source)) == [name]


@pytest.mark.parametrize(
    "source",
    [
        "def read_table(): ...",
        "def set_up(): ...",
        "def embed_edits(): ...",
        "def need_tools(): ...",
        "def mask_workflow(type_name): ...",
        "class A:\n    @property\n    def fixed_rows(self): ...",
        "class A:\n    kind: str",
    ],
)
def test_plain_names_are_allowed(source: str):
    assert not list(wrong_names(source))
