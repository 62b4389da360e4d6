"""Learning curves as one SVG picture, from the tables that the stages write while they train."""

import csv
from collections.abc import Sequence
from math import floor, log10
from pathlib import Path

from .stage import CURVE_COLUMNS

PICTURE = "curves.svg"
_WIDTH, _HEIGHT = 420, 220  # of one stage's panel
_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 34, 14, 34
_COLUMNS = 2
_MOST_POINTS = 300

Curve = list[tuple[float, float]]


def write_curves(out: Path) -> Path:
    """Draw every NAME.csv of a training folder as a panel of out/curves.svg; returns its path."""
    curves = {path.stem: read_curve(path) for path in sorted(out.glob("*.csv"))}
    path = out / PICTURE
    path.write_text(draw_curves({k: v for k, v in curves.items() if v}), encoding="utf-8")
    return path


def read_curve(path: Path) -> Curve:
    """(samples, loss) of each report, without a half-written last line and without what an
    interrupted run did after its last checkpoint, which was done again.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    curve: Curve = []
    for row in rows:
        if len(row) == len(CURVE_COLUMNS) and row[2]:
            samples, loss = float(row[0]), float(row[2])
            while curve and curve[-1][0] >= samples:
                curve.pop()
            curve.append((samples, loss))
    return curve


def draw_curves(curves: dict[str, Curve]) -> str:
    """SVG text: one panel per stage, loss on a logarithmic axis against samples."""
    rows = -(-len(curves) // _COLUMNS)
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT}"'
    panels = [
        f'<g transform="translate({i % _COLUMNS * _WIDTH} {i // _COLUMNS * _HEIGHT})">'
        f"{_panel(name, _thin(curve))}</g>"
        for i, (name, curve) in enumerate(curves.items())
    ]
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
        f"{background}{''.join(panels)}</svg>\n"
    )


def _panel(name: str, curve: Curve) -> str:
    """One stage's axes, ticks and line."""
    most = curve[-1][0]
    low, high = min(y for _, y in curve), max(y for _, y in curve)
    low, high = (low / 1.1, high * 1.1) if low > 0 else (1e-6, max(high, 1e-5))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(samples: float, loss: float) -> tuple[float, float]:
        x = _LEFT + width * samples / most
        share = log10(max(loss, low) / low) / log10(high / low)
        return x, _TOP + height * (1 - share)

    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
    marks = [f'<text x="{_LEFT}" y="20" font-weight="bold">{name}: loss against samples</text>']
    for loss in _log_ticks(low, high):
        y = place(0, loss)[1]
        marks.append(f'<path d="M{_LEFT} {y:.1f}h{width}" stroke="#ddd"/>')
        marks.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
    for samples in (0, most / 2, most):
        x, bottom = place(samples, low)[0], _HEIGHT - _BOTTOM
        label = f"{samples / 1000:.0f}k" if most >= 10_000 else f"{samples:.0f}"
        marks.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    frame = f'<rect x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" stroke="#888" '
    line = f'<polyline points="{points}" stroke="#06c" stroke-width="1.5" fill="none"/>'
    return f'{"".join(marks)}{frame}fill="none"/>{line}'


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range, at most eight of them."""
    powers = range(floor(log10(low)), floor(log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return ticks[:: -(-len(ticks) // 8)] if ticks else [high]


def _thin(curve: Sequence[tuple[float, float]]) -> Curve:
    """Means of neighbouring reports, so that a long curve stays a small file."""
    group = -(-len(curve) // _MOST_POINTS)
    parts = [curve[i : i + group] for i in range(0, len(curve), group)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
