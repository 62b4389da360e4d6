"""JSON files that people write: read, and what is wrong in them named by file, entry and key."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

FORMATS = "docs/bench.md has the format"
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """An object of a JSON file; `place` names it there, such as "edit 3"."""

    path: Path
    place: str
    content: dict[str, Any]

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """A key's value; ValueError where it is of another kind, or missing without a default."""
        if key not in self.content:
            if default is not None:
                return default
            raise self.wrong(f"has no key {key!r}")
        value = self.content[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(f"has another form: {key!r} is {_named(value)}, not {_KINDS[kind]}")
        return value

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        found = self.take(key, list, default)
        if other := [value for value in found if not isinstance(value, str)]:
            raise self.wrong(f"has another form: {key!r} holds {_named(other[0])}, not text alone")
        return tuple(found)

    def words(self, key: str) -> dict[str, str]:
        """An object of texts; without the key an empty one."""
        found = self.take(key, dict, {})
        for name, value in found.items():
            if not isinstance(value, str):
                raise self.wrong(
                    f"has another form: {name!r} in {key!r} is {_named(value)}, not text"
                )
        return dict(found)

    def part(self, key: str) -> "Entry":
        return Entry(self.path, f"{self.place}, {key!r}", self.take(key, dict))

    def parts(self, key: str) -> Iterator["Entry"]:
        """The objects of a list, named by their number."""
        for number, value in enumerate(self.take(key, list)):
            yield self._inner(f"{key!r}[{number}]", value)

    def named(self) -> Iterator[tuple[str, "Entry"]]:
        """The objects in this one, by their names."""
        for name, value in self.content.items():
            yield name, self._inner(repr(name), value)

    def _inner(self, name: str, value: Any) -> "Entry":
        if not isinstance(value, dict):
            raise self.wrong(f"has another form: {name} is {_named(value)}, not an object")
        return Entry(self.path, f"{self.place}, {name}", value)

    def wrong(self, what: str, cure: str = FORMATS) -> ValueError:
        return ValueError(f"{self.path}: {self.place} {what}. {cure[0].upper()}{cure[1:]}.")


def read_json(path: Path, what: str) -> Entry:
    """A file that holds one object; `what` it is, for the error that says that there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"There is no {what} {path}. Give the place of one.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder. Give the file of the {what}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Correct it there.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_named(content)}, not an object. {FORMATS.capitalize()}.")
    return Entry(path, "it", content)


def _named(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r}")
