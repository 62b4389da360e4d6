"""Bootstrap intervals: coverage, groups, pairing."""

from math import isnan

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from ale_edit.bench.statistics import Bootstrap


def by_group(sizes: list[int]) -> dict[str, str]:
    return {f"{g}-{k}": f"group{g}" for g, size in enumerate(sizes) for k in range(size)}


def test_the_mean_is_over_all_values_however_many_an_edit_has():
    figure = Bootstrap(by_group([2, 1])).mean({"0-0": [1.0, 0.0], "0-1": [], "1-0": [1.0]})
    assert figure.value == pytest.approx(2 / 3) and figure.count == 3


def test_intervals_agree_with_scipys_where_every_group_is_one_value():
    values = np.random.default_rng(1).normal(2, 1, 60)
    groups = by_group([1] * 60)
    found = Bootstrap(groups, draws=20_000).mean({f"{g}-0": [v] for g, v in enumerate(values)})
    expected = scipy_bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    groups = by_group([5] * 40)
    bootstrap = Bootstrap(groups)
    for _ in range(1000):
        offsets = rng.normal(0, 1, 40)
        figure = bootstrap.mean(
            {e: [offsets[int(e.split("-")[0])] + rng.normal(0, 1)] for e in groups}
        )
        hits += figure.low <= 0 <= figure.high
    assert 0.91 <= hits / 1000 <= 0.96


def test_edits_of_one_group_are_drawn_together():
    """Ten equal edits of each of four groups are no more certain than four edits."""
    many, few = by_group([10] * 4), by_group([1] * 4)
    value = {"0": 0.0, "1": 1.0, "2": 2.0, "3": 3.0}
    figures = [
        Bootstrap(groups).mean({e: [value[e.split("-")[0]]] for e in groups})
        for groups in (many, few)
    ]
    assert figures[0].low == figures[1].low and figures[0].high == figures[1].high
    assert figures[0].high - figures[0].low > 1.5


def test_differences_are_paired():
    """Two methods that differ by exactly one everywhere differ by one in every draw."""
    groups = by_group([2] * 6)
    values = {e: [float(k)] for k, e in enumerate(groups)}
    better = {e: [v[0] + 1] for e, v in values.items()}
    found = Bootstrap(groups).difference(better, values)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_it_is_the_same_each_time_and_nothing_is_nan_without_reason():
    groups = by_group([1, 1, 1])
    values = {"0-0": [1.0], "1-0": [], "2-0": [0.0]}
    assert Bootstrap(groups).mean(values) == Bootstrap(groups).mean(values)
    found = Bootstrap(groups).mean(values)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    empty = Bootstrap(groups).mean({})
    assert empty.count == 0 and all(map(isnan, (empty.value, empty.low, empty.high)))


def test_values_of_one_group_have_a_mean_and_no_interval():
    """Whatever is drawn, their mean is the same: an interval would say that they are certain."""
    one, two = by_group([3]), by_group([3, 3])
    values = {"0-0": [1.0], "0-1": [2.0], "0-2": [6.0]}
    for groups, more in ((one, {}), (two, {}), (two, {"1-0": []})):
        found = Bootstrap(groups).mean(values | more)
        assert (found.value, found.count) == (3.0, 3) and not found.has_interval
        assert isnan(found.low) and isnan(found.high)
    assert Bootstrap(two).mean(values | {"1-0": [4.0]}).has_interval


def test_a_difference_needs_several_groups_on_both_sides():
    bootstrap = Bootstrap(by_group([1, 1]))
    both, first = {"0-0": [3.0], "1-0": [5.0]}, {"0-0": [1.0]}
    assert bootstrap.difference(both, {e: [1.0] for e in both}).has_interval
    for mine, theirs in ((both, first), (first, both), (first, first)):
        assert not bootstrap.difference(mine, theirs).has_interval
    assert bootstrap.difference(both, first).value == 3.0
