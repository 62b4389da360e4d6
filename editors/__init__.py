"""One file = one paper: its settings, its branches and its control."""

from . import infedit, masactrl, p2p
from .editor import Editor

EDITORS: tuple[Editor, ...] = (infedit.EDITOR, masactrl.EDITOR, p2p.EDITOR)
"""The editors whose node is made from their settings. ALE Edit has a node of its own
(nodes/editors.py), since its parts are nodes too."""
