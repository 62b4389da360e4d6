"""JSON files that people write: read, and what is wrong in them named by file, entry and key."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SHOWN = 20  # names in an error
FORMATS = "The format is in docs/bench.md"
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """An object of a JSON file; `place` names it there, such as "'edits'[3]", the whole is ""."""

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
            raise self.wrong(
                f"has another form: {key!r} is {_name_kind(value)}, not {_KINDS[kind]}"
            )
        return value

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        found = self.take(key, list, default)
        if other := [value for value in found if not isinstance(value, str)]:
            raise self.wrong(
                f"has another form: {key!r} holds {_name_kind(other[0])}, not text alone"
            )
        return tuple(found)

    def words(self, key: str, known: Collection[str] = ()) -> dict[str, str]:
        """An object of texts, of `known` keys if there are any; without the key an empty one."""
        found = self.take(key, dict, {})
        if known:
            Entry(self.path, self._place_of(repr(key)), found).only(known)
        for name, value in found.items():
            if not isinstance(value, str):
                raise self.wrong(
                    f"has another form: {name!r} in {key!r} is {_name_kind(value)}, not text"
                )
        return dict(found)

    def part(self, key: str) -> "Entry":
        return Entry(self.path, self._place_of(repr(key)), self.take(key, dict))

    def only(self, known: Collection[str]) -> None:
        """ValueError for a key that is none of these."""
        if unknown := [key for key in self.content if key not in known]:
            raise self.wrong(
                f"has a key {unknown[0]!r}, which nothing reads",
                f"Correct it; there are {', '.join(known)}",
            )

    def parts(self, key: str) -> Iterator["Entry"]:
        """The objects of a list, named by their number, and by their id where they have one."""
        for number, value in enumerate(self.take(key, list)):
            own = value.get("id") if isinstance(value, dict) else None
            called = f" ({own!r})" if isinstance(own, str) else ""
            yield self._inner(f"{key!r}[{number}]{called}", value)

    def entries(self) -> Iterator[tuple[str, "Entry"]]:
        """The objects in this one, by their names."""
        for name, value in self.content.items():
            yield name, self._inner(repr(name), value)

    def _inner(self, name: str, value: Any) -> "Entry":
        if not isinstance(value, dict):
            raise self.wrong(f"has another form: {name} is {_name_kind(value)}, not an object")
        return Entry(self.path, self._place_of(name), value)

    def _place_of(self, name: str) -> str:
        return f"{self.place}, {name}" if self.place else name

    def wrong(self, what: str, cure: str = FORMATS) -> ValueError:
        """The sentence for what is wrong here; `cure` is a sentence without its full stop."""
        place = f"{self.path}: {self.place}" if self.place else f"{self.path}"
        return ValueError(f"{place} {what}. {cure}.")


def read_json(path: Path, what: str, cure: str = "Give the place of one.") -> Entry:
    """A file that holds one object; `what` it is and the `cure`, for the error where there is
    none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"There is no {what} {path}. {cure}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder. Give the file of the {what}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Correct it there.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_name_kind(content)}, not an object. {FORMATS}.")
    return Entry(path, "", content)


def list_some(names: Collection[str]) -> str:
    """The names, or the first of them and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _name_kind(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r}")
