"""Results as tables of figures with intervals, as Markdown and as JSON (page.py: as a page)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from ..headless.tasks import Outcome
from .dataset import Dataset, ImageEdit
from .figure_table import BACKGROUND, JUDGED, PIE_BENCH, SPLIT, Column, FigureTable, show_figure
from .methods import ALE, Method
from .scoring_pass import Values
from .statistics import DRAWS, SEED, Bootstrap, Figure

Parts = Sequence[tuple[str, Callable[[ImageEdit], bool]]]
"""Parts of the edits: their name, and which they are."""


OF_THE_SOURCE = {
    name: f"{name} of the source"
    for name in ("TE", "TI", "CLIP, objects", "CLIP, union", "CLIP, whole")
    + ("gone", "CLIP, background", "background")
}
PRESERVATION = "Background and structure"
PIE_PRESERVATION = f"{PRESERVATION}, in PIE-Bench's way"
SOURCE = "source, unedited"
INTERVALS = (
    "Each figure is a mean with its 95 % interval, by bootstrap over groups of edits that share an "
    "image ({draws} draws, seed {seed}). There is no interval where all edits are of one image. "
)
ONE_IMAGE = "Each figure is a mean; one image: no interval. "
LEGEND = (
    "TE and TI are 100 x the cosine of CLIP between the targets' phrases and the background (TE) "
    "or the other objects (TI). CLIP is the same between each edited object and its target, all "
    "edited regions and the target prompt, and the whole image and the target prompt. The unedited "
    "source stands beside them. Background figures are over its pixels alone; PIE-Bench's way "
    "takes all pixels, with black objects. The structure distance compares whole images by the "
    "keys of DINO's ViT-B/8; PIE-Bench's way uses the input scale of its code. n/a means that "
    "there is no such figure, as for TI with one object; a column of n/a alone is left out. n is "
    "the number of edits that have the figure."
)
JUDGED_LEGEND = (
    "Object, color and material are the shares of edited objects that have what was asked, by the "
    "demo world's judge; all asked is the share with all of it. Wrong attribute is the share of "
    "objects that show what another object was to get. The judge always names the nearest shape, "
    "color and material, even where an object vanished into a smudge, so the shares of what was "
    "asked are too high by such cases. Without --clip, TE and TI use the demo world's mini CLIP."
)
OF_TASKS = {
    "removal": "Object gone is the share of removed objects at whose place the demo world's finder "
    "finds nothing: no patch that covers a tenth of the object's mask, or of which half lies in "
    "it. Other objects kept is the share of those that were not edited in which the judge still "
    "reads all that they were.",
    "background": "CLIP, new background is 100 x the cosine of the demo world's mini CLIP between "
    "the whole image and the objects' phrases in front of the background that was asked for. Shows "
    "the new background is the share of images that fit this better than any of the seven other "
    "backgrounds. All objects are to stay: object, color, material and all asked are the shares of "
    "those that still have what they had.",
}
OF_TASKS["mixed"] = OF_TASKS["removal"] + " All asked and the like are of the objects that change."
"""What the figures of a task's edit lists (demo_tasks.py) mean."""
BETWEEN = {"TI": "TI", "wrong, edited": "Wrong attribute, edited"}
"""Figures that need several edited objects, and how a text calls them."""


@dataclass(frozen=True)
class Results:
    """Figures of each method and edit of one data set; `missing`: metrics without figures, why.

    out: where the images are. outcome: what the editing said, of failures and servers.
    workflow: the whole one of the first edit by `reference`; methods say what they change in it.
    """

    dataset: Dataset
    edits: tuple[ImageEdit, ...]
    methods: tuple[Method, ...]
    scored: Mapping[str, Mapping[str, Values]]
    missing: Mapping[str, str]
    out: Path
    outcome: Outcome = field(default_factory=Outcome)
    workflow: Mapping[str, Any] = field(default_factory=dict)

    def bootstrap(self) -> Bootstrap:
        images = self.dataset.images
        return Bootstrap({e.name: images[e.image].group or e.image for e in self.edits})

    def figure(
        self, bootstrap: Bootstrap, method: str, name: str, keep: Callable[[ImageEdit], bool]
    ) -> Figure:
        return bootstrap.mean(self._values(method, name, keep))

    def _values(
        self, method: str, name: str, keep: Callable[[ImageEdit], bool]
    ) -> dict[str, list[float]]:
        scored = self.scored[method]
        kept = [e.name for e in self.edits if e.name in scored and keep(e)]
        return {i: scored[i].get(name, []) for i in kept}

    def summary(self) -> dict[str, Any]:
        """All figures as JSON, over all edits, by type, by number of objects; and differences to
        ALE-Edit, where it is among the methods (else to the last of them)."""
        bootstrap = self.bootstrap()
        columns = (*JUDGED, *BACKGROUND, *PIE_BENCH)
        names = [*(c.figure for c in columns), *OF_THE_SOURCE.values()]
        reference = self.reference.name

        def figures(method: str, keep: Callable[[ImageEdit], bool]) -> dict[str, Any]:
            found = {n: self.figure(bootstrap, method, n, keep) for n in names}
            return {n: _plain(asdict(f)) for n, f in found.items() if f.count}

        def differences(method: str) -> dict[str, Any]:
            found = {}
            for n in names:
                mine, theirs = (self._values(m, n, _everything) for m in (method, reference))
                found[n] = bootstrap.difference(mine, theirs)
            return {n: _plain(asdict(f)) for n, f in found.items() if not isnan(f.value)}

        return {
            method.name: {
                "label": method.label,
                "edits": sum(e.name in self.scored[method.name] for e in self.edits),
                "figures": figures(method.name, _everything),
                "by type": {
                    k: figures(method.name, lambda e, k=k: e.kind == k) for k in self.types()
                },
                "by objects": {
                    str(k): figures(method.name, lambda e, k=k: len(e.objects) == k)
                    for k in self.counts()
                },
                f"minus {reference}": differences(method.name),
            }
            for method in self.methods
        }

    @property
    def reference(self) -> Method:
        return reference_of(self.methods)

    def types(self) -> list[str]:
        return list(dict.fromkeys(e.kind for e in self.edits))

    def counts(self) -> list[int]:
        return sorted({len(e.objects) for e in self.edits})

    def choose_columns(self, columns: Sequence[Column]) -> list[Column]:
        """Without those of which nothing here has a figure, and nobody would miss one."""
        present = {n for found in self.scored.values() for v in found.values() for n in v}
        return [c for c in columns if c.figure in present or c.metric in self.missing]

    def tables(self) -> list[FigureTable]:
        """The tables of figures, one row a method."""
        rows = [(m.label, m.name, _everything) for m in self.methods]
        return [
            self.table("Edited objects", "method", JUDGED, rows),
            self.table(PRESERVATION, "method", BACKGROUND, rows),
            self.table(PIE_PRESERVATION, "method", PIE_BENCH, rows),
        ]

    def split_tables(self, by_count: bool = True) -> list[FigureTable]:
        """The figures of SPLIT that there are, by kind of edit and by number of objects."""
        counted = [(str(k), lambda e, k=k: len(e.objects) == k) for k in self.counts()]
        splits: list[tuple[str, Parts]] = [
            ("type of edit", [(k, lambda e, k=k: e.kind == k) for k in self.types()]),
            *([("number of objects", counted)] if by_count else []),
        ]
        columns = [c for c in (*JUDGED, *BACKGROUND) if c.figure in SPLIT and self._has(c.figure)]
        return [
            self._split_table(f"{column.heading}, by {title}", column, parts)
            for title, parts in splits
            for column in columns
        ]

    def _split_table(self, title: str, column: Column, parts: Parts) -> FigureTable:
        """One figure; a column a part of the edits, with the number of those that have it."""
        bootstrap = self.bootstrap()
        rows = [
            (m.label, *(self._cell(bootstrap, m.name, column, keep) for _, keep in parts))
            for m in self.methods
        ]
        own = [self.of_the_source(bootstrap, column.figure, keep) for _, keep in parts]
        if any(figure.count for figure in own):
            rows.append((SOURCE, *(show_figure(figure, column) for figure in own)))
        heads = (f"{name} (n = {self._number(column.figure, keep)})" for name, keep in parts)
        return FigureTable(title, ("method", *heads), tuple(rows))

    def _number(self, figure: str, keep: Callable[[ImageEdit], bool]) -> int:
        """Of edits for which some method has the figure."""
        with_it = {i for found in self.scored.values() for i, v in found.items() if v.get(figure)}
        return sum(e.name in with_it and keep(e) for e in self.edits)

    def of_the_source(
        self,
        bootstrap: Bootstrap,
        figure: str,
        keep: Callable[[ImageEdit], bool] = lambda _edit: True,
    ) -> Figure:
        """What the unedited images score; without a value where that is not scored."""
        kept = {e.name for e in self.edits if keep(e)}
        by_edit = {i: v for found in self.scored.values() for i, v in found.items() if i in kept}
        name = OF_THE_SOURCE.get(figure, "")
        return bootstrap.mean({i: v.get(name, []) for i, v in by_edit.items()})

    def needs_several(self, figure: str) -> str:
        """Why a figure of BETWEEN is n/a, where that is for want of edits of several objects."""
        single = all(len(e.objects) == 1 for e in self.edits)
        scored = self._has({"TI": "TE"}.get(figure, "all"))
        return (
            f"{BETWEEN[figure]} is n/a: every edit has one object."
            if figure in BETWEEN and single and scored and not self._has(figure)
            else ""
        )

    @property
    def is_judged(self) -> bool:
        return self._has("all")

    def _has(self, figure: str) -> bool:
        return any(v.get(figure) for found in self.scored.values() for v in found.values())

    def table(
        self,
        title: str,
        first: str,
        columns: Sequence[Column],
        rows: Sequence[tuple[str, str, Callable[[ImageEdit], bool]]],
    ) -> FigureTable:
        """Rows of (label, method, which edits), and what the source itself scores."""
        bootstrap = self.bootstrap()
        columns = self.choose_columns(columns)
        cells = tuple(
            (
                label,
                str(sum(e.name in self.scored[method] and keep(e) for e in self.edits)),
                *(self._cell(bootstrap, method, column, keep) for column in columns),
            )
            for label, method, keep in rows
        )
        cells += tuple(self._source_rows(bootstrap, columns))
        return FigureTable(title, (first, "edits", *(c.heading for c in columns)), cells)

    def _source_rows(
        self, bootstrap: Bootstrap, columns: Sequence[Column]
    ) -> Iterator[tuple[str, ...]]:
        """What the unedited images score, where that was scored."""
        own = [self.of_the_source(bootstrap, c.figure) for c in columns]
        if any(figure.count for figure in own):
            scored = {i for found in self.scored.values() for i in found}
            cells = (
                show_figure(figure, c) if c.figure in OF_THE_SOURCE else "-"
                for figure, c in zip(own, columns, strict=True)
            )
            yield (SOURCE, str(sum(e.name in scored for e in self.edits)), *cells)

    def _cell(
        self, bootstrap: Bootstrap, method: str, column: Column, keep: Callable[[ImageEdit], bool]
    ) -> str:
        return show_figure(self.figure(bootstrap, method, column.figure, keep), column)

    def notes(self) -> list[str]:
        """What the tables mean, what is missing, and what failed."""
        return [*self.legend(), *self.remarks()]

    def legend(self) -> list[str]:
        """What the tables mean, and which figures nobody computed."""
        several = len(self.bootstrap()) > 1
        means = INTERVALS.format(draws=DRAWS, seed=SEED) if several else ONE_IMAGE
        return [
            means + LEGEND,
            *([JUDGED_LEGEND] if self.is_judged else []),
            *(f"{name}: {why}." for name, why in self.missing.items()),
        ]

    def remarks(self) -> list[str]:
        """What holds for these tables alone."""
        failed = self.outcome.failed
        task = str(self.dataset.about.get("task", ""))
        return [
            *([OF_TASKS[task]] if task in OF_TASKS else []),
            *filter(None, map(self.needs_several, BETWEEN)),
            *([f"{len(failed)} images failed and are not scored."] if failed else []),
            *(f"{name} failed: {why}" for name, why in failed.items()),
        ]


def reference_of(methods: Sequence[Method]) -> Method:
    """The method that others are compared with: ALE-Edit, or else the last one."""
    return ALE if ALE in methods else methods[-1]


def _everything(_edit: ImageEdit) -> bool:
    return True


def _plain(figure: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in figure.items()}


def markdown(results: Results, setup: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {'; '.join(lines)}" for name, lines in describe_setup(setup)]
    tables = [t.markdown() for t in (*results.tables(), *results.split_tables()) if t.has_figures]
    return "\n\n".join(["\n".join(lines), *results.notes(), *tables]) + "\n"


def describe_setup(setup: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """A set-up's entries for readers: each with its name and lines of text."""
    names = {"made": "how it was made"}
    return [(names.get(name, name), _lines(value)) for name, value in setup.items()]


def _lines(value: Any) -> list[str]:
    """A line for each entry of a mapping; what is nested in it as PART.NAME=VALUE."""
    if not isinstance(value, Mapping):
        return [_in_words(value)]
    return [
        f"{name}: " + ", ".join(f"{path}={v}" if path else v for path, v in _leaves(entry))
        for name, entry in value.items()
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, _in_words(value)
        return
    for name, entry in value.items():
        yield from _leaves(entry, f"{path}.{name}" if path else str(name))


def _in_words(value: Any) -> str:
    """Lists as "1, 2, 3"; texts as they are; the rest as JSON."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return value if isinstance(value, str) else json.dumps(value)
