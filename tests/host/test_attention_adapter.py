"""The adapter of attention controls: what a control is given, and what becomes of what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_sampling
import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Call, Control, Layer, Route, Step
from ale_edit.host.attention.adapter import add_control
from ale_edit.host.attention.unet import cross_attention_layers, self_attention_layers
from ale_edit.host.sampling.noise_levels import level_at
from ale_edit.inversion.update_rule import Level
from ale_edit.tests.host.runs import edit, guide, relative_error
from ale_edit.tests.tiny import source_latent

pytestmark = pytest.mark.comfy

READS = {"target": frozenset({"source"})}


class ByRoute(Control):
    """The target attends over the source's keys and values."""

    reads = READS

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        return {"target": Route("target", "source", "source")}


class ByOutput(Control):
    """The same, computed by the control."""

    reads = READS
    kinds = frozenset({"self"})

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        return {"target": call.attend(call.q["target"], call.k["source"], call.v["source"])}


class ByMap(ByOutput):
    """The same, through the attention map."""

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        probs = call.probs(call.q["target"], call.k["source"])
        return {"target": call.mix(probs, call.v["source"])}


def run(model: Any, clip: Any, *controls: Control, **options: Any) -> Tensor:
    for number, control in enumerate(controls):
        model = add_control(model, f"ale_edit.test{number}", lambda *_, c=control: c, "Test")
    guider = guide(model, clip, guidance=(1.5, 2.0))
    vars(guider).update(options)
    return edit(guider, source_latent(2))


@pytest.mark.parametrize("control", [ByOutput, ByMap])
@pytest.mark.parametrize("evaluation", ["together", "in turn"])
def test_a_route_is_what_the_control_could_compute(model, clip, control, evaluation):
    expected = run(model, clip, ByRoute())
    made = run(model, clip, control(), _evaluation=evaluation)
    print(f"{control.__name__}, {evaluation}: {relative_error(made, expected):.1e}")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, run(model, clip)) > 0.01


class Seen(Control):
    """Changes nothing, and remembers what it was asked."""

    reads = {"source": frozenset(), "target": frozenset()}
    kinds = frozenset({"self", "cross"})

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.steps: list[Step] = []
        self.worst = 0.0

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        self.layers.append(call.layer)
        self.steps.append(call.step)
        for branch in call.running:
            own = call.mix(call.probs(call.q[branch], call.k[branch]), call.v[branch])
            worst = float((own - call.plain(branch)).abs().max())
            self.worst = max(self.worst, worst)
        return {}


def test_a_control_sees_every_layer_in_its_order_at_every_step(model, clip):
    seen = Seen()
    made = run(model, clip, seen)
    assert torch.equal(made, run(model, clip))
    network = model.model.diffusion_model
    for kind, layers in (
        ("self", self_attention_layers(network)),
        ("cross", cross_attention_layers(network)),
    ):
        of_kind = [layer for layer in seen.layers if layer.kind == kind]
        first_call = of_kind[: 2 * len(layers) : 2]  # two chunks of rows, one after the other
        assert [layer.block for layer in first_call] == list(layers)
        assert [layer.ordinal for layer in first_call] == list(range(len(layers)))
        assert {layer.count for layer in of_kind} == {len(layers)}
    assert sorted({step.number for step in seen.steps}) == [0, 1, 2, 3]
    assert {step.count for step in seen.steps} == {4}
    assert seen.worst < 1e-4


class Constant(Control):
    """The target's self-attention output is a number everywhere."""

    reads = {"target": frozenset()}
    kinds = frozenset({"self"})

    def __init__(self, number: float) -> None:
        self._number = number

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        return {"target": torch.full_like(call.q["target"], self._number)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: Constant(0.1), lambda: Constant(-0.4)),
        (ByRoute, lambda: InjectedRoute()),
    ],
    ids=["outputs", "routes"],
)
def test_of_two_controls_the_later_nodes_stands(
    model, clip, first: Callable[[], Control], second: Callable[[], Control]
):
    both = run(model, clip, first(), second())
    assert torch.equal(both, run(model, clip, second()))
    assert relative_error(both, run(model, clip, first())) > 0.01


class InjectedRoute(Control):
    reads = READS

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        return {"target": Route("source", "source", "target")}


def test_controls_of_different_layers_act_beside_each_other(model, clip):
    class CrossZero(Control):
        reads = {"target": frozenset()}
        kinds = frozenset({"cross"})

        def outputs(self, call: Call) -> Mapping[str, Tensor]:
            return {"target": torch.zeros_like(call.q["target"])}

    both = run(model, clip, ByRoute(), CrossZero())
    assert torch.equal(both, run(model, clip, CrossZero(), ByRoute()))
    assert relative_error(both, run(model, clip, ByRoute())) > 0.01
    assert relative_error(both, run(model, clip, CrossZero())) > 0.01


@pytest.mark.parametrize(
    ("mixin", "expected"),
    [
        (comfy.model_sampling.EPS, Level(1.0, 0.3)),
        (comfy.model_sampling.V_PREDICTION, Level(1.0, 0.3)),
        (comfy.model_sampling.CONST, Level(0.7, 0.3)),
    ],
)
def test_noise_levels_are_read_from_the_models_sampling(mixin, expected):
    sampling = type("Sampling", (mixin,), {})()
    found = level_at(sampling, 0.3)
    assert (found.image, found.noise) == pytest.approx((expected.image, expected.noise))
