"""InfEdit's pieces on plain tensors. Its words are in test_infedit_words.py, whole edits in
tests/oracle/test_infedit.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Call, Layer, Route, Step, running_order
from ale_edit.editors.infedit import (
    BRANCHES,
    InfEditControl,
    InfEditSettings,
    Script,
    edit_threshold,
)
from ale_edit.prompts.alignment import Alignment
from ale_edit.prompts.blend_words import BlendRows
from ale_edit.tests.editors.layers import sd15
from ale_edit.tests.tiny import randn

ALIGNED = Alignment(torch.tensor([0, -1, 2, 1, 4]), torch.zeros(5, dtype=torch.bool))
ROWS = BlendRows(edited=(1, 2), kept=(2, 3))


def step(number: int, count: int = 15, sigma: float = 1.0) -> Step:
    return Step(number, count, sigma)


# -- steps -----------------------------------------------------------------------------------------


def self_steps(settings: InfEditSettings, count: int) -> list[int]:
    control, (layer, *_) = InfEditControl(settings, ALIGNED), sd15(kind="self")
    return [i for i in range(count) if "target" in control.routes(layer, step(i, count), True)]


def cross_steps(settings: InfEditSettings, count: int) -> list[int]:
    control, (layer, *_) = InfEditControl(settings, ALIGNED), sd15()
    return [i for i in range(count) if control.acts(layer, step(i, count), True)]


@pytest.mark.parametrize(
    ("share", "steps", "of_self", "of_cross"),
    [
        (0.7, 15, 10, 10),
        (0.3, 15, 4, 4),
        (0.6, 15, 8, 9),  # (i + 1) / n < s, and <= s
        (0.3, 10, 2, 3),
        (0.7, 10, 6, 7),
        (0.30000000000000004, 10, 2, 3),  # as a browser adds up .1 and .2
        (0.0, 15, 0, 0),
        (1.0, 15, 14, 15),
    ],
)
def test_shares_cover_the_first_steps(share: float, steps: int, of_self: int, of_cross: int):
    settings = InfEditSettings(steps=steps, self_share=share, cross_share=share)
    assert self_steps(settings, steps) == list(range(of_self))
    assert cross_steps(settings, steps) == list(range(of_cross))


def test_steps_that_a_strength_leaves_out_count():
    """methods.md B.2: num_start = n - trunc(n * strength) is added to the step."""
    settings = InfEditSettings(strength=0.7, self_share=0.5, cross_share=0.7)
    assert settings.run_steps == 10
    assert self_steps(settings, 10) == [0, 1]  # of 15 steps the first 5 do not run
    assert cross_steps(settings, 10) == list(range(5))


def test_the_defaults_are_those_of_the_authors_app():
    """methods.md B.5."""
    app = InfEditSettings()
    assert (app.steps, app.source_guidance, app.target_guidance) == (15, 1, 2)
    assert (app.cross_share, app.self_share) == (0.7, 0.3)
    assert (app.target_threshold, app.source_threshold, app.strength) == (0.6, 0.6, 1)


# -- self-attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_cond", [True, False])
def test_routes_are_the_published_tables(is_cond: bool):
    """methods.md B.2: [qs,qs,qs] [ks,ks,ks] [vs,vt,vs], later [qs,qt,qt] [ks,kt,ks] [vs,vt,vs]."""
    control = InfEditControl(InfEditSettings(self_share=0.5), ALIGNED)
    for layer in sd15(kind="self"):
        assert control.routes(layer, step(0), is_cond) == {
            "target": Route("source", "source", "target"),
            "layout": Route("source", "source", "source"),
        }
        assert control.routes(layer, step(7), is_cond) == {
            "layout": Route("target", "source", "source")
        }


def orders(**settings: Any) -> tuple[str, ...] | None:
    rows = settings.pop("rows", BlendRows())
    control = InfEditControl(InfEditSettings(**settings), ALIGNED, rows)
    return running_order(BRANCHES, control.reads)


@pytest.mark.parametrize("rows", [BlendRows(), ROWS], ids=["no blend", "blend"])
def test_branches_can_run_in_turn_but_where_they_read_each_other(rows: BlendRows):
    in_turn = ("source", "target", "layout")
    for cross, self_ in [(0.7, 0.3), (0.3, 0.7), (0.0, 0.0), (1.0, 1.0)]:
        shares = {"cross_share": cross, "self_share": self_, "rows": rows}
        assert orders(**shares) == in_turn
        expected = None if cross else in_turn
        assert orders(**shares, script="pie bench") == expected


# -- cross-attention -------------------------------------------------------------------------------


def make_call(
    layer: Layer,
    number: int = 0,
    count: int = 15,
    batch: int = 1,
    running: Sequence[str] = BRANCHES,
    seed: int = 0,
) -> Call:
    """Two heads of 3 channels and texts of five tokens."""
    cells = layer.grid[0] * layer.grid[1]
    q, k, v = (
        {b: randn(batch, rows, 6, seed=seed + 10 * i + j) for j, b in enumerate(BRANCHES)}
        for i, rows in enumerate((cells, 5, 5))
    )

    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError

    return Call(
        layer, step(number, count), True, frozenset(running), 2, q, k, v, {}, unused, unused,
        unused, unused, unused,
    )  # fmt: skip


def map_of(call: Call, branch: str, item: int = 0) -> list[list[list[float]]]:
    """[head][cell][token], by hand."""
    q = call.q[branch][item].reshape(-1, 2, 3).double()
    k = call.k[branch][item].reshape(-1, 2, 3).double()
    scores = torch.einsum("lhd,nhd->hln", q, k) / 3**0.5
    return (scores.exp() / scores.exp().sum(-1, keepdim=True)).tolist()


def seen(call: Call, branch: str, item: int = 0) -> list[list[list[float]]]:
    """The map of a branch as the target's words see it, by hand."""
    given, own = map_of(call, branch, item), map_of(call, "target", item)
    rows = ALIGNED.mapper.tolist()
    return [
        [
            [own_cell[j] if row < 0 else cell[row] for j, row in enumerate(rows)]
            for cell, own_cell in zip(cells, own_cells, strict=True)
        ]
        for cells, own_cells in zip(given, own, strict=True)
    ]


@pytest.mark.parametrize(("script", "giver"), [("app", "source"), ("pie bench", "layout")])
def test_the_target_attends_with_a_map_seen_by_its_words(script: Script, giver: str):
    call = make_call(sd15(8, 8)[4], batch=2)
    outputs = InfEditControl(InfEditSettings(script=script), ALIGNED).outputs(call)
    assert outputs.keys() == {"target"}
    for item in range(2):
        values = call.v["target"][item].reshape(5, 2, 3).double()
        probs = torch.tensor(seen(call, giver, item), dtype=torch.float64)
        expected = torch.einsum("hln,nhd->lhd", probs, values).flatten(1)
        torch.testing.assert_close(outputs["target"][item].double(), expected, atol=1e-5, rtol=0)


def test_cross_attention_is_left_alone_in_the_other_half_after_its_share_and_where_not_running():
    control = InfEditControl(InfEditSettings(), ALIGNED)
    layer = sd15(8, 8)[4]
    assert control.acts(layer, step(9), True)
    assert not control.acts(layer, step(9), False)
    assert not control.acts(layer, step(10), True)
    assert control.outputs(make_call(layer, running=("source", "layout"))) == {}
    assert not InfEditControl(InfEditSettings(cross_share=0.0), ALIGNED).acts(layer, step(0), True)


# -- local blend -----------------------------------------------------------------------------------


def keep_maps(control: InfEditControl, steps: int, count: int, batch: int = 1) -> list[Call]:
    """Let a control see the layers of some steps; the calls."""
    calls = []
    for i in range(steps):
        for layer in sd15(16, 24):
            call = make_call(layer, i, count, batch, seed=1000 * i + 50 * layer.ordinal)
            if control.acts(layer, call.step, True):
                control.outputs(call)
            calls.append(call)
    return calls


def mask_by_hand(
    calls: Sequence[Call], branch: str, rows: Sequence[int], threshold: float, item: int
) -> list[list[bool]]:
    """B.3's M on a latent of 16 x 24 cells, whose finest layers have just its grid."""
    counted = [c for c in calls if c.layer.grid == (16, 24) and c.layer.block[0] != "middle"]
    total = [0.0] * (16 * 24)
    maps = [seen(call, branch, item) for call in counted]
    for cell in range(16 * 24):
        total[cell] = max(
            (sum(m[head][cell][row] for m in maps for head in range(2)) for row in rows),
            default=0.0,
        )
    top = max(total)
    flat = [top > 0 and value / top > threshold for value in total]
    return [flat[y * 24 : (y + 1) * 24] for y in range(16)]


def predictions(batch: int = 1) -> dict[str, Tensor]:
    return {b: randn(batch, 4, 16, 24, seed=j) for j, b in enumerate(BRANCHES)}


@pytest.mark.parametrize(
    "rows",
    [ROWS, BlendRows(edited=(2,)), BlendRows(kept=(3,)), BlendRows((1, 2), (1, 2))],
    ids=["both", "target words", "source words", "the same words"],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_blend_equals_a_loop_over_cells(rows: BlendRows, number: int):
    count, sigma = 5, 5.0
    settings = InfEditSettings(steps=count, target_threshold=0.72, source_threshold=0.8)
    control = InfEditControl(settings, ALIGNED, rows)
    calls = keep_maps(control, number + 1, count, batch=2)
    given = predictions(2)
    found = control.blend(given, step(number, count, sigma))["target"]
    kept_alone = [row for row in rows.kept if row not in rows.edited]
    both = [row for row in rows.kept if row in rows.edited]
    rising = 0.15 * 26**0.5
    for j in range(2):
        edited = mask_by_hand(calls, "layout", rows.edited, rising, j)
        kept = mask_by_hand(calls, "source", kept_alone, 0.8, j)
        late = mask_by_hand(calls, "layout", both, 0.72, j)
        expected = torch.empty(4, 16, 24)
        for y in range(16):
            for x in range(24):
                giver = "layout" if rows.edited and not edited[y][x] else "target"
                giver = "source" if kept[y][x] else giver
                giver = "layout" if late[y][x] and number == count - 2 else giver
                expected[:, y, x] = given[giver][j, :, y, x]
        assert torch.equal(found[j], expected)
        for mask, words in ((edited, rows.edited), (kept, kept_alone), (late, both)):
            assert (0 < sum(map(sum, mask)) < 16 * 24) == bool(words)


@pytest.mark.parametrize("number", [0, 4])
def test_neither_the_first_step_nor_the_result_is_blended(number: int):
    control = InfEditControl(InfEditSettings(steps=5), ALIGNED, ROWS)
    keep_maps(control, 5, 5)
    given = predictions()
    assert control.blend(given, step(number, 5)) == given


def test_without_words_nothing_is_blended_and_no_map_is_kept():
    control = InfEditControl(InfEditSettings(cross_share=0.0), ALIGNED)
    assert not any(control.acts(layer, step(3), True) for layer in sd15())
    given = predictions()
    assert control.blend(given, step(3)) == given


def test_words_without_cross_control_keep_their_maps_and_change_no_output():
    control = InfEditControl(InfEditSettings(cross_share=0.0), ALIGNED, ROWS)
    layer = sd15(16, 24)[0]
    assert control.acts(layer, step(0), True)
    assert control.outputs(make_call(layer)) == {}


def test_maps_of_branches_in_turn_are_kept_with_the_last():
    together = InfEditControl(InfEditSettings(target_threshold=0.3), ALIGNED, ROWS)
    in_turn = InfEditControl(InfEditSettings(target_threshold=0.3), ALIGNED, ROWS)
    for layer in sd15(16, 24):
        call = make_call(layer, seed=50 * layer.ordinal)
        together.outputs(call)
        for branch in BRANCHES:
            reads = {branch, *in_turn.reads.get(branch, ())}
            parts: dict[str, Mapping[str, Tensor]] = {
                name: {b: t for b, t in getattr(call, name).items() if b in reads} for name in "qkv"
            }
            in_turn.outputs(replace(call, running=frozenset((branch,)), **parts))
    given = predictions()
    ours, theirs = (c.blend(given, step(1, sigma=0.5))["target"] for c in (in_turn, together))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, given["target"])


@pytest.mark.parametrize(
    ("sigma", "threshold"), [(0.2959, 0.6), (3.0689, 0.6), (3.9126, 0.6058), (10.3094, 1.5537)]
)
def test_the_threshold_rises_with_the_noise(sigma: float, threshold: float):
    """0.15 / sqrt(abar) at the step just done, at least target_threshold."""
    found = edit_threshold(InfEditSettings(), sigma)
    assert found == pytest.approx(threshold, abs=1e-4)
