"""Plots as SVG within a page: methods as numbered points with their intervals."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from .statistics import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a4fbf", "#555555")
"""Told apart also by the color-blind (after M. Okabe and K. Ito, 2008)."""
_WIDTH, _HEIGHT = 420, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 48
_TICKS = 5


@dataclass(frozen=True)
class Point:
    """A method's two figures, under its number."""

    number: int
    label: str
    x: Figure
    y: Figure


def color_of(number: int) -> str:
    return COLORS[(number - 1) % len(COLORS)]


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """An SVG image; points need figures."""
    x_ticks = ticks([v for p in points for v in (p.x.low, p.x.high)])
    y_ticks = ticks([v for p in points for v in (p.y.low, p.y.high)])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - _LEFT)

    def y_of(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - _TOP)

    parts = []
    for tick in x_ticks:
        at = x_of(tick)
        parts.append(_line(at, _TOP, at, bottom, "class=grid"))
        parts.append(_text(at, bottom + 17, _number(tick, x_ticks), "middle"))
    for tick in y_ticks:
        at = y_of(tick)
        parts.append(_line(_LEFT, at, right, at, "class=grid"))
        parts.append(_text(_LEFT - 7, at + 4, _number(tick, y_ticks), "end"))
    for p in points:
        style = f"stroke='{color_of(p.number)}' stroke-width=2"
        parts.append(_line(x_of(p.x.low), y_of(p.y.value), x_of(p.x.high), y_of(p.y.value), style))
        parts.append(_line(x_of(p.x.value), y_of(p.y.low), x_of(p.x.value), y_of(p.y.high), style))
    for p in points:
        x, y = x_of(p.x.value), y_of(p.y.value)
        title = html.escape(f"{p.label}: {p.x.value:.4g}, {p.y.value:.4g}")
        parts.append(
            f"<g><title>{title}</title>"
            f"<circle cx={x:.1f} cy={y:.1f} r=9 fill='{color_of(p.number)}' />"
            f"<text x={x:.1f} y={y + 4:.1f} text-anchor=middle class=mark>{p.number}</text></g>"
        )
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 8, x_label, "middle"))
    middle = (_TOP + bottom) / 2
    parts.append(_text(13, middle, y_label, "middle", f"transform='rotate(-90 13 {middle})'"))
    label = html.escape(f"{y_label} against {x_label}", quote=True)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{label}'>"
        f"{''.join(parts)}</svg>"
    )


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
