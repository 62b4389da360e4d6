"""What a command prints."""

import io
import sys


def print_anything() -> None:
    """Have characters that the output does not know escaped: on Windows a file knows few."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
