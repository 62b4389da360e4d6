"""SD 1.5's attention layers, as methods.md 0 lists them."""

from ale_edit.attention.control import Layer, LayerKind

BLOCKS = [
    *(("input", n, 1) for n in (1, 2)),
    *(("input", n, 2) for n in (4, 5)),
    *(("input", n, 4) for n in (7, 8)),
    ("middle", 0, 8),
    *(("output", n, 4) for n in (3, 4, 5)),
    *(("output", n, 2) for n in (6, 7, 8)),
    *(("output", n, 1) for n in (9, 10, 11)),
]
"""In the order in which they run: block and divisor of the latent."""


def sd15(height: int = 64, width: int = 64, kind: LayerKind = "cross") -> list[Layer]:
    """The layers on a latent of so many cells."""
    latent = (height, width)
    return [
        Layer(kind, (name, number, 0), i, 16, (-(-height // by), -(-width // by)), latent)
        for i, (name, number, by) in enumerate(BLOCKS)
    ]
