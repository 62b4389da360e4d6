"""Steps of a flow model before its shift."""

from __future__ import annotations

import pytest

from ale_edit.inversion.flow_schedule import flow_shares


def test_steps_are_even_and_a_strength_keeps_the_last():
    assert flow_shares(4) == [0.0, 0.25, 0.5, 0.75]
    assert flow_shares(50, 0.66) == [i / 50 for i in range(17, 50)]  # FlowEdit on SD 3: n_max 33
    assert len(flow_shares(28, 0.86)) == 24  # and on Flux.1


@pytest.mark.parametrize(
    ("steps", "strength", "words"),
    [
        (0, 1.0, r"steps is 0\. Set it to 1 or more"),
        (4, 0.1, "4 steps at strength 0.1 leave no step"),
        (4, 1.5, "strength is 1.5, which is not a valid share"),
    ],
)
def test_what_leaves_no_step_is_refused(steps, strength, words):
    with pytest.raises(ValueError, match=words):
        flow_shares(steps, strength)
