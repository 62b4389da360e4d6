"""What editing costs beside plain sampling: time, memory, operations, UNet rows, import."""

from .command import main

__all__ = ["main"]
