"""What dev.py says to the person at the keyboard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class DevError(Exception):
    """One sentence for the person at the keyboard: what is wrong, and the cure."""


class ServerFailed(DevError):
    """The server that was started did not start, died or timed out; its log says more."""


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


@contextlib.contextmanager
def time_step(what: str) -> Iterator[None]:
    say(f"  {what} ... ", end="")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say(f"{time.monotonic() - start:.0f} s")
