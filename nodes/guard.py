"""Every node looks at its inputs before its work, and its errors are readable."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from comfy_api.latest import io

from ..host.inputs import readable, require_input


def guard(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, with a look at its inputs before its work."""
    schema = node.GET_SCHEMA()
    entries = {entry.id: entry for entry in schema.inputs}
    title = schema.display_name.partition(" (")[0]
    work = node.execute.__func__  # pyright: ignore[reportFunctionMemberAccess]
    names = [name for name in inspect.signature(work).parameters if name in entries]

    def look(name: str, given: Any) -> None:
        entry = entries[name]
        if given is None and entry.optional:
            return
        limits = {name: getattr(entry, name, None) for name in ("min", "max")}
        for value in (given or []) if schema.is_input_list else [given]:
            require_input(title, name, entry.io_type, value, limits)

    @functools.wraps(work)
    def look_and_work(cls: Any, *values: Any, **inputs: Any) -> Any:
        inputs = {**dict(zip(names, values, strict=False)), **inputs}
        try:
            for name, given in inputs.items():
                look(name, given)
            return work(cls, **inputs)
        except ValueError as error:
            text = readable(str(error))
            if text == str(error):
                raise
            raise ValueError(text).with_traceback(error.__traceback__) from None

    members = {"execute": classmethod(look_and_work), "__module__": node.__module__}
    return type(node.__name__, (node,), members)
