"""Results as Markdown, JSON and one HTML page that needs no network."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

from PIL import Image

from .dataset import Dataset, ImageEdit
from .editing import image_path, read_result
from .methods import ALE, Method
from .scoring_pass import Values
from .statistics import DRAWS, SEED, Bootstrap, Figure

SHOWN = 15  # edits with pictures on the page: the first ones, whatever they show
_PANEL = 160


@dataclass(frozen=True)
class Column:
    """A figure in a table: its heading, digits, and the factor it is shown with."""

    figure: str
    heading: str
    digits: int = 3
    factor: float = 1.0


JUDGED = (
    Column("TE", "TE ↓", 2),
    Column("TI", "TI ↓", 2),
    Column("object", "object ↑"),
    Column("color", "color ↑"),
    Column("material", "material ↑"),
    Column("all", "all asked ↑"),
    Column("all, trained", "all, trained triples ↑"),
    Column("all, held out", "all, held-out triples ↑"),
    Column("wrong, edited", "wrong attribute, edited ↓"),
    Column("wrong, untouched", "wrong attribute, untouched ↓"),
)
BACKGROUND = (
    Column("psnr", "PSNR (dB) ↑", 2),
    Column("mse", "MSE x1000 ↓", 2, 1000),
    Column("ssim", "SSIM ↑"),
    Column("lpips", "LPIPS ↓"),
    Column("psnr, PIE-Bench", "PSNR, PIE-Bench ↑", 2),
    Column("mse, PIE-Bench", "MSE x1000, PIE-Bench ↓", 2, 1000),
    Column("ssim, PIE-Bench", "SSIM, PIE-Bench ↑"),
    Column("lpips, PIE-Bench", "LPIPS, PIE-Bench ↓"),
)
LEGEND = (
    "Mean [95 % interval], by bootstrap over scenes ({draws} draws, seed {seed}). TE, TI: mini "
    "CLIP, 100 x cosine. Object, color, material: share of edited objects with what was asked, "
    "by the judge; all: with all that was asked. Wrong attribute: share of objects that show what "
    "another object was to get. Background: over its pixels alone, and in PIE-Bench's way (over "
    "all pixels, objects black)."
)


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, *self.rows)]
        lines.insert(1, "|" + "---|" * len(self.columns))
        return f"{self.title}\n\n" + "\n".join(lines)

    def html(self) -> str:
        def cells(row: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"

        body = "".join(cells(row, "td") for row in self.rows)
        head = cells(self.columns, "th")
        return (
            f"<h2>{html.escape(self.title)}</h2><div class=wide><table>{head}{body}</table></div>"
        )


@dataclass(frozen=True)
class Results:
    """Figures of each method and edit of one data set; `missing`: metrics without figures, why."""

    dataset: Dataset
    edits: tuple[ImageEdit, ...]
    methods: tuple[Method, ...]
    scored: Mapping[str, Mapping[str, Values]]
    missing: Mapping[str, str]

    def bootstrap(self) -> Bootstrap:
        images = self.dataset.images
        return Bootstrap({e.id: images[e.image].group or e.image for e in self.edits})

    def figure(
        self, bootstrap: Bootstrap, method: str, name: str, keep: Callable[[ImageEdit], bool]
    ) -> Figure:
        return bootstrap.mean(self._values(method, name, keep))

    def _values(
        self, method: str, name: str, keep: Callable[[ImageEdit], bool]
    ) -> dict[str, list[float]]:
        scored = self.scored[method]
        kept = [e.id for e in self.edits if e.id in scored and keep(e)]
        return {i: scored[i].get(name, []) for i in kept}

    def summary(self) -> dict[str, Any]:
        """All figures as JSON, over all edits, by type, by number of objects; and differences to
        ALE-Edit, where it is among the methods (else to the last of them)."""
        bootstrap = self.bootstrap()
        names = [c.figure for c in (*JUDGED, *BACKGROUND)] + [
            "TE of the source",
            "TI of the source",
        ]
        reference = (ALE if ALE in self.methods else self.methods[-1]).name

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
                "edits": sum(e.id in self.scored[method.name] for e in self.edits),
                "figures": figures(method.name, _everything),
                "by type": {
                    k: figures(method.name, lambda e, k=k: e.type == k) for k in self.types()
                },
                "by objects": {
                    str(k): figures(method.name, lambda e, k=k: len(e.objects) == k)
                    for k in self.counts()
                },
                f"minus {reference}": differences(method.name),
            }
            for method in self.methods
        }

    def types(self) -> list[str]:
        return list(dict.fromkeys(e.type for e in self.edits))

    def counts(self) -> list[int]:
        return sorted({len(e.objects) for e in self.edits})

    def tables(self) -> list[Table]:
        """The two tables of figures, one row a method."""
        rows = [(m.label, m.name, _everything) for m in self.methods]
        return [
            self.table("Edited objects", "method", JUDGED, rows),
            self.table("Background", "method", BACKGROUND, rows),
        ]

    def split_tables(self) -> list[Table]:
        """What was asked for and wrong attributes, by type of edit and by number of objects."""
        bootstrap = self.bootstrap()
        splits: list[tuple[str, list[tuple[str, Callable[[ImageEdit], bool]]]]] = [
            ("type of edit", [(k, lambda e, k=k: e.type == k) for k in self.types()]),
            ("objects", [(str(k), lambda e, k=k: len(e.objects) == k) for k in self.counts()]),
        ]
        found = []
        for title, parts in splits:
            for column in (c for c in JUDGED if c.figure in ("all", "wrong, edited")):
                rows = tuple(
                    (m.label, *(self._cell(bootstrap, m.name, column, keep) for _, keep in parts))
                    for m in self.methods
                )
                heads = ("method", *(name for name, _ in parts))
                found.append(Table(f"{column.heading}, by {title}", heads, rows))
        return found

    def table(
        self,
        title: str,
        first: str,
        columns: Sequence[Column],
        rows: Sequence[tuple[str, str, Callable[[ImageEdit], bool]]],
    ) -> Table:
        """Rows of (label, method, which edits); columns without any figure say n/a."""
        bootstrap = self.bootstrap()
        cells = tuple(
            (
                label,
                str(sum(e.id in self.scored[method] and keep(e) for e in self.edits)),
                *(self._cell(bootstrap, method, column, keep) for column in columns),
            )
            for label, method, keep in rows
        )
        return Table(title, (first, "edits", *(c.heading for c in columns)), cells)

    def _cell(
        self, bootstrap: Bootstrap, method: str, column: Column, keep: Callable[[ImageEdit], bool]
    ) -> str:
        return shown(self.figure(bootstrap, method, column.figure, keep), column)

    def notes(self) -> list[str]:
        return [LEGEND.format(draws=DRAWS, seed=SEED)] + [
            f"{name}: {why}." for name, why in self.missing.items()
        ]


def _everything(_edit: ImageEdit) -> bool:
    return True


def shown(figure: Figure, column: Column) -> str:
    """ "0.85 [0.80, 0.90]", or n/a."""
    if not figure.count:
        return "n/a"
    numbers = (figure.value, figure.low, figure.high)
    value, low, high = (f"{n * column.factor:.{column.digits}f}" for n in numbers)
    return f"{value} [{low}, {high}]"


def _plain(figure: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in figure.items()}


def markdown(results: Results, setup: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in setup.items()]
    tables = [t.markdown() for t in (*results.tables(), *results.split_tables())]
    return "\n\n".join(["\n".join(lines), *results.notes(), *tables]) + "\n"


# -- the page --------------------------------------------------------------------------------------


def page(title: str, results: Results, setup: Mapping[str, Any]) -> str:
    """One HTML page: set-up, tables, and the pictures of the first edits."""
    facts = "".join(
        f"<li>{html.escape(name)}: {html.escape(str(value))}</li>" for name, value in setup.items()
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in results.notes())
    tables = "".join(t.html() for t in (*results.tables(), *results.split_tables()))
    rows = "".join(_pictures(results, edit) for edit in results.edits[:SHOWN])
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><ul>{facts}</ul>{notes}{tables}"
        f"<h2>The first {min(SHOWN, len(results.edits))} edits</h2>{rows}</html>\n"
    )


def _pictures(results: Results, edit: ImageEdit) -> str:
    out = results.dataset.folder.parent
    panels = [_panel("source", results.dataset.picture(edit.image))]
    for method in results.methods:
        try:
            picture, _ = read_result(image_path(out, method.name, edit.id))
        except (FileNotFoundError, ValueError):
            continue
        panels.append(_panel(method.label, picture))
    asked = "; ".join(f"{o.source} → {o.target}" for o in edit.objects)
    return (
        f"<h3>{html.escape(edit.id)}</h3><p>{html.escape(asked)}</p>"
        f"<div class=row>{''.join(panels)}</div>"
    )


def _panel(label: str, picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(label)
    return (
        f"<figure><img src='data:image/jpeg;base64,{data}' alt='{text}' width={_PANEL}>"
        f"<figcaption>{text}</figcaption></figure>"
    )


_STYLE = (
    "body{font:15px/1.4 sans-serif;margin:1em auto;max-width:1200px;padding:0 1em}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}"
    "td,th{border:1px solid #bbb;padding:.3em .5em;text-align:left;white-space:nowrap}"
    "th{white-space:normal}.row{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0}"
    "figcaption{font-size:13px}"
)
