"""One file = one paper: its settings, its branches and its control."""

from typing import Any

from . import (
    ale,
    cpam,
    diffedit,
    dpl,
    fpe,
    infedit,
    ledits,
    mag_edit,
    masactrl,
    p2p,
    pix2pix_zero,
    pnp,
    sdedit,
)
from .editor import Editor

EDITORS: tuple[Editor[Any], ...] = (
    ale.EDITOR,
    infedit.EDITOR,
    masactrl.EDITOR,
    p2p.EDITOR,
    fpe.EDITOR,
    pnp.EDITOR,
    sdedit.EDITOR,
    diffedit.EDITOR,
    ledits.EDITOR,
    cpam.EDITOR,
    mag_edit.EDITOR,
    dpl.EDITOR,
    pix2pix_zero.EDITOR,
)
"""All editors; host/editing.py runs each of them. Nodes, help pages, workflows, tests, benches and
edit.py go by this list."""

COMPARED = tuple(editor for editor in EDITORS if editor is not ale.EDITOR)
"""All editors but ALE Edit, whose node is written by hand, and which tables and benches run by the
workflow of its separate nodes."""
