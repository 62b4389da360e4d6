"""Plots as SVG within a page: methods as numbered points with their intervals."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, dist, floor, log10, radians, sin

from .statistics import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a4fbf", "#555555")
"""Told apart also by the color-blind (after M. Okabe and K. Ito, 2008)."""
_WIDTH, _HEIGHT = 420, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 48
_RIGHT_EDGE, _BOTTOM_EDGE = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
_TICKS = 5
_RADIUS = 9  # of a mark, the disc with a method's number
_APART = 2 * _RADIUS + 2
_RINGS = 4  # where a mark can go that does not find its own place free, and in which directions:
_WAYS = (45, -45, 135, -135, 75, -75, 15, -15, 105, -105, 165, -165)  # away from the bars first
_LETTER = 6.5  # about the width of a letter

Place = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A method's two figures, under its number."""

    number: int
    label: str
    x: Figure
    y: Figure


def color_of(number: int) -> str:
    return COLORS[(number - 1) % len(COLORS)]


@dataclass(frozen=True)
class _Axes:
    """From figures to pixels."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def x_of(self, value: float) -> float:
        return _LEFT + _share(value, self.x_ticks) * (_RIGHT_EDGE - _LEFT)

    def y_of(self, value: float) -> float:
        return _BOTTOM_EDGE - _share(value, self.y_ticks) * (_BOTTOM_EDGE - _TOP)

    def centre(self, point: Point) -> Place:
        return self.x_of(point.x.value), self.y_of(point.y.value)


def _share(value: float, all_ticks: Sequence[float]) -> float:
    return (value - all_ticks[0]) / (all_ticks[-1] - all_ticks[0])


def scatter(
    points: Sequence[Point], x_label: str, y_label: str, source: Figure | None = None
) -> str:
    """An SVG image; points need figures. `source`: the unedited source's y, as a dashed line."""
    source = source if source and source.count else None
    y_values = [v for p in points for v in _ends(p.y)] + ([source.value] if source else [])
    axes = _Axes(ticks([v for p in points for v in _ends(p.x)]), ticks(y_values))
    centres = [axes.centre(p) for p in points]
    marks = places(centres, (_LEFT, _TOP, _RIGHT_EDGE, _BOTTOM_EDGE))
    parts = [*_grid(axes), *_names(x_label, y_label)]
    if source:
        at = axes.y_of(source.value)
        parts.append(_line(_LEFT, at, _RIGHT_EDGE, at, "class=source"))
    parts += [part for p in points for part in _bars(axes, p)]
    parts += [_pointer(*of) for of in zip(points, centres, marks, strict=True) if of[1] != of[2]]
    if source:
        parts.append(_source_label(source, axes.y_of(source.value), [*centres, *marks]))
    parts += [_mark(p, place) for p, place in zip(points, marks, strict=True)]
    label = html.escape(f"{y_label} against {x_label}", quote=True)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{label}'>"
        f"{''.join(parts)}</svg>"
    )


def _grid(axes: _Axes) -> Iterator[str]:
    for tick in axes.x_ticks:
        at = axes.x_of(tick)
        yield _line(at, _TOP, at, _BOTTOM_EDGE, "class=grid")
        yield _text(at, _BOTTOM_EDGE + 17, _number(tick, axes.x_ticks), "middle")
    for tick in axes.y_ticks:
        at = axes.y_of(tick)
        yield _line(_LEFT, at, _RIGHT_EDGE, at, "class=grid")
        yield _text(_LEFT - 7, at + 4, _number(tick, axes.y_ticks), "end")


def _names(x_label: str, y_label: str) -> Iterator[str]:
    middle = (_TOP + _BOTTOM_EDGE) / 2
    yield _text((_LEFT + _RIGHT_EDGE) / 2, _HEIGHT - 8, x_label, "middle")
    yield _text(13, middle, y_label, "middle", f"transform='rotate(-90 13 {middle})'")


def _bars(axes: _Axes, point: Point) -> Iterator[str]:
    style = f"stroke='{color_of(point.number)}' stroke-width=2"
    x, y = axes.centre(point)
    left, right = map(axes.x_of, _ends(point.x))
    low, high = map(axes.y_of, _ends(point.y))
    yield _line(left, y, right, y, style)
    yield _line(x, low, x, high, style)


def _pointer(point: Point, centre: Place, mark: Place) -> str:
    """From a mark that stands beside its point to the point."""
    color, (x, y) = color_of(point.number), centre
    dot = f"<circle class=point cx={x:.1f} cy={y:.1f} r=3 fill='{color}' />"
    return _line(*centre, *mark, f"stroke='{color}' stroke-width=1") + dot


def _mark(point: Point, place: Place) -> str:
    x, y = place
    title = html.escape(f"{point.label}: {point.x.value:.4g}, {point.y.value:.4g}")
    return (
        f"<g><title>{title}</title><circle class=disc cx={x:.1f} cy={y:.1f} r={_RADIUS} "
        f"fill='{color_of(point.number)}' />"
        f"<text x={x:.1f} y={y + 4:.1f} text-anchor=middle class=mark>{point.number}</text></g>"
    )


def _ends(figure: Figure) -> Place:
    """Of the bar: both are the value where there is no interval."""
    return (figure.low, figure.high) if figure.has_interval else (figure.value, figure.value)


def places(centres: Sequence[Place], inside: tuple[float, float, float, float]) -> list[Place]:
    """Where marks stand so that none covers another: on their points as far as that can be, else
    beside them within `inside` (left, top, right, bottom)."""
    left, top, right, bottom = inside
    found: list[Place] = []
    for k, centre in enumerate(centres):
        others = [c for c in centres[k + 1 :] if dist(c, centre) >= _APART]
        free = (
            place
            for place in (centre, *_around(centre))
            if all(dist(place, taken) >= _APART for taken in (*found, *others))
            and left + _RADIUS <= place[0] <= right - _RADIUS
            and top + _RADIUS <= place[1] <= bottom - _RADIUS
        )
        alone = all(dist(centre, taken) >= _APART for taken in found)
        found.append(centre if alone else next(free, centre))
    return found


def _around(centre: Place) -> Iterator[Place]:
    """Places in rings about a point."""
    for ring in range(1, _RINGS + 1):
        away = ring * _APART * 1.1
        for way in map(radians, _WAYS):
            yield centre[0] + away * cos(way), centre[1] - away * sin(way)


def _source_label(source: Figure, y: float, taken: Sequence[Place]) -> str:
    """At that end of the line, above or below it, where marks are farthest."""
    text = f"source {source.value:.1f}"
    half = len(text) * _LETTER / 2
    spots = [
        (x, y + up)
        for up in (-5, 14)
        for x in (_RIGHT_EDGE - half, _LEFT + half + 3)
        if y + up - 8 > _TOP and y + up < _BOTTOM_EDGE
    ]

    def room(spot: Place) -> float:
        return min((max(abs(x - spot[0]) - half, abs(y - spot[1] + 4) - 6) for x, y in taken))

    x, baseline = max(spots, key=lambda spot: min(room(spot), _APART))
    return _text(x, baseline, text, "middle", "class=source")


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, evenly apart, from below the least to above the greatest value."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (_TICKS - 1)
    power = 10 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _number(value: float, all_ticks: Sequence[float]) -> str:
    step = all_ticks[1] - all_ticks[0]
    digits = max(0, -floor(log10(step) + 1e-9))
    if round(step, digits) != round(step, digits + 1):
        digits += 1  # steps of 2.5
    return f"{value:.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f"<line x1={x1:.1f} y1={y1:.1f} x2={x2:.1f} y2={y2:.1f} {style} />"


def _text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    escaped = html.escape(text)
    return f"<text x={x:.1f} y={y:.1f} text-anchor={anchor} {extra}>{escaped}</text>"
