"""What is counted: UNet rows of an edit, and the operations of one attention layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ...attention.rgb_cam import Attention, layer_text, region_cross_attention, region_text
from ...editors.ale import SCHEDULES
from ...host.sampling.virtual_inversion import virtual_inversion_sampler
from ...prompts.ore import ObjectRestrictedEmbeddings
from ...regions.grid import cell_groups, coverage
from .models import COUNTS, GUIDANCE, TOKENS, ale_model, boxes, embeddings, guide, sample

ROWS_SIZE = 32


def count_rows(model: ModelPatcher, size: int) -> dict[str, int]:
    """UNet rows of a whole edit of one image: as published, and here by type of edit, at a latent
    size where rows are left out."""

    def rows_of(schedule: float, keeps_all: bool) -> int:
        patched, rows = count_calls(ale_model(model, 2, size, schedule))
        options: dict[str, Any] = patched.model_options
        options["disable_cfg1_optimization"] = keeps_all
        sample(guide(patched, 2, GUIDANCE), size, virtual_inversion_sampler())
        return sum(rows)

    schedules = {"no injection": 0.0, **{name: SCHEDULES[name] for name in ("object", "color")}}
    ours = {name: rows_of(schedule, False) for name, schedule in schedules.items()}
    return {"published": rows_of(SCHEDULES["object"], True), **ours}


def count_calls(model: ModelPatcher) -> tuple[ModelPatcher, list[int]]:
    """A clone of a MODEL, and the rows of each call of it from now on."""
    rows: list[int] = []

    def count(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "ale_edit.bench", count)
    return model, rows


CPU_ATTENTION = {  # torch's counter knows that of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    )
}


class KernelCount(TorchDispatchMode):
    """Counts the operations that compute or copy something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(side: int = 32, channels: int = 64, heads: int = 8) -> dict[str, Any]:
    """One target row in one cross-attention layer, its text already projected: floating-point
    operations, kernels, and rows that the attention function is given. Counted with ComfyUI's
    attention_pytorch, which most GPUs use."""
    q, prompt = torch.randn(1, side * side, channels), torch.randn(1, TOKENS, channels)
    found: dict[str, Any] = {
        "layer": f"{side}x{side} positions, {channels} channels",
        "plain": count_work(lambda attention: attention(q, prompt, prompt), heads),
    }
    for k in COUNTS:
        ore = embeddings(k, channels)
        covered = coverage(boxes(k, side).dilated, side, side, "paper")
        text = layer_text(
            [
                region_text(ore.keys, ore.values, ore.owner, g.cells, g.value, g.visible)
                for g in cell_groups(covered, last_object_wins=False)
            ]
        )
        inside = covered.flatten(1)
        found[f"k{k}"] = {
            "grouped": count_work(lambda a, t=text: region_cross_attention(q, t, a), heads),
            "published": count_work(
                lambda _, o=ore, i=inside: attend_as_published(q, o, i, heads), heads
            ),
        }
    return found


def count_work(run: Callable[[Attention], Tensor], heads: int) -> dict[str, int]:
    """What run(attention function) computes."""
    rows = []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows.append(q.shape[0] * q.shape[1])
        return attention_pytorch(q, k, v, heads)

    operations = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with KernelCount() as kernels, operations:
        run(attention)
    total = operations.get_total_flops()
    return {"operations": total, "kernels": kernels.count, "attention_rows": sum(rows)}


def attend_as_published(
    q: Tensor, ore: ObjectRestrictedEmbeddings, inside: Tensor, heads: int
) -> Tensor:
    """Algorithm 2 as published: one masked map, and each of the K+1 values on every position."""
    queries, keys, values = (
        x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q[0], ore.keys, ore.values)
    )
    hidden = (ore.owner >= 0) & ~inside[ore.owner.clamp(min=0)].T  # (L, N)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5 - 100 * hidden
    weights = scores.softmax(dim=-1)  # (h, L, N)
    out = weights @ values[-1]
    for i, value in enumerate(values[:-1]):
        out = torch.where(inside[i][:, None], weights @ value, out)
    return out.transpose(0, 1).flatten(1)[None]
