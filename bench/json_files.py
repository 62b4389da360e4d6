"""JSON files that people write: read into dataclasses by pydantic, and what is wrong in them named
by file, entry and key."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

SHOWN = 20  # names in an error
FORMATS = "The format is in docs/bench.md"
EXACT = ConfigDict(extra="forbid")
"""As __pydantic_config__ of a dataclass: a key that is none of its fields is an error."""
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
_WANTED = {
    "string_type": _KINDS[str],
    "int_type": _KINDS[int],
    "list_type": _KINDS[list],
    "tuple_type": _KINDS[list],
    "dict_type": _KINDS[dict],
    "dataclass_type": _KINDS[dict],
}
_UNKNOWN = ("unknown_key", "unexpected_keyword_argument")
_T = TypeVar("_T")


def keys_of(known: Collection[str]) -> AfterValidator:
    """Annotates the keys of a dict: these alone are allowed."""

    def check(key: str) -> str:
        if key not in known:
            raise PydanticCustomError(_UNKNOWN[0], "unknown key", {"known": list(known)})
        return key

    return AfterValidator(check)


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file; `place` names it there, such as "'edits'[3]", the whole is ""."""

    path: Path
    place: str
    content: dict[str, Any]

    def read_as(self, kind: type[_T]) -> _T:
        """As a dataclass; ValueError names a key that does not fit: one that nothing reads before
        one that is missing, which may be the same one misspelt."""
        try:
            return TypeAdapter(kind).validate_python(self.content)
        except ValidationError as error:
            found = error.errors(include_url=False)
            first = min(found, key=lambda e: (e["type"] not in _UNKNOWN, len(e["loc"])))
            raise self._explain(first, kind) from None

    def entries(self) -> Iterator[tuple[str, "JsonObject"]]:
        """The objects in this one, by their names."""
        for name, value in self.content.items():
            if not isinstance(value, dict):
                raise self._misfit(repr(name), value, _KINDS[dict])
            yield name, JsonObject(self.path, self._place_of(repr(name)), value)

    def wrong(self, what: str, cure: str = FORMATS) -> ValueError:
        """The sentence for what is wrong here; `cure` is a sentence without its full stop."""
        place = f"{self.path}: {self.place}" if self.place else f"{self.path}"
        return ValueError(f"{place} {what}. {cure}.")

    def _explain(self, error: ErrorDetails, kind: Any) -> ValueError:
        """What pydantic found, with the innermost object that it is in as the place."""
        keys = [key for key in error["loc"] if key != "[key]"]
        *inner, last = keys
        own = self._find(inner)
        if error["type"] == "missing":
            return own.wrong(f"has no key {last!r}")
        if error["type"] in _UNKNOWN:
            known = error.get("ctx", {}).get("known") or _names_of(kind, inner)
            return own.wrong(
                f"has a key {last!r}, which nothing reads",
                f"Correct it; there are {', '.join(known)}",
            )
        while inner and isinstance(last, int):
            *inner, outer = inner
            own, last = self._find(inner), outer
        name = _name_place(keys[len(inner) :])
        return own._misfit(name, error["input"], _WANTED.get(error["type"], error["msg"]))

    def _find(self, keys: Sequence[int | str]) -> "JsonObject":
        """The object under these keys; an entry of a list is named by its number, and by its id
        where it has one."""
        place, content = self.place, cast("Any", self.content)
        for key in keys:
            content = content[key]
            if isinstance(key, int):
                own = content.get("id") if isinstance(content, dict) else None
                place += f"[{key}]" + (f" ({own!r})" if isinstance(own, str) else "")
            else:
                place = f"{place}, {key!r}" if place else repr(key)
        return JsonObject(self.path, place, content)

    def _misfit(self, name: str, value: Any, wanted: str) -> ValueError:
        return self.wrong(f"has another form: {name} is {_name_kind(value)}, not {wanted}")

    def _place_of(self, name: str) -> str:
        return f"{self.place}, {name}" if self.place else name


def read_json(path: Path, what: str, cure: str = "Give the place of one.") -> JsonObject:
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
    return JsonObject(path, "", content)


def list_some(names: Collection[str]) -> str:
    """The names, or the first of them and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _name_place(keys: Sequence[int | str]) -> str:
    """ "'tags'[0]"."""
    return "".join(f"[{key}]" if isinstance(key, int) else repr(key) for key in keys)


def _name_kind(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r}")


def _names_of(kind: Any, keys: Sequence[int | str]) -> list[str]:
    """The keys of the dataclass that stands under these keys of another one."""
    for key in keys:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        inner = get_args(kind)
        if is_dataclass(kind):
            kind = _hints_by_key(kind)[str(key)]
        else:
            kind = inner[1] if get_origin(kind) is dict else inner[0]
    return list(_hints_by_key(kind))


def _hints_by_key(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by their keys in a file: their aliases, or their names."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        notes = getattr(hints[field.name], "__metadata__", ())
        alias = next((note.alias for note in notes if isinstance(note, FieldInfo)), None)
        found[alias or field.name] = hints[field.name]
    return found
