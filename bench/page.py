"""The report as one HTML page that needs no network: set-up, plots, tables, and pictures.

report.html.jinja lays it out; what it shows is made here.
"""

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from .dataset import ImageEdit
from .editing import image_path, read_result
from .pictures import regions_view
from .plots import COLORS, Point, color_of, scatter
from .report import OF_THE_SOURCE, Results, describe_setup
from .scoring_pass import Values
from .statistics import Bootstrap

_PANEL = 320  # greatest side of a picture in pixels
_PLOTS = (
    ("wrong, edited", "edited objects with another's attribute ↓"),
    ("TE", "TE, leakage into the background ↓"),
    ("TI", "TI, leakage into other objects ↓"),
)
_FIDELITY = ("psnr", "PSNR of the background (dB) ↑")


@dataclass(frozen=True)
class Plot:
    """One kind of leakage against fidelity; or why there is none."""

    svg: Markup | None
    why: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture of a card, as data of a JPEG; `figures`: what is known of it, in a few words."""

    label: str
    data: str
    width: int
    height: int
    figures: str = ""


@dataclass(frozen=True)
class Card:
    """One edit: its rank, the source and target of each object, and its pictures."""

    edit: ImageEdit
    rank: str
    panels: list[Panel]


def page(title: str, results: Results, setup: Mapping[str, Any], pictures: int) -> str:
    """The page; `pictures`: of so many edits, spread evenly from the most leaking to the least."""
    bootstrap = results.bootstrap()
    plots = [plot for place in _PLOTS if (plot := _plot(results, bootstrap, *place))]
    edits = rank_edits(results)
    places = spread_evenly(pictures, len(edits))
    return _template().render(
        title=title,
        results=results,
        images=len({e.image for e in results.edits}),
        tables=[t.drop_empty_columns() for t in results.tables() if t.has_figures],
        split_tables=[t.drop_empty_columns() for t in results.split_tables()],
        has_intervals=len(bootstrap) > 1,
        plots=plots if any(plot.svg for plot in plots) else [],
        has_source_line=any("class=source" in (plot.svg or "") for plot in plots),
        ranked=len(edits),
        cards=[_card(results, edits[k], f"{k + 1} of {len(edits)}") for k in places],
        facts=describe_setup(setup),
        workflow=json.dumps(results.workflow, indent=1) if results.workflow else "",
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = mark_interval
    environment.globals["color_of"] = color_of
    return environment.get_template("report.html.jinja")


def mark_interval(text: str) -> Markup:
    """The text of a cell: an interval stands below its mean, an arrow stays beside its word."""
    text = re.sub(" (?=[↑↓])", "\xa0", text)
    parts = re.fullmatch(r"(.*) (\[[^]]*\])", text)
    return Markup("{}<small> {}</small>").format(*parts.groups()) if parts else Markup.escape(text)


def _plot(results: Results, bootstrap: Bootstrap, name: str, label: str) -> Plot | None:
    """One kind of leakage; None where it has no figures and should have none."""
    points = []
    for number, method in enumerate(results.methods, 1):
        x, y = (
            results.figure(bootstrap, method.name, figure, lambda _edit: True)
            for figure in (_FIDELITY[0], name)
        )
        if x.count and y.count:
            points.append(Point(number, method.label, x, y))
    if points:
        source = results.of_the_source(bootstrap, name)
        return Plot(Markup(scatter(points, _FIDELITY[1], label, source)))
    why = results.needs_several(name)
    return Plot(None, why) if why else None


# -- pictures --------------------------------------------------------------------------------------


def leak_of(values: Values) -> tuple[float, float]:
    """How much an edit leaked: the share of objects with another's attribute, then how far TE and
    TI are above those of the unedited source."""
    wrong = [*values.get("wrong, edited", []), *values.get("wrong, untouched", [])]
    risen = [
        value - _mean(values.get(OF_THE_SOURCE[name], []))
        for name in ("TE", "TI")
        for value in values.get(name, [])
    ]
    return _mean(wrong), _mean(risen)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def rank_edits(results: Results) -> list[ImageEdit]:
    """Scored edits of the reference method, the most leaking first."""
    scored = results.scored[results.reference.name]
    edits = [e for e in results.edits if e.name in scored]
    return sorted(edits, key=lambda e: leak_of(scored[e.name]), reverse=True)


def spread_evenly(count: int, of: int) -> list[int]:
    """`count` places of 0 to of - 1, the first and the last among them."""
    if count >= of or count < 2:
        return list(range(min(count, of)))
    return [round(k * (of - 1) / (count - 1)) for k in range(count)]


def _card(results: Results, edit: ImageEdit, rank: str) -> Card:
    dataset = results.dataset
    source = dataset.picture(edit.image)
    all_masks = dataset.masks(edit.image)
    regions = regions_view(source, [all_masks[o.number] for o in edit.objects], COLORS)
    panels = [_panel("source", source), _panel("regions", regions)]
    return Card(edit, rank, [*panels, *_show_edits(results, edit)])


def _show_edits(results: Results, edit: ImageEdit) -> Iterator[Panel]:
    """The edit by each method whose image is there."""
    for method in results.methods:
        try:
            picture, _ = read_result(image_path(results.out, method.name, edit.name))
        except (FileNotFoundError, ValueError):
            continue
        values = results.scored[method.name].get(edit.name, {})
        yield _panel(method.label, picture, caption(values))


def caption(values: Values) -> str:
    """What is known of one image, in a few words."""
    words = []
    right = values.get("all", [])
    if right:
        words.append(f"right\xa0{sum(right):.0f}/{len(right)}")
    wrong = [*values.get("wrong, edited", []), *values.get("wrong, untouched", [])]
    if wrong:
        words.append(f"leaked\xa0{sum(wrong):.0f}/{len(wrong)}")
    words += [_against_source(values, name) for name in ("TE", "TI") if values.get(name)]
    if values.get("psnr"):
        words.append(f"{values['psnr'][0]:.1f}\xa0dB")
    return ", ".join(words)


def _against_source(values: Values, name: str) -> str:
    """ "TE 35.6 (source 8.8)"."""
    own = values.get(OF_THE_SOURCE[name])
    beside = f"\xa0(source\xa0{own[0]:.1f})" if own else ""
    return f"{name}\xa0{values[name][0]:.1f}{beside}"


def _panel(label: str, picture: Image.Image, figures: str = "") -> Panel:
    if max(picture.size) > _PANEL:
        picture = picture.copy()
        picture.thumbnail((_PANEL, _PANEL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Panel(label, data, picture.width, picture.height, figures)
