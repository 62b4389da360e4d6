"""Hostile values of each type of widget, as JSON carries them."""

from __future__ import annotations

import math
from typing import Any

LONG = 20_000
BEYOND = 10**30
BIGGEST = 1.7e308

Values = dict[str, Any]
"""Value by kind."""

NUMBERS: Values = {
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "beyond 64 bits": BEYOND,
    "negative, beyond 64 bits": -BEYOND,
    "biggest float": BIGGEST,
    "empty text": "",
    "a word": "many",
    "the word nan": "nan",
    "null": None,
    "an object": {},
    "true": True,
    "a number and a word": "3 steps",
}
TEXTS: Values = {
    "empty": "",
    "blanks": " \t\n ",
    "null": None,
    "a number": -7.5,
    "an object": {"a": 1},
    "one letter": "a",
    "an arrow alone": "->",
    "arrows": "a -> b -> c",
    "no source": " -> blue ball",
    "no target": "red ball -> ",
    "the same twice": "red ball -> red ball\nred ball -> blue ball",
    "a hundred edits": "\n".join(f"red ball {k} -> blue ball {k}" for k in range(100)),
    "very long": "red ball " * (LONG // 9),
    "one very long word": "x" * LONG,
    "very long edit": f"{'red ' * (LONG // 8)}ball -> {'blue ' * (LONG // 8)}ball",
    "many lines": "\n" * LONG,
    "emoji": "🐺👩\u200d🚀 -> 🐐",
    "right to left": "\u202eذئب -> ماعز\u202c",
    "Chinese": "红色的球 -> 蓝色的球",
    "combining marks": "b" + "\u0301" * 300 + "all -> ball",
    "zero width": "re\u200bd ba\u2060ll\ufeff -> blue ball",
    "NUL": "red\0ball -> blue\0ball",
    "lone surrogate": "red \ud83d ball -> blue ball",
    "line separators": "red ball\u2028 -> blue\u0085 ball\u2029",
    "open brackets": "((((((((((red ball -> [[[[blue ball",
    "weight of NaN": "(red ball:nan) -> (blue ball:nan)",
    "weight of 1e39": "(red ball:1e39) -> (blue ball:-1e39)",
    "weight of inf": "(red ball:inf) -> (blue ball:inf)",
    "an embedding": "embedding:no_such_file -> embedding:../../secret",
    "a path": "../../../../etc/passwd",
    "a format": "%s%n{0}{__class__} -> ${HOME} %date%",
    "markup": "<script>alert(1)</script> -> <img src=x onerror=y>",
    "JSON cut off": '{"TE": [1, 2',
    "JSON null": "null",
    "JSON list": "[[1, 2], 3]",
    "JSON NaN": '{"TE": NaN, "images": [{"TE": NaN}]}',
    "JSON, deep": "[" * 3000,
    "JSON of other keys": '{"images": 7, "source": {"TE": "x"}}',
}
CHOICES: Values = {
    "empty": "",
    "unknown": "magic",
    "other case": "PAPER",
    "null": None,
    "a number": 0,
    "NaN": math.nan,
    "an object": {"a": 1},
    "very long": "x" * LONG,
    "emoji": "🐺",
    "lone surrogate": "\ud83d",
    "a path": "../../../../etc/passwd",
}
TRUTHS: Values = {
    "the word false": "false",
    "empty text": "",
    "null": None,
    "a number": 7,
    "NaN": math.nan,
    "an object": {},
}
LITERALS: Values = {"a file name": "photo.png", "a number": 1.5, "null": None, "an object": {}}
"""In the place of a link."""


def bounds(kind: str, options: dict[str, Any]) -> Values:
    """The edges of a number's range, and what lies just beyond them."""
    step = 1 if kind == "INT" else 1e-6
    found: Values = {}
    if "min" in options:
        found |= {"least": options["min"], "below the least": options["min"] - step}
    if "max" in options:
        found |= {"most": options["max"], "above the most": options["max"] + step}
    if kind == "INT":
        found["half"] = options.get("min", 0) + 0.5
    return found


def widget_values(kind: Any, options: dict[str, Any]) -> Values:
    """Hostile values of a widget by its entry in /object_info; none for a socket."""
    if isinstance(kind, list) or kind == "COMBO":
        return CHOICES
    if kind in ("INT", "FLOAT"):
        return {**NUMBERS, **bounds(kind, options)}
    return {"STRING": TEXTS, "BOOLEAN": TRUTHS}.get(kind, {})
