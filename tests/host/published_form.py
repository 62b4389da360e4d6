"""RGB-CAM's published form wired by hand, and runs that arrange the calls of the model otherwise.

Imported by tests as `ale_edit.tests.host.published_form`.
"""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.regions.grid import coverage
from ale_edit.regions.regions import ImageRegions
from ale_edit.tests.host.runs import side, with_option
from ale_edit.tests.tiny import edits_of

WRAPPERS = comfy.patcher_extension.WrappersMP
LONG = "a very detailed photograph of " + ", ".join(f"thing number {n}" for n in range(22))


def published_form(
    model: Any,
    ore: ObjectRestrictedEmbeddings,
    regions: ImageRegions,
    positive: int = 0,
    background: Tensor | None = None,
) -> Any:
    """Algorithm 2 with ComfyUI's own attn2 replacement: one masked map, all values everywhere.

    Acts on the chunks of conds[positive]; the image is 8 times the latent. With a background text
    (1, N, D), the cells of no region have plain attention to it instead.
    """

    def make(module: Any) -> Any:
        def attn2(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            out = optimized_attention(q, k, v, options["n_heads"])
            chunks = options["cond_or_uncond"]
            rows = q.shape[0] // len(chunks)
            height, width = options["activations_shape"][-2:]
            covered = coverage(regions.dilated, height, width, "paper").flatten(1)
            mask = torch.zeros(height * width, len(ore.owner))
            for token, owner in enumerate(ore.owner.tolist()):
                if owner >= 0:
                    mask[~covered[owner], token] = -100
            keys, values = module.to_k(ore.keys[None]), module.to_v(ore.values)
            for c, chunk in enumerate(chunks):
                if chunk != positive:
                    continue
                mine = q[c * rows : (c + 1) * rows]
                repeated = keys.expand(rows, -1, -1)

                def attend(value: Tensor, q: Tensor = mine, k: Tensor = repeated) -> Tensor:
                    v = value[None].expand(rows, -1, -1)
                    return optimized_attention(q, k, v, options["n_heads"], mask=mask)

                result = attend(values[-1])
                for i in range(len(covered)):
                    inside = covered[i] & (covered.sum(dim=0) == 1)
                    result = torch.where(inside[:, None], attend(values[i]), result)
                if background is not None:
                    text = background.expand(rows, -1, -1)
                    outside = optimized_attention(
                        mine, module.to_k(text), module.to_v(text), options["n_heads"]
                    )
                    result = torch.where(covered.any(dim=0)[:, None], result, outside)
                out[c * rows : (c + 1) * rows] = result
            return out

        return attn2

    clone = model.clone()
    for key, module in cross_attention_layers(model.model.diffusion_model).items():
        clone.set_model_attn2_replace(make(module), *key)
    return clone


def target(clip: Any, **settings: Any) -> Any:
    return side(clip, edits_of(**settings), "target")


def separately(model: Any) -> Any:
    """A clone whose UNet calls hold one conditioning each, as when memory is short."""

    def one_by_one(executor: Any, base: Any, conds: list[Any], *args: Any) -> list[Tensor]:
        out = []
        for i in range(len(conds)):
            alone = [cond if j == i else None for j, cond in enumerate(conds)]
            out.append(executor(base, alone, *args)[i])
        return out

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.CALC_COND_BATCH, "test", one_by_one)
    )


def reversed_order(model: Any) -> Any:
    """A clone whose UNet calls hold the conditionings in the opposite order."""

    def backwards(executor: Any, base: Any, conds: list[Any], *args: Any) -> list[Tensor]:
        return executor(base, conds[::-1], *args)[::-1]

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.CALC_COND_BATCH, "test", backwards)
    )


def calls_of(model: Any, run: Any) -> list[list[int]]:
    """Runs `run(model)` and returns cond_or_uncond of every UNet call."""
    calls: list[list[int]] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(list(args[5]["cond_or_uncond"]))
        return executor(*args, **kwargs)

    run(with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "count", count)))
    return calls


def no_free_memory(device: Any = None, torch_free_too: bool = False) -> Any:
    """In place of ComfyUI's: nothing is free for a batch; attention's own question gets 1 GB."""
    return (2**30, 2**30) if torch_free_too else 0
