"""One file = one paper: its settings, its branches and its control."""

from typing import Any

from . import fpe, infedit, masactrl, p2p, pnp, sdedit
from .editor import Editor

EDITORS: tuple[Editor[Any], ...] = (
    infedit.EDITOR,
    masactrl.EDITOR,
    p2p.EDITOR,
    fpe.EDITOR,
    pnp.EDITOR,
    sdedit.EDITOR,
)
"""The editors whose node is made from their settings. ALE Edit has a node of its own
(nodes/editors.py), since its parts are nodes too."""
