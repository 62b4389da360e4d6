"""The schedule of a flow-matching model: steps of equal length in its time, before its shift."""

from __future__ import annotations

from .lcm_schedule import count_kept


def flow_shares(steps: int, strength: float = 1.0) -> list[float]:
    """Where each step starts, as shares of the way from noise to image: 4 -> 0, 0.25, 0.5, 0.75.

    steps: number of steps at strength 1. strength in (0, 1]: int(steps * strength) steps are kept,
    FlowEdit's n_max (arXiv 2412.08629).

    Raises ValueError when no step is left.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}. Set it to 1 or more.")
    return [i / steps for i in range(steps - count_kept(steps, strength), steps)]
