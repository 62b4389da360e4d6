"""Features of ResBlocks by branch: which modules give them, and how they live with everything else
that a run may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Control, Layer, Step
from ale_edit.host.attention.adapter import add_control
from ale_edit.host.attention.unet import feature_modules, layer_stages, self_attention_layers
from ale_edit.tests.families import FAMILIES
from ale_edit.tests.full_size import SD15_UNET
from ale_edit.tests.host.other_nodes import CORE
from ale_edit.tests.host.runs import edit, guide, relative_error, with_option
from ale_edit.tests.host.test_composition_inputs import skip_unet
from ale_edit.tests.tiny import UNET_CONFIG, source_latent

pytestmark = pytest.mark.comfy


class ByFeature(Control):
    """The target takes the source's features before every decoder layer."""

    reads = {"target": frozenset({"source"})}

    def features(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, str]:
        return {"target": "source"} if layer.is_decoder else {}


class ByCondFeature(ByFeature):
    """Those of the conditional half for both."""

    uncond_reads = "cond"


class Failing(ByFeature):
    """Fails at its second step."""

    def features(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, str]:
        if step.number == 1:
            raise ValueError("on purpose")
        return super().features(layer, step, is_cond)


def run(model: Any, clip: Any, control: Control | None = None, **options: Any) -> Tensor:
    if control is not None:
        model = add_control(model, "ale_edit.test", lambda *_: control, "Test")
    guider = guide(model, clip, guidance=options.pop("guidance", (1.5, 2.0)))
    vars(guider).update(options)
    return edit(guider, source_latent(2))


def hooks_of(model: Any) -> dict[str, int]:
    network = model.model.diffusion_model
    return {n: len(m._forward_hooks) for n, m in network.named_modules() if m._forward_hooks}


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (1.5, 3.0)])
@pytest.mark.parametrize("control", [ByFeature, ByCondFeature])
def test_branches_in_turn_take_the_features_of_those_together(model, clip, control, guidance):
    together = run(model, clip, control(), guidance=guidance)
    in_turn = run(model, clip, control(), guidance=guidance, _evaluation="in turn")
    assert relative_error(in_turn, together) < 1e-4
    assert relative_error(together, run(model, clip, guidance=guidance)) > 0.01


def test_the_two_halves_are_two(model, clip):
    own, cond = (run(model, clip, control()) for control in (ByFeature, ByCondFeature))
    assert relative_error(own, cond) > 0.01


def test_no_hook_is_left_after_a_run_or_a_failure(model, clip):
    run(model, clip, ByFeature())
    assert hooks_of(model) == {}
    with pytest.raises(ValueError, match="on purpose"):
        run(model, clip, Failing())
    assert hooks_of(model) == {}


def test_a_hook_of_another_node_acts_before_ours_and_stays(model, clip):
    """It doubles the features of every row, so that those that are taken are doubled too."""
    expected = run(model, clip, ByFeature())
    module: Any = feature_modules(model.model.diffusion_model)["output", 1, 0]
    handle = module.register_forward_hook(lambda module, inputs, output: 2 * output)
    try:
        made = run(model, clip, ByFeature())
        assert hooks_of(model) == {name: 1 for name in hooks_of(model)} and hooks_of(model)
    finally:
        handle.remove()
    with torch.no_grad():
        for parameter in (module.weight, module.bias):
            parameter.mul_(2)
        by_weights = run(model, clip, ByFeature())
        for parameter in (module.weight, module.bias):
            parameter.div_(2)
    assert relative_error(made, by_weights) < 1e-4
    assert relative_error(made, expected) > 0.01


@pytest.mark.ci
@pytest.mark.parametrize("name", ["FreeU_V2", "PAG", "SAG", "APG", "HyperTile"])
def test_patches_of_other_nodes_act_whatever_the_order(model, clip, name):
    def controlled(model: Any) -> Any:
        return add_control(model, "ale_edit.test", lambda *_: ByCondFeature(), "Test")

    before, after = controlled(CORE[name](model)), CORE[name](controlled(model))
    latent = source_latent(1, 32, 32)  # HyperTile acts on larger grids alone
    made = [edit(guide(m, clip, guidance=(1.0, 3.0)), latent) for m in (before, after)]
    plain = edit(guide(controlled(model), clip, guidance=(1.0, 3.0)), latent)
    assert relative_error(made[0], made[1]) < 1e-4
    assert relative_error(made[0], plain) > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_weights_that_are_cast_layer_by_layer_give_the_same_features(
    model, clip, monkeypatch, share
):
    import comfy.model_management

    expected = run(model, clip, ByCondFeature())

    def load(loaded: Any, _extra: float, force_patch_weights: bool = False) -> int:
        amount = share * model.model_size() + 0.1
        return loaded.model.partially_load(loaded.device, amount, force_patch_weights)

    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_use_more_vram", load)
    made = run(model, clip, ByCondFeature())
    assert model.model.model_lowvram is True
    comfy.model_management.unload_all_models()
    assert relative_error(made, expected) < 1e-4


def test_an_engine_that_replaces_the_unet_is_refused(model, clip):
    with pytest.raises(ValueError, match=r"^Test: .*an engine of its own.*Remove"):
        run(with_option(model, skip_unet), clip, ByFeature())


def test_a_unet_whose_resblocks_run_elsewhere_is_refused(model, clip):
    """Such as one that was compiled before: its hooks are never called."""

    def replace_blocks(model: Any) -> None:
        def apply(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return x * 0.5

        kind = "diffusion_model"
        model.add_wrapper_with_key(kind, "other", apply)

    with pytest.raises(ValueError, match=r"^Test: .*an engine of its own.*Remove"):
        run(with_option(model, replace_blocks), clip, ByFeature())


# -- which modules ---------------------------------------------------------------------------------


def sd15() -> Any:
    with torch.device("meta"):
        config = {**UNET_CONFIG, **SD15_UNET, "context_dim": 768, "num_heads": 8}
        return openaimodel.UNetModel(**config, device="meta")


def test_sd15_has_the_published_resblock_and_layers():
    """methods.md C.7: output_blocks.4.0, before the skip path is added; output blocks 4 to 11."""
    network = sd15()
    layers = list(self_attention_layers(network))
    stages, modules = layer_stages(layers), feature_modules(network)
    assert list(modules) == layers
    (features,) = (m for k, m in modules.items() if k[0] == "output" and stages[k] == 1)
    assert features is network.get_submodule("output_blocks.4.0.out_layers.3")
    assert [k[1] for k in layers if k[0] == "output" and stages[k] >= 1] == list(range(4, 12))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_first_layer_of_a_block_has_a_resblock(name):
    network = FAMILIES[name].model().model.diffusion_model
    layers = [key for key in self_attention_layers(network) if key[2] == 0]
    modules = feature_modules(network)
    assert list(modules) == layers
    names = {module: name for name, module in network.named_modules()}
    for (part, number, _), module in modules.items():
        block = "middle_block" if part == "middle" else f"{part}_blocks.{number}"
        assert names[module] == f"{block}.0.out_layers.3"
