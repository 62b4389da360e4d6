"""What other nodes put on a model or on conditionings: ComfyUI's own, and some like other packs'.

Imported by tests as `ale_edit.tests.host.other_nodes`.
"""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import comfy.gligen
import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.tests.host.runs import edit, plain, side, two_branch_guider, with_option
from ale_edit.tests.host.stock_runs import core_node
from ale_edit.tests.tiny import edits_of, generator, randn

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
