"""Notices about settings of an edit that its inversion makes void."""

from __future__ import annotations

import math

from ...editors.editor import Start
from ...inversion.stored import OPTIMISED, Inversion
from ..messages import tell


def advise_negative(start: Start, guidance: float, node: str) -> None:
    """Gives a notice where an inversion puts its own text in the place of the negative input."""
    if start == "negative-prompt":
        own = "the source prompt"
    elif start in OPTIMISED and not math.isclose(guidance, 1.0):
        own = "texts that it optimises for each step"
    else:
        return
    tell(
        f"{node}: {start} inversion replaces the negative input with {own}. Disconnect negative, "
        "or use another inversion method."
    )


def advise_guidance(inversion: Inversion, guidance: float, node: str) -> None:
    """Gives a notice where null texts were found at another guidance than the edit runs at."""
    if inversion.method in OPTIMISED and abs(inversion.guidance - guidance) > 1e-6:
        tell(
            f"{node}: the inversion's null texts were found at guidance {inversion.guidance:g}, "
            f"but the edit runs at {guidance:g}; the source will not be followed well. Set "
            "source_guidance to the inversion's guidance."
        )
