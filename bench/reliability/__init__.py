"""Whether the pack survives what people and machines do to it: `dev.py bench reliability`."""

from .command import main

__all__ = ["main"]
