"""Tables of figures: their columns, and a table as Markdown."""

from dataclasses import dataclass, replace

from .statistics import Figure

NONE = "n/a"


@dataclass(frozen=True)
class Column:
    """A figure in a table: its heading, digits, and the factor it is shown with.

    metric: of scoring_pass.py, where the column says n/a as long as that is missing; a column of
    another metric is left out where nothing has its figure.
    """

    figure: str
    heading: str
    digits: int = 3
    factor: float = 1.0
    metric: str = ""


JUDGED = (
    Column("TE", "TE ↓", 2, metric="leakage"),
    Column("TI", "TI ↓", 2, metric="leakage"),
    Column("CLIP, objects", "CLIP, each object ↑", 2, metric="leakage"),
    Column("CLIP, union", "CLIP, edited regions ↑", 2, metric="leakage"),
    Column("CLIP, whole", "CLIP, whole image ↑", 2, metric="leakage"),
    Column("object", "object ↑"),
    Column("color", "color ↑"),
    Column("material", "material ↑"),
    Column("all", "all asked ↑"),
    Column("all, trained", "all, trained triples ↑"),
    Column("all, held out", "all, held-out triples ↑"),
    Column("wrong, edited", "wrong attribute, edited ↓"),
    Column("wrong, untouched", "wrong attribute, untouched ↓"),
    Column("gone", "object gone ↑"),
    Column("others kept", "other objects kept ↑"),
    Column("CLIP, background", "CLIP, new background ↑", 2),
    Column("background", "shows the new background ↑"),
)
BACKGROUND = (
    Column("psnr", "PSNR (dB) ↑", 2),
    Column("mse", "MSE x1000 ↓", 2, 1000),
    Column("ssim", "SSIM ↑"),
    Column("lpips", "LPIPS ↓", metric="lpips"),
    Column("structure", "structure distance x1000 ↓", 2, 1000, metric="structure"),
)
PIE_BENCH = tuple(replace(c, figure=f"{c.figure}, PIE-Bench") for c in BACKGROUND)
SPLIT = ("TE", "TI", "all", "wrong, edited", "psnr")
"""Figures that are also shown by kind of edit and by number of objects."""


def show_figure(figure: Figure, column: Column) -> str:
    """ "0.85 [0.80, 0.90]"; the mean alone of one image; or n/a."""
    if not figure.count:
        return NONE
    numbers = (figure.value, figure.low, figure.high)
    value, low, high = (f"{n * column.factor:.{column.digits}f}" for n in numbers)
    return f"{value} [{low}, {high}]" if figure.has_interval else value


@dataclass(frozen=True)
class FigureTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def drop_empty_columns(self) -> "FigureTable":
        """Without the columns that have no figure in any row."""
        kept = [
            k
            for k in range(len(self.columns))
            if not self.rows or any(row[k] not in (NONE, "-") for row in self.rows)
        ]
        rows = tuple(tuple(row[k] for k in kept) for row in self.rows)
        return FigureTable(self.title, tuple(self.columns[k] for k in kept), rows)

    @property
    def has_figures(self) -> bool:
        return any(c not in (self.columns[0], "edits") for c in self.drop_empty_columns().columns)

    def markdown(self) -> str:
        shown = self.drop_empty_columns()
        lines = [f"| {' | '.join(row)} |" for row in (shown.columns, *shown.rows)]
        lines.insert(1, "|" + "---|" * len(shown.columns))
        return f"{self.title}\n\n" + "\n".join(lines)
