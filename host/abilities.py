"""Edits that add or remove an object, and who refuses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from ..editors import EDITORS
from ..editors.editor import Ability
from ..prompts.edits import Edit, Edits

WAYS_OUT: Mapping[Ability, tuple[str, str]] = {
    "add": ("source", "what the object is now"),
    "remove": ("target", "what the object becomes"),
}
"""The phrase that is missing, and what to write in its place."""


def require_abilities(
    edits: Edits, node: str, abilities: Set[Ability] = frozenset[Ability]()
) -> None:
    """Raises ValueError for an edit that adds or removes an object where that is not among the
    abilities of an editor."""
    for edit in edits.items:
        if edit.source and edit.target:
            continue
        needed: Ability = "remove" if edit.source else "add"
        if needed in abilities:
            continue
        missing, instead = WAYS_OUT[needed]
        able = " or ".join(editor.title for editor in EDITORS if needed in editor.abilities)
        raise ValueError(
            f'{node}: the edit "{edit.text}" has no {missing} phrase, so it is to {needed} an '
            f"object, which is not possible here. Use {able}, or write {instead}."
        )


def require_visible(edits: Iterable[Edit], node: str) -> None:
    """Raises ValueError for an edit that adds an object, where objects are looked for."""
    for edit in edits:
        if not edit.source:
            raise ValueError(
                f'{node}: the edit "{edit.text}" adds an object, which cannot be found in the '
                "image. Paint a mask where the object is to be, and connect it to its Edit Object."
            )
