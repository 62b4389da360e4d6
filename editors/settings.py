"""One field of an editor's settings, with what a node shows of it."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, tooltip: str, **shown: Any) -> Any:
    """A dataclass field. shown: "min", "max" and "step" of a number, "choices" of a word."""
    return field(default=default, metadata={"tooltip": tooltip, **shown})
