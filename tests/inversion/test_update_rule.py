"""The update rule at its published ends: the loops of FlowEdit, FlowAlign and, in flow matching,
InfEdit, each written from its paper on a toy model, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ale_edit.inversion.update_rule import (
    ItemNoise,
    Level,
    UpdateRule,
    noise_image,
    predict_edit,
)
from ale_edit.tests.tiny import randn

SHAPE = (2, 4, 6, 5)
TIMES = [0.9, 0.75, 0.6, 0.4, 0.2, 0.0]
Velocity = Callable[[Tensor, float], Tensor]


def velocity(seed: int) -> Velocity:
    """A field v(x, t) that is neither linear nor the same at any two times."""
    mixing, shift = randn(4, 4, seed=seed).double() / 2, randn(*SHAPE[1:], seed=seed + 1).double()
    return lambda x, t: torch.tanh(torch.einsum("oc,bchw->bohw", mixing, x) + t * shift)


SOURCE, TARGET = velocity(1), velocity(5)
X0 = randn(*SHAPE, seed=20).double()


def draws() -> list[Tensor]:
    noise = ItemNoise(3, SHAPE)
    return [noise.draw(X0) for _ in TIMES[:-1]]


def run(rule: UpdateRule, target: Velocity = TARGET) -> Tensor:
    """The rule's loop in flow matching, D = x - t v."""
    noises = draws()
    levels = [Level(1 - t, t) for t in TIMES]
    x = noise_image(X0, noises[0], levels[0])
    latents = {"source": x, "target": x}
    edit = X0
    for i, t in enumerate(TIMES[:-1]):
        d_s = latents["source"] - t * SOURCE(latents["source"], t)
        d_t = latents["target"] - t * target(latents["target"], t)
        edit = predict_edit(X0, d_s, d_t)
        if i + 2 < len(TIMES):
            edits = {"target": edit}
            latents = rule.advance(latents, X0, edits, levels[i], levels[i + 1], noises[i + 1])
    return rule.finish(X0, edit)


def flow_edit(zeta: float = 0.0) -> Tensor:
    """FlowEdit, Algorithm 1 (n_avg 1); with zeta FlowAlign's step towards the source."""
    z = X0.clone()
    for t, t_next, noise in zip(TIMES, TIMES[1:], draws(), strict=False):
        z_source = (1 - t) * X0 + t * noise
        z_target = z + z_source - X0
        v_source, v_target = SOURCE(z_source, t), TARGET(z_target, t)
        drift = (z_source - t * v_source) - (z_target - t * v_target)
        z = z + (t_next - t) * (v_target - v_source) + zeta * drift
    return z


def infedit_in_flow() -> Tensor:
    """DDCM with eta 1 (InfEdit, Algorithm 2) where a latent is (1 - t) x + t n."""
    p, edited = X0, X0
    for t, noise in zip(TIMES[:-1], draws(), strict=True):
        x_source, x_target = ((1 - t) * x + t * noise for x in (X0, p))
        edited = X0 + (x_target - t * TARGET(x_target, t)) - (x_source - t * SOURCE(x_source, t))
        p = edited
    return edited


def test_kappa_1_is_flow_edit():
    torch.testing.assert_close(run(UpdateRule(kappa=1.0)), flow_edit(), rtol=0, atol=1e-12)


def test_kappa_1_with_zeta_is_flow_align():
    made = run(UpdateRule(kappa=1.0, zeta=0.01))
    torch.testing.assert_close(made, flow_edit(0.01), rtol=0, atol=1e-12)
    assert (made - flow_edit()).abs().max() > 1e-3


def test_kappa_0_is_infedits_virtual_inversion_in_flow_matching():
    torch.testing.assert_close(run(UpdateRule()), infedit_in_flow(), rtol=0, atol=1e-12)


def test_the_ends_are_different_methods():
    ends = [run(UpdateRule(kappa=kappa)) for kappa in (0.0, 0.5, 1.0)]
    assert min((a - b).abs().max() for a, b in zip(ends, ends[1:], strict=False)) > 0.05


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("zeta", [0.0, 0.01])
def test_equal_predictions_give_the_source_itself(kappa, zeta):
    torch.testing.assert_close(
        run(UpdateRule(kappa=kappa, zeta=zeta), SOURCE), X0, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_every_branch_is_the_source_plus_its_own_difference(kappa):
    """Also with several edited branches, and where a latent is an image plus noise."""
    x_s, x_a, x_b, p_a, p_b, noise = (randn(*SHAPE, seed=i).double() for i in range(6))
    latents = {"source": x_s, "a": x_a, "b": x_b}
    level, after = Level(1.0, 3.0), Level(1.0, 2.0)
    rule = UpdateRule(kappa=kappa)
    made = rule.advance(latents, X0, {"a": p_a, "b": p_b}, level, after, noise)
    torch.testing.assert_close(made["source"], X0 + 2 * noise, rtol=0, atol=1e-12)
    for name, x, p in (("a", x_a, p_a), ("b", x_b, p_b)):
        d = p - X0
        expected = d + kappa * (2 / 3) * (x - x_s - d)
        torch.testing.assert_close(made[name] - made["source"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["kappa", "zeta", "eta"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}\. Set it between 0 and 1\."):
        UpdateRule(**{name: value})
