"""What branches read of each other, and the order in which they run for it."""

from __future__ import annotations

from collections.abc import Sequence

from ...attention.control import running_order
from ..attention.adapter import running_controls
from ..attention.rows import step_of
from ..comfy_types import Options


def order_in_turn(branches: tuple[str, ...], options: Options, node: str) -> tuple[str, ...]:
    """The branches in an order in which each runs after those that it reads.

    options: the transformer_options of this step. Raises ValueError where there is none.
    """
    reads: dict[str, frozenset[str]] = {}
    for control in running_controls(options):
        for branch, read in control.reads.items():
            reads[branch] = reads.get(branch, frozenset()) | read
    order = running_order(branches, reads)
    if order is None:
        raise ValueError(
            f"{node}: evaluation is in turn, but the branches of this run read each "
            "other within one layer. Set evaluation to together."
        )
    return order


def is_any_read(readers: Sequence[str], read: frozenset[str], model_options: Options) -> bool:
    """Whether a control lets any of the readers read the unconditional rows of any of the others at
    this step."""
    options = model_options["transformer_options"]
    step = step_of(options)
    return any(
        control.reads.get(name, frozenset()) & read
        for control in running_controls(options)
        if control.is_active(step) and control.uncond_reads == "uncond"
        for name in readers
    )


def reads_cond(model_options: Options) -> bool:
    """Whether both halves of guidance read conditional rows of other branches in this run."""
    options = model_options["transformer_options"]
    return any(control.uncond_reads == "cond" for control in running_controls(options))


def runs_cond_first(model_options: Options) -> bool:
    """Whether the conditional rows of each step of this run must come before the others."""
    options = model_options["transformer_options"]
    is_needed = any(control.cond_first for control in running_controls(options))
    return is_needed or reads_cond(model_options)
