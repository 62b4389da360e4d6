"""The three nodes that patch a model, and the three that sample, wired as in a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from torch import Tensor

from ale_edit.nodes.inputs import SCHEDULES, choose_schedule
from ale_edit.tests.host.runs import relative_error
from ale_edit.tests.nodes.graph import edits_with_masks, nodes, one, run
from ale_edit.tests.tiny import randn, source_latent

STEPS = 3


@pytest.fixture(scope="module")
def graph(model: Any, clip: Any) -> Any:
    return Graph(model, clip)


class Graph:
    """The single nodes around a latent of 8x8 cells."""

    def __init__(self, model: Any, clip: Any) -> None:
        self.model = model
        self.edits = edits_with_masks()
        self.ore = run("ALEObjectRestrictedEmbeddings", clip=clip, edits=self.edits)
        self.negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))

    def regions(self, **inputs: Any) -> Any:
        return one("ALERegions", edits=self.edits, **inputs)

    def edit(
        self,
        model: Any = None,
        *,
        eta: float = 1.0,
        kappa: float = 0.0,
        steps: int = STEPS,
        **inputs: Any,
    ) -> Tensor:
        """The edited latent; inputs are those of Two-Branch Guider and LCM Schedule."""
        strength = inputs.pop("strength", 1.0)
        source, target = self.ore
        usual = {"source": source, "target": target, "negative": self.negative}
        model = model or self.model
        guider = one("ALETwoBranchGuider", model=model, **{**usual, **inputs})
        sigmas = one("ALELCMSchedule", model=model, steps=steps, strength=strength)
        sampler = one("ALEVirtualInversion", eta=eta, kappa=kappa)
        noise = RandomNoise.execute(noise_seed=4).args[0]
        latent = {"samples": source_latent(1, 8, 8)}
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0][
            "samples"
        ]

    def generate(self, model: Any) -> Tensor:
        """As KSampler: the target conditioning on an empty latent."""
        import comfy.sample

        empty = torch.zeros(1, 4, 8, 8)
        noise = randn(1, 4, 8, 8)
        run_of = ("euler", "normal", self.ore[1], self.negative, empty)
        return comfy.sample.sample(model, noise, 2, 3.0, *run_of, disable_pbar=True, seed=1)


def differ(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) > 1e-3 * float(first.std())


def test_the_presets_are_shares_of_the_steps_and_custom_is_the_number() -> None:
    assert {name: choose_schedule(name, 0.2) for name in SCHEDULES} == {
        "color": 1.0,
        "material": 0.6,
        "object": 0.5,
        "color and object": 0.5,
        "object and material": 0.5,
    }
    assert choose_schedule("custom", 0.2) == 0.2


def test_injection_follows_its_preset_and_a_share_of_zero_is_off(graph: Any) -> None:
    def inject(**inputs: Any) -> Tensor:
        return graph.edit(one("ALESelfAttentionInjection", model=graph.model, **inputs))

    color = inject(edit_type="color", schedule=0.0)
    assert torch.equal(color, inject(edit_type="custom", schedule=1.0))
    assert differ(color, inject(edit_type="object"))
    assert torch.equal(inject(edit_type="custom", schedule=0.0), graph.edit())


def test_region_cross_attention_changes_an_edit_and_an_ordinary_generation(graph: Any) -> None:
    """And at strength 0 neither, bit for bit."""
    for sample in (graph.edit, graph.generate):
        plain = sample(graph.model)
        full, half, none = (
            sample(
                one(
                    "ALERegionCrossAttention",
                    model=graph.model,
                    regions=graph.regions(),
                    strength=strength,
                )
            )
            for strength in (1.0, 0.5, 0.0)
        )
        assert torch.equal(none, plain)
        assert differ(full, plain) and differ(half, plain) and differ(half, full)


def test_blending_keeps_the_source_outside_and_soft_mixes_along_the_edge(graph: Any) -> None:
    def blended(edge: str) -> Tensor:
        regions = graph.regions(dilation=0.0, feather=0.2)
        return graph.edit(
            one("ALEBackgroundBlending", model=graph.model, regions=regions, edge=edge)
        )

    source = source_latent(1, 8, 8)
    hard, soft = blended("hard"), blended("soft")
    outside = graph.regions(dilation=0.0).background[4::8, 4::8] > 0
    torch.testing.assert_close(hard[..., outside], source[..., outside], rtol=0, atol=1e-5)
    assert differ(hard[..., ~outside], source[..., ~outside])
    assert differ(hard, soft)


def test_the_input_model_stays_as_it_is(graph: Any) -> None:
    before = str(graph.model.model_options)
    inputs = {"model": graph.model, "regions": graph.regions()}
    for node_id in ("ALERegionCrossAttention", "ALEBackgroundBlending"):
        assert one(node_id, **inputs) is not graph.model
    assert one("ALESelfAttentionInjection", model=graph.model) is not graph.model
    assert str(graph.model.model_options) == before and not graph.model.wrappers


@pytest.mark.parametrize(
    "change",
    [
        {"eta": 0.5},
        {"kappa": 0.5},
        {"steps": 5},
        {"strength": 0.7},
        {"source_guidance": 2.0},
        {"target_guidance": 4.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_number_of_the_sampling_nodes_changes_the_edit(
    graph: Any, change: dict[str, float]
) -> None:
    assert differ(graph.edit(), graph.edit(**change))


def test_a_graph_saved_without_kappa_samples_as_before(graph: Any) -> None:
    saved = nodes()["ALEVirtualInversion"].execute(eta=1.0).args[0]
    assert saved.extra_options == one("ALEVirtualInversion", kappa=0.0).extra_options


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_kappa_out_of_its_range_is_refused_in_the_nodes_name(value: float) -> None:
    said = f"^Virtual Inversion: kappa is {value}. Set it between 0 and 1.$"
    with pytest.raises(ValueError, match=said):
        run("ALEVirtualInversion", kappa=value)


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (2.0, 3.0)])
def test_in_turn_gives_the_edit_of_both_branches_together_in_calls_of_one_branch(
    graph: Any, guidance: tuple[float, float]
) -> None:
    rows: list[int] = []

    def count(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        rows.append(arguments["input"].shape[0])
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = graph.model.clone()
    model.set_model_unet_function_wrapper(count)
    for node_id in ("ALERegionCrossAttention", "ALEBackgroundBlending"):
        model = one(node_id, model=model, regions=graph.regions())
    model = one("ALESelfAttentionInjection", model=model)
    numbers = dict(zip(("source_guidance", "target_guidance"), guidance, strict=True))
    together = graph.edit(model, **numbers)
    assert max(rows) == 4
    rows.clear()
    in_turn = graph.edit(model, evaluation="in turn", **numbers)
    assert max(rows) == 2
    assert relative_error(in_turn, together) < 1e-4


def test_the_schedule_falls_to_zero_in_as_many_steps_as_strength_leaves(graph: Any) -> None:
    for steps, strength, kept in ((15, 1.0, 15), (15, 0.8, 12), (1, 1.0, 1), (50, 1.0, 50)):
        sigmas = one("ALELCMSchedule", model=graph.model, steps=steps, strength=strength)
        assert sigmas.shape == (kept + 1,) and float(sigmas[-1]) == 0
        assert bool((sigmas[1:] < sigmas[:-1]).all())


def test_equal_source_and_target_give_the_source_back(graph: Any) -> None:
    """Without patches and with equal guidance."""
    target = graph.ore[1]
    out = graph.edit(source=target, target=target, source_guidance=2.0, target_guidance=2.0)
    torch.testing.assert_close(out, source_latent(1, 8, 8), rtol=0, atol=1e-4)
