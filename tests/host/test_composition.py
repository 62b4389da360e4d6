"""Other nodes' patches beside ours: each gives what its own promises, in either node order, or is
refused in a sentence. docs/composition.md is the table of these tests.

The oracle where the branches do not depend on each other: two stock one-branch runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import comfy.controlnet
import comfy.gligen
import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_hooks import PairConditioningSetProperties
from torch import Tensor, nn

from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.host.sampling import branch_guider
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.tests.host.runs import (
    edit,
    generate,
    guide,
    patched,
    plain,
    relative_error,
    side,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.host.stock_runs import core_node, edit_by_two_runs
from ale_edit.tests.tiny import (
    edits_of,
    fill,
    generator,
    randn,
    source_latent,
    tiny_controlnet,
    two_regions,
)
from ale_edit.tests.versions import HAS_CFG_OVERRIDE

WRAPPERS = comfy.patcher_extension.WrappersMP
Conds = tuple[Any, Any, Any]


def conds_of(clip: Any) -> Conds:
    """Source, target and negative of the usual edits."""
    return side(clip, edits_of(), "source"), side(clip, edits_of(), "target"), plain(clip, "")


def edit_with(
    model: Any, conds: Conds, guidance: tuple[float, float] = (1.0, 2.0), latent: Any = None
) -> Tensor:
    guider = two_branch_guider(model, *conds, guidance=guidance)
    return edit(guider, latent)


@pytest.fixture
def split_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row policy of large latents on the CPU, on the tests' tiny ones."""
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", 0)


# -- ComfyUI's own model nodes ---------------------------------------------------------------------

CORE = {
    "FreeU_V2": core_node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "PAG": core_node("nodes_pag", "PerturbedAttentionGuidance", 2.0),
    "SAG": core_node("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    "RescaleCFG": core_node("nodes_model_advanced", "RescaleCFG", 0.7),
    "APG": core_node("nodes_apg", "APG", 1.5, 5.0, 0.0),
    "CFGZeroStar": core_node("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": core_node("nodes_cfg", "CFGNorm", 0.8),
    "TCFG": core_node("nodes_tcfg", "TCFG"),
    "FreSca": core_node("nodes_fresca", "FreSca", 0.7, 1.6, 2),
    "Epsilon Scaling": core_node("nodes_eps", "EpsilonScaling", 1.1),
    "HyperTile": core_node("nodes_hypertile", "HyperTile", 32, 1, 0, False),
    "Deep Shrink": core_node(
        "nodes_model_downscale",
        *("PatchModelAddDownscale", 3, 2.0, 0.0, 0.35, True, "bilinear", "bilinear"),
    ),
    "Self-Attention Multiply": core_node(
        "nodes_attention_multiply", "UNetSelfAttentionMultiply", 1.2, 0.8, 1.1, 0.9
    ),
    "Cross-Attention Multiply": core_node(
        "nodes_attention_multiply", "UNetCrossAttentionMultiply", 1.2, 0.8, 1.1, 0.9
    ),
}
TOME = core_node("nodes_tomesd", "TomePatchModel", 0.3)
EASY_CACHE = core_node("nodes_easycache", "EasyCacheNode", 0.9, 0.0, 1.0, False)
LAZY_CACHE = core_node("nodes_easycache", "LazyCacheNode", 0.9, 0.0, 1.0, False)
every_core_node = pytest.mark.parametrize("name", CORE)


def latent_for(name: str) -> Tensor:
    """Deep Shrink's smallest grid of an 8x8 latent is one cell, whose group norm magnifies rounding
    errors ten thousand times."""
    size = 16 if name == "Deep Shrink" else 8
    return source_latent(1, size, size)


@every_core_node
def test_core_nodes_act_on_each_branch_as_on_a_stock_run(model, clip, name):
    guidance, node, latent = (1.5, 2.0), CORE[name], latent_for(name)
    made = edit(guide(node(model), clip, guidance=guidance), latent)
    expected = edit_by_two_runs(node(model), clip, guidance, latent=latent)
    print(f"{name}, two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 2e-4
    assert relative_error(made, edit(guide(model, clip, guidance=guidance), latent)) > 1e-2


@pytest.mark.parametrize("name", sorted(CORE.keys() - {"APG"}))
def test_core_nodes_leave_a_branch_at_guidance_1_as_a_stock_run_does(model, clip, name):
    """A stock run at guidance 1 gives guidance patches zeros for the unconditional prediction,
    which APG takes for one; ours leaves that branch alone."""
    node, guidance, latent = CORE[name], (1.0, 2.0), latent_for(name)
    made = edit(guide(node(model), clip, guidance=guidance), latent)
    expected = edit_by_two_runs(node(model), clip, guidance, latent=latent)
    assert relative_error(made, expected) < 2e-4


@every_core_node
def test_core_nodes_run_beside_all_of_ours_in_either_order(model, clip, name):
    node, latent = CORE[name], source_latent(2)
    first = edit(guide(patched(node(model)), clip), latent)
    assert relative_error(edit(guide(node(patched(model)), clip), latent), first) < 1e-5
    assert relative_error(first, edit(guide(patched(model), clip), latent)) > 1e-3


def sources_of(model: Any, clip: Any) -> list[Tensor]:
    """The source branch's denoised prediction at every step of an edit."""
    seen: list[Tensor] = []

    def keep(executor: Any, *args: Any) -> Tensor:
        out = executor(*args)
        seen.append(out.chunk(2)[0].clone())
        return out

    def add(m: Any) -> None:
        m.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "keep", keep)

    edit(guide(with_option(model, add), clip))
    return seen


@pytest.mark.parametrize("name", ["PAG", "SAG", "FreeU_V2", "Deep Shrink", "HyperTile"])
def test_beside_core_nodes_ours_leave_the_source_branch_alone(model, clip, name):
    before, after = (
        sources_of(CORE[name](model), clip),
        sources_of(patched(CORE[name](model)), clip),
    )
    for first, second in zip(before, after, strict=True):
        assert relative_error(second, first) < 1e-4


def reseeded(model: Any) -> Any:
    """A clone that seeds the global generator before each UNet call: ToMe draws from it."""

    def seed(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        torch.manual_seed(7)
        return executor(*args, **kwargs)

    return with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "seed", seed))


def test_tome_merges_each_branch_as_a_stock_run_and_in_either_order(model, clip):
    guidance = (1.5, 2.0)
    with torch.random.fork_rng():
        made = edit(guide(reseeded(TOME(model)), clip, guidance=guidance))
        expected = edit_by_two_runs(reseeded(TOME(model)), clip, guidance)
        orders = [
            edit(guide(reseeded(changed), clip), source_latent(2))
            for changed in (patched(TOME(model)), TOME(patched(model)))
        ]
    assert relative_error(made, expected) < 1e-3
    assert relative_error(made, edit(guide(model, clip, guidance=guidance))) > 0.01
    assert relative_error(orders[1], orders[0]) < 1e-5


def test_the_sampling_of_an_lcm_is_that_of_the_model_itself(model, clip):
    """ModelSamplingDiscrete's lcm: its skip connection is below 1e-5 at these steps."""
    lcm = core_node("nodes_model_advanced", "ModelSamplingDiscrete", "lcm", False)
    expected = edit(guide(patched(model), clip))
    for changed in (patched(lcm(model)), lcm(patched(model))):
        assert relative_error(edit(guide(changed, clip)), expected) < 1e-4


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (2.0, 2.0)])
def test_guidance_with_a_memory_acts_on_each_branch_as_on_a_stock_run(model, clip, guidance):
    """APG's momentum: called twice a step, its running average would advance twice. A stock run at
    guidance 1 gives APG zeros for the unconditional prediction; ours leaves that branch alone."""

    def with_momentum() -> Any:
        return core_node("nodes_apg", "APG", 1.5, 5.0, -0.5)(model)

    made = edit(guide(with_momentum(), clip, guidance=guidance))
    source_model = model if guidance[0] == 1 else with_momentum()
    expected = edit_by_two_runs(source_model, clip, guidance, target_model=with_momentum())
    print(f"APG with momentum: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-3
    without = edit(guide(CORE["APG"](model), clip, guidance=guidance))
    assert relative_error(made, without) > 1e-3


def test_guidance_that_averages_over_the_batch_is_refused(model, clip):
    mahiro = core_node("nodes_mahiro", "Mahiro")(model)
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*Mahiro.*Remove Mahiro\."):
        edit(guide(mahiro, clip))


@pytest.mark.skipif(not HAS_CFG_OVERRIDE, reason="this ComfyUI has no CFG Override")
def test_cfg_override_is_refused(model, clip):
    """It would set a guidance that no branch reads, and so do nothing."""
    override = core_node("nodes_custom_sampler", "CFGOverride", 4.0)(model)
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*CFG Override.*target_guidance\."):
        edit(guide(override, clip))


# -- LoRA and weight hooks -------------------------------------------------------------------------


def lora_of(model: Any, clip: Any, seed: int = 9) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A LoRA file of the UNet's attention and the text encoder, and the change it stands for."""
    lora, changes = {}, {}
    layers = [
        (
            "lora_unet_",
            "diffusion_model.",
            model.model.diffusion_model,
            ("attn1.to_q", "attn2.to_"),
        ),
        ("lora_te_", "clip_l.transformer.", clip.cond_stage_model.clip_l.transformer, ("q_proj",)),
    ]
    for prefix, state, module, names in layers:
        for name, weight in module.state_dict().items():
            if any(part in name for part in names) and name.endswith("weight"):
                down, up = (
                    randn(2, weight.shape[1], seed=seed),
                    randn(weight.shape[0], 2, seed=-seed),
                )
                key = prefix + name.removesuffix(".weight").replace(".", "_")
                lora[f"{key}.lora_down.weight"], lora[f"{key}.lora_up.weight"] = 0.2 * down, up
                changes[state + name] = 0.2 * up @ down
    return lora, changes


def merged(patcher: Any, changes: dict[str, Tensor]) -> None:
    """Write a change of weights into a model itself."""
    state = patcher.model.state_dict()
    for name, change in changes.items():
        if name in state:
            state[name] += change


def test_a_lora_of_model_and_clip_is_the_merged_checkpoint(model, clip):
    from ale_edit.tests.tiny import tiny_clip, tiny_model

    lora, changes = lora_of(model, clip)
    own_model, own_clip = tiny_model(), tiny_clip()
    merged(own_model, changes)
    merged(own_clip.patcher, changes)
    expected = edit(guide(patched(own_model), own_clip))
    for late in (False, True):
        base = patched(model) if late else model
        changed, changed_clip = comfy.sd.load_lora_for_models(base, clip, lora, 1.0, 1.0)
        changed = changed if late else patched(changed)
        assert relative_error(edit(guide(changed, changed_clip)), expected) < 1e-4
    assert relative_error(edit(guide(patched(model), clip)), expected) > 0.05


def hooked(conds: Conds, lora: dict[str, Tensor], strengths: dict[float, float]) -> Conds:
    """As Create Hook LoRA and Create Hook Keyframe into Cond Pair Set Props: source and target
    through one node, the negative through another."""
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in strengths.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooks.set_keyframes_on_hooks(keyframes)
    node = PairConditioningSetProperties()
    source, target = node.set_properties(conds[0], conds[1], 1.0, "default", hooks=hooks)
    negative, _ = node.set_properties(conds[2], conds[2], 1.0, "default", hooks=hooks)
    return source, target, negative


def test_a_weight_hook_on_all_conditionings_is_the_lora_on_the_model(model, clip):
    lora, _ = lora_of(model, clip)
    conds = conds_of(clip)
    changed, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 0.0)
    made = edit_with(patched(model), hooked(conds, lora, {0.0: 1.0}))
    assert relative_error(made, edit_with(patched(changed), conds)) < 1e-4
    assert relative_error(made, edit_with(patched(model), conds)) > 0.05


@pytest.mark.parametrize("is_negative_hooked", [True, False])
def test_scheduled_weight_hooks_act_on_each_branch_as_on_a_stock_run(
    model, clip, is_negative_hooked
):
    """Without hooks on the negative, ComfyUI calls the model for it apart."""
    lora, _ = lora_of(model, clip)
    conds = conds_of(clip)
    changed = hooked(conds, lora, {0.0: 1.0, 0.3: 0.0})
    changed = changed if is_negative_hooked else (*changed[:2], conds[2])
    rgb_cam = apply_rgb_cam(model, two_regions())
    made = edit_with(rgb_cam, changed)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=changed, target_model=rgb_cam)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(rgb_cam, hooked(conds, lora, {0.0: 1.0}))) > 0.01
    assert relative_error(made, edit_with(rgb_cam, conds)) > 0.01


# -- control ---------------------------------------------------------------------------------------


def hint(count: int = 1, seed: int = 6) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=generator(seed))


def controlled(
    controlnet: Any, conds: Conds, images: Tensor | None = None, **options: Any
) -> Conds:
    """As Apply ControlNet on several conditionings: one control for all of them."""
    images = hint() if images is None else images
    percents = (options.get("start", 0.0), options.get("end", 1.0))
    control = controlnet.copy().set_cond_hint(images, options.get("strength", 1.0), percents)
    if "previous" in options:
        control.set_previous_controlnet(options["previous"])
    extra = {"control": control, "control_apply_to_uncond": False}
    source, target, negative = (
        [[text, {**others, **extra}] for text, others in cond] for cond in conds
    )
    return source, target, negative


class SmallAdapter(nn.Module):
    """A T2I-Adapter's net for tiny_model: features for the first block of its UNet."""

    unshuffle_amount = 8
    xl = False

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3 * 64, 32, 1)
        fill(self, 8, 0.3)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"input": [self.convolution(torch.pixel_unshuffle(x, 8))]}


def tiny_adapter() -> Any:
    return comfy.controlnet.T2IAdapter(SmallAdapter(), 3, 8, "nearest-exact")


@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter", "both", "first half"])
def test_controls_act_on_each_branch_as_on_a_stock_run(model, clip, kind):
    net, adapter, plainly = tiny_controlnet(), tiny_adapter(), conds_of(clip)
    if kind == "both":
        previous = controlled(adapter, plainly, hint(seed=7))[0][0][1]["control"]
        conds = controlled(net, plainly, previous=previous, strength=0.7)
    elif kind == "first half":
        conds = controlled(net, plainly, start=0.0, end=0.4)
        assert (
            relative_error(edit_with(model, conds), edit_with(model, controlled(net, plainly)))
            > 0.01
        )
    else:
        conds = controlled(net if kind == "ControlNet" else adapter, plainly)
    made = edit_with(model, conds)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=conds)
    print(f"{kind}: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(model, plainly)) > 0.01
    assert torch.isfinite(edit_with(patched(model), conds)).all()


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize("make", [tiny_controlnet, tiny_adapter])
def test_a_control_image_for_each_image_stays_with_both_of_its_branches(model, clip, make):
    """Also where other runs of this size call the model with fewer rows: a T2I-Adapter keeps its
    features from the first call on."""
    net, images, latent = make(), hint(2), source_latent(2)
    made = edit_with(patched(model), controlled(net, conds_of(clip), images), latent=latent)
    for j in range(2):
        guider = two_branch_guider(
            patched(model), *controlled(net, conds_of(clip), images[j : j + 1])
        )
        alone = edit(guider, latent[j : j + 1], seed=5 + j)
        assert relative_error(made[j : j + 1], alone) < 1e-4
    other = edit_with(
        patched(model), controlled(net, conds_of(clip), images.flip(0)), latent=latent
    )
    assert relative_error(other, made) > 0.01


# -- GLIGEN ----------------------------------------------------------------------------------------


def tiny_gligen(model: Any, key_dim: int = 32) -> Any:
    """A GLIGEN model for tiny_model, as its loader makes it; one module for each block."""
    layers = cross_attention_layers(model.model.diffusion_model)
    order = ("input", "middle", "output")  # that of a UNet call
    keys = sorted(layers, key=lambda key: (order.index(key[0]), *key[1:]))
    widths = [layers[key].to_q.in_features for key in keys]
    modules = [comfy.gligen.GatedSelfAttentionDense(w, key_dim, 4, w // 4) for w in widths]
    net = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(key_dim, key_dim), key_dim)
    fill(net, 12, 0.1)
    for module in modules:
        module.load_state_dict({**module.state_dict(), "alpha_attn": torch.tensor(1.5)})
    return comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu"))


def test_gligen_boxes_act_on_each_branch_as_on_a_stock_run(model, clip):
    node = importlib.import_module("nodes").GLIGENTextBoxApply()
    gligen, plainly = tiny_gligen(model), conds_of(clip)

    def boxed(cond: Any, text: str = "a lamp") -> Any:
        return node.append(cond, clip, gligen, text, 24, 32, 8, 16)[0]

    conds = (boxed(plainly[0]), boxed(plainly[1]), plainly[2])
    made = edit_with(model, conds)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=conds)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(model, plainly)) > 0.01
    assert torch.isfinite(edit_with(patched(model), conds)).all()
    with pytest.raises(ValueError, match="differ in gligen. Apply the same node"):
        edit_with(model, (boxed(plainly[0]), boxed(plainly[1], "a chair"), plainly[2]))


# -- IP-Adapter-like replacements ------------------------------------------------------------------


class ImagePrompt:
    """Like IP-Adapter's replacement: one object for a layer, to which further images are added, its
    own projections, and tokens for the conditional and the unconditional rows, one image or one for
    each latent."""

    def __init__(self, width: int, seed: int) -> None:
        self.projections = [0.1 * randn(32, width, seed=seed + i) for i in range(2)]
        self.images: list[tuple[Tensor, Tensor, float]] = []

    def add(self, cond: Tensor, uncond: Tensor, weight: float) -> None:
        self.images.append((cond, uncond, weight))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        out = optimized_attention(q, k, v, options["n_heads"])
        chunks = options["cond_or_uncond"]
        rows = q.shape[0] // len(chunks)
        for cond, uncond, weight in self.images:
            tokens = torch.cat(
                [comfy.utils.repeat_to_batch_size((cond, uncond)[chunk], rows) for chunk in chunks]
            )
            keys, values = (tokens @ projection for projection in self.projections)
            out = out + weight * optimized_attention(q, keys, values, options["n_heads"])
        return out


def image_prompt(count: int = 1, weights: tuple[float, ...] = (0.7, 0.4), last: int = 5) -> Any:
    """A function MODEL -> MODEL; the second image goes into the last layers only."""

    def apply(model: Any) -> Any:
        clone = model.clone()
        layers = cross_attention_layers(model.model.diffusion_model)
        for i, (key, module) in enumerate(layers.items()):
            patch = ImagePrompt(module.to_q.in_features, 40 + 2 * i)
            for n, weight in enumerate(weights):
                if n == 0 or i >= last:
                    tokens = [randn(count, 4, 32, seed=20 + 2 * n + side) for side in range(2)]
                    patch.add(tokens[0], tokens[1], weight)
            clone.set_model_attn2_replace(patch, *key[: 2 if i % 2 else 3])
        return clone

    return apply


def test_image_prompts_act_on_each_branch_as_on_a_stock_run(model, clip):
    adapter, latent = image_prompt(count=2), source_latent(2)
    made = edit(guide(adapter(model), clip), latent)
    expected = edit_by_two_runs(adapter(model), clip, (1.0, 2.0), latent=latent)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, clip), latent)) > 0.05


def test_image_prompts_in_several_layers_run_beside_all_of_ours_in_either_order(model, clip):
    adapter = image_prompt()
    first = edit(guide(patched(adapter(model)), clip))
    assert relative_error(edit(guide(adapter(patched(model)), clip)), first) < 1e-5
    for other in (model, image_prompt(weights=(0.7,))(model), image_prompt(last=99)(model)):
        expected_change = relative_error(edit(guide(patched(other), clip)), first)
        assert expected_change > 1e-3
    without_rgb_cam = apply_background_blending(
        apply_self_injection(adapter(model), 0.5), two_regions()
    )
    assert relative_error(edit(guide(without_rgb_cam, clip)), first) > 0.01


def test_an_image_prompt_in_a_hook_of_the_conditioning_is_kept_by_rgb_cam(model, clip):
    """Hooks bring their patches at each call; RGB-CAM must not hide them."""
    image = image_prompt()(model).model_options["transformer_options"]["patches_replace"]
    source, target, negative = conds_of(clip)

    def with_hook(cond: Any, scope: Any) -> Any:
        group = comfy.hooks.HookGroup()
        group.add(comfy.hooks.TransformerOptionsHook({"patches_replace": image}, scope))
        return [[text, {**options, "hooks": group}] for text, options in cond]

    rgb_cam = apply_rgb_cam(model, two_regions())
    made = [
        generate(rgb_cam, with_hook(target, scope), negative, cfg=1.0)
        for scope in (
            comfy.hooks.EnumHookScope.HookedOnly,
            comfy.hooks.EnumHookScope.AllConditioning,
        )
    ]
    expected = generate(
        apply_rgb_cam(image_prompt()(model), two_regions()), target, negative, cfg=1.0
    )
    assert relative_error(made[0], expected) < 1e-4
    assert relative_error(made[1], expected) < 1e-4
    assert relative_error(generate(rgb_cam, target, negative, cfg=1.0), expected) > 0.01


# -- patches of the text inside cross-attention ----------------------------------------------------


def attention_couple(model: Any) -> Any:
    """Like attention couple: the conditional rows once for each of two texts, averaged after."""
    clone = model.clone()
    other = randn(1, 77, 32, seed=30)

    def couple(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        chunks = options["cond_or_uncond"]
        rows = n.shape[0] // len(chunks)
        queries, texts = [], []
        for chunk, q, text in zip(chunks, n.split(rows), context.split(rows), strict=True):
            queries += [q] if chunk else [q, q]
            texts += [text] if chunk else [text, other.expand(rows, -1, -1)]
        text = torch.cat(texts)
        return torch.cat(queries), text, text

    def average(n: Tensor, options: dict[str, Any]) -> Tensor:
        chunks = options["cond_or_uncond"]
        rows = n.shape[0] // (len(chunks) + chunks.count(0))
        parts, out = list(n.split(rows)), []
        for chunk in chunks:
            out.append(parts.pop(0) if chunk else (parts.pop(0) + parts.pop(0)) / 2)
        return torch.cat(out)

    clone.set_model_attn2_patch(couple)
    clone.set_model_attn2_output_patch(average)
    return clone


def hypernetwork(model: Any) -> Any:
    """Like Hypernetwork Loader: keys and values of both kinds of attention through a layer."""
    weights = {width: randn(width, width, seed=width) for width in (32, 64)}

    def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        weight = 0.05 * weights[context.shape[-1]]
        return n, context + context @ weight, value + value @ weight

    clone = model.clone()
    clone.set_model_attn1_patch(patch)
    clone.set_model_attn2_patch(patch)
    return clone


def louder_queries(model: Any) -> Any:
    """An attn2_patch that leaves the text alone, but hands on a copy of it."""

    def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        return 1.3 * n, context.clone(), value

    return with_option(model, lambda m: m.set_model_attn2_patch(patch))


@pytest.mark.parametrize("change", [attention_couple, hypernetwork])
@pytest.mark.parametrize("is_late", [True, False])
def test_what_changes_the_text_inside_cross_attention_is_refused_by_rgb_cam(
    model, clip, change, is_late
):
    rgb_cam = change(apply_rgb_cam(model, two_regions()))
    if not is_late:
        rgb_cam = apply_rgb_cam(change(model), two_regions())
    source, target, negative = conds_of(clip)
    words = r"Region Cross-Attention: another node on the model changes the text.*Remove.*bypass"
    with pytest.raises(ValueError, match=words):
        generate(rgb_cam, target, negative)
    with pytest.raises(ValueError, match=words):
        edit(guide(rgb_cam, clip))


@pytest.mark.parametrize("change", [attention_couple, hypernetwork, louder_queries])
def test_without_rgb_cam_such_patches_act_on_each_branch_as_on_a_stock_run(model, clip, change):
    made = edit(guide(change(model), clip))
    assert relative_error(made, edit_by_two_runs(change(model), clip, (1.0, 2.0))) < 1e-3
    assert relative_error(made, edit(guide(model, clip))) > 0.01
    blended = edit(guide(apply_self_injection(change(model), 0.5), clip))
    assert torch.isfinite(blended).all()


def test_a_patch_of_the_queries_acts_beside_all_of_ours_in_either_order(model, clip):
    first = edit(guide(patched(louder_queries(model)), clip))
    assert relative_error(edit(guide(louder_queries(patched(model)), clip)), first) < 1e-5
    assert relative_error(first, edit(guide(patched(model), clip))) > 0.01


def test_token_merging_of_the_queries_of_cross_attention_is_refused(model, clip):
    def half(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        return n[:, ::2], context, value

    def twice(n: Tensor, options: dict[str, Any]) -> Tensor:
        return n.repeat_interleave(2, dim=1)

    def merge(m: Any) -> None:
        m.set_model_attn2_patch(half)
        m.set_model_attn2_output_patch(twice)

    changed = with_option(patched(model), merge)
    with pytest.raises(ValueError, match="Region Cross-Attention: .*rows or positions"):
        edit(guide(changed, clip))


# -- functions around the model --------------------------------------------------------------------


def test_an_attention_that_the_user_selected_is_used_and_changes_nothing_else(model, clip):
    calls: list[int] = []

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return function(*args, **kwargs)

    def select(m: Any) -> None:
        m.model_options["transformer_options"]["optimized_attention_override"] = override

    expected = edit(guide(patched(model), clip))
    for changed in (with_option(patched(model), select), patched(with_option(model, select))):
        calls.clear()
        assert torch.equal(edit(guide(changed, clip)), expected)
        assert len(calls) > 4 * 20


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_edit_in_either_order(model, clip):
    """TorchCompileModel's own function; the eager backend traces all of our patches."""
    torch._dynamo.reset()
    expected = edit(guide(patched(model), clip))
    late = patched(model)
    set_torch_compile_wrapper(model=late, backend="eager")
    early = model.clone()
    set_torch_compile_wrapper(model=early, backend="eager")
    for changed in (late, patched(early)):
        assert relative_error(edit(guide(changed, clip)), expected) < 1e-4
    torch._dynamo.reset()


class DeepCache:
    """Like DeepCache and TeaCache: every second call of the same chunks repeats the last output."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> Tensor:
        kept = self.calls.setdefault(tuple(args["cond_or_uncond"]), [])
        if len(kept) % 2:
            kept.append(kept[-1] + 0 * args["input"])
        else:
            kept.append(apply_model(args["input"], args["timestep"], **args["c"]))
        return kept[-1]


def cached(model: Any) -> Any:
    return with_option(model, lambda m: m.set_model_unet_function_wrapper(DeepCache()))


def test_a_wrapper_that_keeps_outputs_acts_on_each_branch_as_on_a_stock_run(model, clip):
    made = edit(guide(cached(model), clip, guidance=(1.5, 2.0)))
    expected = edit_by_two_runs(cached(model), clip, (1.5, 2.0), target_model=cached(model))
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, clip, guidance=(1.5, 2.0)))) > 0.01


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize("change", [cached, EASY_CACHE], ids=["DeepCache-like", "EasyCache"])
def test_what_keeps_rows_from_call_to_call_gets_as_many_in_each(model, clip, change, monkeypatch):
    made = edit(guide(patched(change(model)), clip))
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", 10**9)
    assert relative_error(edit(guide(change(patched(model)), clip)), made) < 1e-5
    assert relative_error(edit(guide(patched(model), clip)), made) > 0.01


@pytest.mark.parametrize("change", [EASY_CACHE, LAZY_CACHE], ids=["EasyCache", "LazyCache"])
@pytest.mark.parametrize("is_late", [True, False])
def test_steps_that_a_cache_leaves_out_keep_the_background_too(model, clip, change, is_late):
    changed = change(patched(model)) if is_late else patched(change(model))
    latent = source_latent(2)
    made = edit(guide(changed, clip), latent, steps=8)
    keeps = background_weights(two_regions(), 8, 8, "paper", is_soft=False)
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)
    assert relative_error(made, edit(guide(patched(model), clip), latent, steps=8)) > 0.01


def shaken(model: Any) -> Any:
    """Another node's wrapper that changes every prediction, other in each row."""

    def shake(executor: Any, x: Tensor, *args: Any) -> Tensor:
        return executor(x, *args) + 0.3 * randn(*x.shape, seed=50)

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "shake", shake)
    )


@pytest.mark.parametrize("is_late", [True, False])
def test_what_changes_predictions_cannot_change_the_background(model, clip, is_late):
    changed = shaken(patched(model)) if is_late else patched(shaken(model))
    latent = source_latent(2)
    made = edit(guide(changed, clip), latent)
    keeps = background_weights(two_regions(), 8, 8, "paper", is_soft=False)
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)
    assert relative_error(made, edit(guide(patched(model), clip), latent)) > 0.01


def in_tiles(model: Any) -> Any:
    """Like Tiled Diffusion: the latent in two halves, one call each."""

    def tile(apply_model: Any, args: dict[str, Any]) -> Tensor:
        halves = args["input"].chunk(2, dim=-1)
        return torch.cat([apply_model(x, args["timestep"], **args["c"]) for x in halves], dim=-1)

    return with_option(model, lambda m: m.set_model_unet_function_wrapper(tile))


def row_by_row(model: Any) -> Any:
    """Like a wrapper that saves memory: one row a call, the rest of the options unchanged."""

    def split(apply_model: Any, args: dict[str, Any]) -> Tensor:
        c = args["c"]
        parts = zip(args["input"], args["timestep"], c["c_crossattn"], strict=True)
        return torch.cat(
            [apply_model(x[None], t[None], **{**c, "c_crossattn": k[None]}) for x, t, k in parts]
        )

    return with_option(model, lambda m: m.set_model_unet_function_wrapper(split))


@pytest.mark.parametrize(
    ("change", "apply", "words"),
    [
        (in_tiles, lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention: .*8x4"),
        (row_by_row, lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention: .*8 rows"),
        (row_by_row, lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection: .*8 rows"),
    ],
    ids=["tiles", "row by row", "row by row, injection"],
)
def test_what_cuts_latents_or_batches_is_refused_where_rows_or_regions_are_looked_up(
    model, clip, change, apply, words
):
    for changed in (change(apply(model)), apply(change(model))):
        with pytest.raises(ValueError, match=f"{words}.*Remove what.*bypass"):
            edit(guide(changed, clip), source_latent(2))


@pytest.mark.parametrize("change", [in_tiles, row_by_row])
def test_what_cuts_latents_or_batches_acts_on_each_branch_where_nothing_is_looked_up(
    model, clip, change
):
    made = edit(guide(change(model), clip))
    assert relative_error(made, edit_by_two_runs(change(model), clip, (1.0, 2.0))) < 1e-4


def test_context_windows_are_refused(model, clip):
    """ComfyUI's own node would cut the batch of source and edit into windows."""
    windows = core_node(
        "nodes_context_windows",
        *("ContextWindowsManualNode", 2, 0, "standard_static", 1, False, "flat", 0),
    )
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*Context Windows.*Remove"):
        edit(guide(windows(model), clip), source_latent(2))


def test_tiles_are_refused_in_a_stock_run_too(model, clip):
    source, target, negative = conds_of(clip)
    with pytest.raises(ValueError, match="Region Cross-Attention: .*8x8.*8x4"):
        generate(in_tiles(apply_rgb_cam(model, two_regions())), target, negative)


def collect(functions: dict[str, Callable[[Any], Any]], names: list[str]) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        for name in names:
            model = functions[name](model)
        return model

    return apply


def test_many_nodes_at_once_in_two_orders(model, clip):
    """LoRA, ControlNet, an image prompt, FreeU, PAG and RescaleCFG around ours."""
    lora, _ = lora_of(model, clip)
    conds = controlled(tiny_controlnet(), conds_of(clip))
    nodes: dict[str, Callable[[Any], Any]] = {
        "ours": patched,
        "lora": lambda m: comfy.sd.load_lora_for_models(m, clip, lora, 0.5, 0.0)[0],
        "image": image_prompt(),
        **{name: CORE[name] for name in ("FreeU_V2", "PAG", "RescaleCFG")},
    }
    results = [
        edit_with(collect(nodes, order)(model), conds) for order in (list(nodes), list(nodes)[::-1])
    ]
    assert torch.isfinite(results[0]).all()
    assert relative_error(results[1], results[0]) < 1e-4


def test_a_sampler_that_calls_the_model_past_its_guider_gets_rgb_cam_too(model, clip):
    """As some packs' samplers do: ComfyUI's sampling_function with the run's own options."""
    target, negative = conds_of(clip)[1:]
    latent, seen = randn(1, 4, 8, 8), []

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        guider, sigma = denoiser.inner_model, sigmas[:1]
        options = extra_args["model_options"]
        conds = guider.conds
        seen.append(guider(x, sigma, options, 0))
        seen.append(
            comfy.samplers.sampling_function(
                *(guider.inner_model, x, sigma, conds["negative"], conds["positive"], guider.cfg),
                model_options=options,
            )
        )
        return x

    for changed in (apply_rgb_cam(model, two_regions()), model):
        comfy.samplers.sample(
            changed, latent, target, negative, 3.0, changed.load_device,
            comfy.samplers.KSAMPLER(sampler), torch.tensor([3.0, 0.0]), changed.model_options,
            latent_image=torch.zeros_like(latent), disable_pbar=True, seed=0,
        )  # fmt: skip
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert relative_error(seen[1], seen[3]) > 0.01
