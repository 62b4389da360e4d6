"""Scores as text for people and as JSON for tools; one that does not exist is "n/a" or null."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from .leakage import Leakage
from .similarity import EditSimilarity

Figures = Mapping[str, float]
LINE = "  \n"  # Markdown, as Preview as Text shows it: two spaces keep the line break
BACKGROUND, PIE_BENCH = "background alone", "PIE-Bench"
STRUCTURE = "structure distance"


@dataclass(frozen=True)
class Summary:
    """text: for people. json: the same for tools, with "images", one entry for each picture, and
    "shown", the names of the figures that stand under a picture."""

    text: str
    json: str


@dataclass(frozen=True)
class EditScores:
    """What a similarity model says of one picture."""

    leakage: Leakage
    similarity: EditSimilarity

    @property
    def figures(self) -> dict[str, float]:
        return {
            "TE": self.leakage.te,
            "TI": self.leakage.ti,
            "edited regions, mean over objects": self.similarity.objects,
            "edited regions, together": self.similarity.union,
            "whole image": self.similarity.whole,
        }


def number(value: float, digits: int = 2) -> str:
    return "n/a" if isnan(value) else f"{value:.{digits}f}"


def mean(values: Sequence[float]) -> float:
    """NaN of nothing, and where a value is NaN."""
    return sum(values) / len(values) if values else nan


def leakage_summary(
    objects: Sequence[str],
    prompt: str,
    model: str,
    edited: Sequence[EditScores],
    source: Sequence[EditScores],
    notes: Sequence[str] = (),
) -> Summary:
    """Of one or several edited pictures, and of their source pictures, if known."""
    rows = [(_name_row("edited", edited, i), scores) for i, scores in enumerate(edited)]
    rows += [(_name_row("source", source, i), scores) for i, scores in enumerate(source)]
    lines = [f"Leakage (100 x cosine of {model}; lower is better)"]
    lines += [f"{name}: TE {number(s.leakage.te)}, TI {number(s.leakage.ti)}" for name, s in rows]
    lines.append("Similarity to the target (higher is better)")
    lines += [f"{name}: {_similarity_line(scores.similarity)}" for name, scores in rows]
    lines.append(f"Targets in their places, {rows[0][0]}")
    lines += _pair_lines(objects, edited[0].leakage)
    content = {
        "score": "leakage",
        "similarity": model,
        "objects": list(objects),
        "prompt": prompt,
        "shown": ["TE", "TI"],
        "images": [_entry(scores) for scores in edited],
        "source": [_entry(scores) for scores in source],
    }
    return _summary(lines, notes, content)


def _name_row(name: str, rows: Sequence[Any], index: int) -> str:
    return f"{name} {index + 1}" if len(rows) > 1 else name


def _similarity_line(found: EditSimilarity) -> str:
    return (
        f"each region {number(found.objects)}, regions together {number(found.union)}, whole image "
        f"{number(found.whole)}"
    )


def _pair_lines(objects: Sequence[str], found: Leakage) -> list[str]:
    """A line for each target: its score on each region and on the background."""
    places = [f"region {i + 1}" for i in range(len(objects))] + ["background"]
    return [
        f'{i + 1} "{name}": '
        + ", ".join(f"{place} {number(v)}" for place, v in zip(places, row, strict=True))
        for i, (name, row) in enumerate(zip(objects, found.pairs.tolist(), strict=True))
    ]


def _entry(scores: EditScores) -> dict[str, Any]:
    return {**scores.figures, "pairs": scores.leakage.pairs.tolist()}


def preservation_summary(
    pictures: Sequence[Mapping[str, Figures]],
    structure: Sequence[float],
    notes: Sequence[str] = (),
) -> Summary:
    """pictures: for each edited picture, BACKGROUND and PIE_BENCH with their figures."""
    lines = []
    for i, (ways, distance) in enumerate(zip(pictures, structure, strict=True)):
        name = _name_row("edited", pictures, i)
        lines += [f"{name}, {way}: {_preservation_line(found)}" for way, found in ways.items()]
        lines.append(f"{name}, {STRUCTURE}: {number(distance, 5)}")
    images = [
        {**ways[BACKGROUND], STRUCTURE: distance, PIE_BENCH: dict(ways[PIE_BENCH])}
        for ways, distance in zip(pictures, structure, strict=True)
    ]
    content = {"score": "preservation", "shown": ["PSNR", "SSIM"], "images": images}
    return _summary(lines, notes, content)


def _preservation_line(found: Figures) -> str:
    digits = {"PSNR": 2, "MSE": 6}
    return ", ".join(
        f"{name} {number(value, digits.get(name, 4))}"
        + (" dB" if name == "PSNR" and not isnan(value) else "")
        for name, value in found.items()
    )


def _summary(lines: Sequence[str], notes: Sequence[str], content: dict[str, Any]) -> Summary:
    content = {**content, "notes": list(notes)}
    return Summary(LINE.join([*lines, *notes]), json.dumps(_plain(content), ensure_ascii=False))


def _plain(value: Any) -> Any:
    """The value with null for every number that is none, as JSON has no NaN."""
    if isinstance(value, float) and isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def picture_lines(text: str) -> list[str]:
    """For each picture of a summary's JSON one line with its shown figures.

    Raises ValueError where the text is no such JSON.
    """
    try:
        content = json.loads(text)
        shown, images = content["shown"], content["images"]
        return ["  ".join(f"{k} {_format(entry[k])}" for k in shown) for entry in images]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"it is not the JSON of a score ({type(error).__name__}: {error})"
        ) from error


def _format(value: float | None) -> str:
    return "n/a" if value is None else number(value, 2)
