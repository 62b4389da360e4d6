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


def page(title: str, results: Results, setup: Mapping[str, Any], pictures: int) -> str:
    """The page; `pictures`: of so many edits, spread evenly from the most leaking to the least."""
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in results.notes())
    tables = "".join(t.html() for t in results.tables() if t.has_figures)
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
    edits = _count_in_words(len(results.edits), "edit")
    return f"{edits} of {_count_in_words(images, 'image')} by {by}: {methods}."


def _count_in_words(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _facts(setup: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(chr(10).join(lines))}</dd>"
        for name, lines in describe_setup(setup)
    )
    return f"<dl>{rows}</dl>"


def _workflow(results: Results) -> str:
    if not results.workflow:
        return ""
    text = html.escape(json.dumps(results.workflow, indent=1))
    what = html.escape(f"The whole workflow of {results.edits[0].id} by {results.reference.label}")
    return f"<details><summary>{what}</summary><div class=wide><pre>{text}</pre></div></details>"


# -- plots -----------------------------------------------------------------------------------------


def _plots(results: Results) -> str:
    """Leakage against fidelity, for each kind of leakage that has figures or should have."""
    bootstrap = results.bootstrap()
    drawn = [_plot(results, bootstrap, name, label) for name, label in _PLOTS]
    if not any("<svg" in figure for figure in drawn):
        return ""
    legend = "".join(
        f"<li><b style='background:{color_of(k)}'>{k}</b> {html.escape(m.label)}"
        for k, m in enumerate(results.methods, 1)
    )
    line = (
        " The dashed line: TE or TI of the unedited source, into which nothing leaked."
        if any("class=source" in figure for figure in drawn)
        else ""
    )
    bars = "bars are 95 % intervals" if len(bootstrap) > 1 else "one image: no intervals"
    return (
        f"<h2>Leakage against fidelity</h2><p class=note>Lower right is better; {bars}.{line} A "
        "number stands beside its point where another one is in its place."
        f"</p><ul class=legend>{legend}</ul><div class=plots>{''.join(drawn)}</div>"
    )


def _plot(results: Results, bootstrap: Bootstrap, name: str, label: str) -> str:
    """One kind of leakage; or why it has no figures; or nothing."""
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
        return f"<figure>{scatter(points, _FIDELITY[1], label, source)}</figure>"
    why = results.needs_several(name)
    return f"<figure class=none><p>{html.escape(why)}</p></figure>" if why else ""


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
    edits = [e for e in results.edits if e.id in scored]
    return sorted(edits, key=lambda e: leak_of(scored[e.id]), reverse=True)


def spread_evenly(count: int, of: int) -> list[int]:
    """`count` places of 0 to of - 1, the first and the last among them."""
    if count >= of or count < 2:
        return list(range(min(count, of)))
    return [round(k * (of - 1) / (count - 1)) for k in range(count)]


def _gallery(results: Results, count: int) -> str:
    edits = rank_edits(results)
    places = spread_evenly(count, len(edits))
    if not places:
        return ""
    cards = "".join(_card(results, edits[k], f"{k + 1} of {len(edits)}") for k in places)
    some = f"{len(places)} of {len(edits)} edits, spread evenly,"
    chosen = some if len(places) < len(edits) else f"All of {_count_in_words(len(edits), 'edit')},"
    return (
        "<h2>Pictures, the most leaking first</h2>"
        f"<p class=note>{chosen} sorted by what leaked with "
        f"{html.escape(results.reference.label)}: the share of objects with another object's "
        "attribute, then how far TE and TI are above those of the unedited source, where there are "
        f"such figures. {_captions_in_words(results)}</p>{cards}"
    )


def _captions_in_words(results: Results) -> str:
    """What the captions of pictures say, as far as there are such figures."""
    judged = (
        "right 1/2: of two edited objects, one has all that was asked. leaked 0/2: of two objects "
        "of the image that could show what another one was to get, edited or not, none does. "
    )
    return (judged if results.is_judged else "") + "dB: PSNR of the background."


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
        panels.append(_panel(method.label, picture, caption(values)))
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
:root{color-scheme:light dark;--line:#ccc;--soft:#666;--tint:rgba(0,0,0,.05);--edge:rgba(0,0,0,.4)}
@media(prefers-color-scheme:dark){
:root{--line:#555;--soft:#aaa;--tint:rgba(255,255,255,.1);--edge:rgba(255,255,255,.45)}}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1200px;padding:12px 16px 40px}
h1{font-size:1.6em;line-height:1.2;margin:.4em 0}
h2{font-size:1.25em;margin:1.8em 0 .4em;border-bottom:1px solid var(--line)}
h3{font-size:1em;margin:1.2em 0 .4em;overflow-wrap:anywhere}
.note,figcaption small{color:var(--soft);font-size:.85em}
.wide{overflow-x:auto;width:fit-content;max-width:100%;background:
linear-gradient(to right,Canvas 30%,transparent) left/40px 100% no-repeat local,
linear-gradient(to left,Canvas 30%,transparent) right/40px 100% no-repeat local,
linear-gradient(to right,var(--edge),transparent) left/14px 100% no-repeat scroll,
linear-gradient(to left,var(--edge),transparent) right/14px 100% no-repeat scroll}
table{border-collapse:separate;border-spacing:0;font-size:.85em;font-variant-numeric:tabular-nums}
td,th{border:solid var(--line);border-width:0 1px 1px 0;padding:.3em .6em;text-align:left;
white-space:nowrap}
td small,th small{font-size:.9em;display:block;font-weight:400}
thead th{background:var(--tint);border-top-width:1px;white-space:normal;vertical-align:bottom;
min-width:4.5em}
th:first-child{position:sticky;left:0;border-left-width:1px;font-weight:600;min-width:9em;
white-space:normal;background:Canvas}
thead th:first-child{background:linear-gradient(var(--tint),var(--tint)) Canvas}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:12px}
.plots figure{margin:0;max-width:520px}
svg{width:100%;height:auto;font:12px system-ui,sans-serif;fill:currentColor}
svg .grid{stroke:var(--line);stroke-width:1}
svg line.source{stroke:currentColor;stroke-width:1.5;stroke-dasharray:6 4}
svg text.source{paint-order:stroke;stroke:Canvas;stroke-width:4px}
.plots .none{border:1px dashed var(--line);color:var(--soft);display:grid;place-items:center;
min-height:160px;padding:12px;text-align:center}
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
th:first-child{min-width:6.5em}
dl{grid-template-columns:1fr}
dd{margin-bottom:8px}
}
"""
