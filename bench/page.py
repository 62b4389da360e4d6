"""The report as one HTML page that needs no network: set-up, plots, tables, and pictures."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .dataset import ImageEdit
from .editing import image_path, read_result
from .pictures import regions_view
from .plots import COLORS, Point, color_of, scatter
from .report import Results
from .scoring_pass import Values

_PANEL = 320  # greatest side of a picture in pixels
_PLOTS = (
    ("wrong, edited", "edited objects with another's attribute ↓"),
    ("TE", "TE, leakage into the background ↓"),
    ("TI", "TI, leakage into other objects ↓"),
)
_FIDELITY = ("psnr", "PSNR of the background (dB) ↑")


def page(title: str, results: Results, setup: Mapping[str, Any], pictures: int) -> str:
    """The page; `pictures`: of so many edits, spread evenly from the most leaking to the least."""
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in results.notes())
    tables = "".join(t.html() for t in results.tables())
    split = "".join(t.html() for t in results.split_tables())
    name = html.escape(title)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{name}</title><style>{_STYLE}</style></head><body><h1>{name}</h1>"
        f"<p>{html.escape(_summary(results))}</p>"
        f"<h2>Results</h2>{tables}{notes}"
        f"{_plots(results)}"
        f"<h2>By type and by number of objects</h2>{split}"
        f"{_gallery(results, pictures)}"
        f"<h2>Settings and versions</h2>{_facts(setup)}{_workflow(results)}</body></html>\n"
    )


def _summary(results: Results) -> str:
    images = len({e.image for e in results.edits})
    methods = ", ".join(m.label for m in results.methods)
    count = len(results.methods)
    by = "one method" if count == 1 else f"{count} methods"
    return f"{len(results.edits)} edits of {images} images by {by}: {methods}."


def _facts(setup: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(_told(value))}</dd>"
        for name, value in setup.items()
    )
    return f"<dl>{rows}</dl>"


def _workflow(results: Results) -> str:
    if not results.workflow:
        return ""
    text = html.escape(json.dumps(results.workflow, indent=1))
    what = html.escape(f"The whole workflow of {results.edits[0].id} by {results.reference.label}")
    return f"<details><summary>{what}</summary><div class=wide><pre>{text}</pre></div></details>"


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1)


# -- plots -----------------------------------------------------------------------------------------


def _plots(results: Results) -> str:
    """Leakage against fidelity, for each kind of leakage that has figures."""
    bootstrap = results.bootstrap()
    figures = []
    for name, label in _PLOTS:
        points = []
        for number, method in enumerate(results.methods, 1):
            x, y = (
                results.figure(bootstrap, method.name, figure, lambda _edit: True)
                for figure in (_FIDELITY[0], name)
            )
            if x.count and y.count:
                points.append(Point(number, method.label, x, y))
        if points:
            figures.append(f"<figure>{scatter(points, _FIDELITY[1], label)}</figure>")
    if not figures:
        return ""
    legend = "".join(
        f"<li><b style='background:{color_of(k)}'>{k}</b> {html.escape(m.label)}"
        for k, m in enumerate(results.methods, 1)
    )
    return (
        "<h2>Leakage against fidelity</h2><p class=note>Lower right is better; bars are 95 % "
        f"intervals.</p><ul class=legend>{legend}</ul><div class=plots>{''.join(figures)}</div>"
    )


# -- pictures --------------------------------------------------------------------------------------


def leak_of(values: Values) -> tuple[float, float]:
    """How much an edit leaked: the share of objects with another's attribute, then TE and TI."""
    wrong = [*values.get("wrong, edited", []), *values.get("wrong, untouched", [])]
    similar = [*values.get("TE", []), *values.get("TI", [])]
    return _mean(wrong), _mean(similar)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def ranked(results: Results) -> list[ImageEdit]:
    """Scored edits of the reference method, the most leaking first."""
    scored = results.scored[results.reference.name]
    edits = [e for e in results.edits if e.id in scored]
    return sorted(edits, key=lambda e: leak_of(scored[e.id]), reverse=True)


def spread_evenly(count: int, of: int) -> list[int]:
    """`count` places of 0 to of - 1, the first and the last among them."""
    if count >= of or count < 2:
        return list(range(min(count, of)))
    return [round(k * (of - 1) / (count - 1)) for k in range(count)]


def _gallery(results: Results, count: int) -> str:
    edits = ranked(results)
    places = spread_evenly(count, len(edits))
    if not places:
        return ""
    cards = "".join(_card(results, edits[k], f"{k + 1} of {len(edits)}") for k in places)
    some = f"{len(places)} of {len(edits)} edits, spread evenly,"
    chosen = some if len(places) < len(edits) else f"All {len(edits)} edits,"
    return (
        "<h2>Pictures, the most leaking first</h2>"
        f"<p class=note>{chosen} sorted by what leaked with "
        f"{html.escape(results.reference.label)}: the share of objects with another object's "
        f"attribute, then the mean of TE and TI, where there are such figures.</p>{cards}"
    )


def _card(results: Results, edit: ImageEdit, rank: str) -> str:
    dataset = results.dataset
    source = dataset.picture(edit.image)
    all_masks = dataset.masks(edit.image)
    regions = regions_view(source, [all_masks[o.object] for o in edit.objects], COLORS)
    panels = [_panel("source", source), _panel("regions", regions)]
    for method in results.methods:
        try:
            picture, _ = read_result(image_path(results.out, method.name, edit.id))
        except (FileNotFoundError, ValueError):
            continue
        values = results.scored[method.name].get(edit.id, {})
        panels.append(_panel(method.label, picture, _figures(values)))
    asked = "".join(
        f"<li><b style='background:{color_of(k)}'>{k}</b> "
        f"{html.escape(o.source)} → {html.escape(o.target)}"
        for k, o in enumerate(edit.objects, 1)
    )
    about = html.escape(f"{rank} · {edit.kind} · {edit.id}")
    return (
        f"<section><h3>{about}</h3><ul class=legend>{asked}</ul>"
        f"<div class=row>{''.join(panels)}</div></section>"
    )


def _figures(values: Values) -> str:
    """What is known of one image, in a few words."""
    told = []
    right = values.get("all", [])
    if right:
        told.append(f"right\xa0{sum(right):.0f}/{len(right)}")
    wrong = [*values.get("wrong, edited", []), *values.get("wrong, untouched", [])]
    if wrong:
        told.append(f"leaked\xa0{sum(wrong):.0f}/{len(wrong)}")
    told += [f"{name}\xa0{values[name][0]:.1f}" for name in ("TE", "TI") if values.get(name)]
    if values.get("psnr"):
        told.append(f"{values['psnr'][0]:.1f}\xa0dB")
    return ", ".join(told)


def _panel(label: str, picture: Image.Image, figures: str = "") -> str:
    if max(picture.size) > _PANEL:
        picture = picture.copy()
        picture.thumbnail((_PANEL, _PANEL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(label, quote=True)
    more = f"<small>{html.escape(figures)}</small>" if figures else ""
    return (
        f"<figure><img src='data:image/jpeg;base64,{data}' alt='{text}' "
        f"width={picture.width} height={picture.height}>"
        f"<figcaption>{text}{more}</figcaption></figure>"
    )


_STYLE = """
:root{color-scheme:light dark;--line:#ccc;--soft:#666;--shade:#f3f3f3}
@media(prefers-color-scheme:dark){:root{--line:#555;--soft:#aaa;--shade:#2a2a2a}}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1200px;padding:12px 16px 40px}
h1{font-size:1.6em;line-height:1.2;margin:.4em 0}
h2{font-size:1.25em;margin:1.8em 0 .4em;border-bottom:1px solid var(--line)}
h3{font-size:1em;margin:1.2em 0 .4em;overflow-wrap:anywhere}
.note,figcaption small{color:var(--soft);font-size:.85em}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.85em;font-variant-numeric:tabular-nums}
td,th{border:1px solid var(--line);padding:.3em .6em;text-align:left;white-space:nowrap}
thead th{background:var(--shade);white-space:normal;vertical-align:bottom;min-width:7em}
tbody th{background:Canvas;font-weight:600;position:sticky;left:0;min-width:9em;white-space:normal}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:12px}
.plots figure{margin:0;max-width:520px}
svg{width:100%;height:auto;font:12px system-ui,sans-serif;fill:currentColor}
svg .grid{stroke:var(--line);stroke-width:1}
svg .mark{fill:#fff;font-weight:700}
.legend{list-style:none;padding:0;margin:.3em 0;display:flex;flex-wrap:wrap;gap:2px 18px}
.legend b{color:#fff;border-radius:9px;min-width:18px;line-height:18px;display:inline-block;
text-align:center;font-size:12px}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:8px}
.row figure{margin:0;min-width:0}
.row img{width:100%;height:auto;display:block;border-radius:3px}
figcaption{font-size:.85em;line-height:1.3;padding-top:3px}
figcaption small{display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:0}
dt{font-weight:600}
dd{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
summary{margin-top:1em;cursor:pointer}
pre{font-size:.8em}
@media(max-width:600px){
.row{grid-template-columns:1fr 1fr}
tbody th{min-width:6.5em}
dl{grid-template-columns:1fr}
dd{margin-bottom:8px}
}
"""
