"""Progress of long work in benches and training: tqdm's bar on a terminal, lines in a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

MINUTE_S = 60.0


class ProgressBar:
    """What is done of `total`, and the time left; in a file a line each `every_s` and at the end,
    or none where that is None.

    initial: what an earlier run did. keep: whether the bar is still shown when it is closed.
    """

    def __init__(
        self,
        label: str = "",
        total: int | None = None,
        unit: str = "it",
        *,
        initial: int = 0,
        every_s: float | None = MINUTE_S,
        keep: bool = True,
    ):
        self._is_terminal = sys.stdout.isatty()
        self._every_s = every_s
        self._start = self._reported = time.monotonic()
        self._meter = {"total": total, "unit": unit, "initial": initial}
        self._bar = tqdm(
            desc=label,
            file=sys.stdout,
            disable=not self._is_terminal,
            leave=keep,
            dynamic_ncols=True,
            smoothing=0,
            **self._meter,
        )
        self._label = label

    def move_to(
        self, done: int, *, label: str = "", total: int | None = None, note: str = ""
    ) -> None:
        """Show that so much is done; label and total: new ones, note: what follows the time."""
        self._label = label or self._label
        self._meter["total"] = total or self._meter["total"]
        if self._is_terminal:
            self._bar.n, self._bar.total = done, self._meter["total"]
            self._bar.set_description_str(self._label, refresh=False)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.refresh()
        elif self._every_s is not None:
            now = time.monotonic()
            if now - self._reported >= self._every_s or done == self._meter["total"]:
                self._reported = now
                line = tqdm.format_meter(
                    done,
                    elapsed=now - self._start,
                    prefix=self._label,
                    postfix=note,
                    ncols=100,
                    ascii=True,
                    **self._meter,
                )
                print(line, flush=True)

    def tell(self, text: str) -> None:
        """A sentence above the bar."""
        if self._is_terminal:
            tqdm.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
