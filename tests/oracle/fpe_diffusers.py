"""Free-Prompt-Editing on diffusers' UNet2DConditionModel: the oracle of a whole edit.

Liu, Wang, Cao, Jia, Huang (CVPR 2024, arXiv 2403.03431). Written from the specification alone
(methods.md C.6); shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ale_diffusers import Network, Step, heads
from .inverted_diffusers import Sampling, edit_inverted
from .ore_by_hand import TextEncoder

TARGET_COND, SOURCE_COND = 3, 2


@dataclass(frozen=True)
class Settings:
    """per_fifty: the steps of 50 in which the source's maps are taken. source: its prompt."""

    sampling: Sampling = Sampling(method="direct")
    per_fifty: int = 40
    source: str = ""
    has_control: bool = True


def is_coarse(unet: Any, attn: Any) -> bool:
    """Whether a self-attention layer stands below the finest level: in no block that has the
    latent's own size."""
    finest = (unet.down_blocks[0], unet.up_blocks[-1])
    return not any(attn is module for block in finest for module in block.modules())


@dataclass
class FPEAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond]."""

    unet: Any
    is_on: bool = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and len(hidden_states) == 4
        is_self = encoder_hidden_states is None
        context = hidden_states if is_self else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        maps = scores.softmax(-1)
        if self.is_on and is_self and is_coarse(self.unet, attn):
            maps[TARGET_COND] = maps[SOURCE_COND]
        out = torch.einsum("rhln,rnhd->rlhd", maps, heads(v, attn))
        return attn.to_out[0](out.flatten(2))


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps and the result."""
    attention = FPEAttention(network.unet)

    def begin(step: int, count: int) -> None:
        attention.is_on = settings.has_control and step < count * settings.per_fifty // 50

    return edit_inverted(
        network,
        encoder,
        (settings.source, settings.source, prompts[1]),
        x0,
        settings.sampling,
        attention,
        seed=seed,
        begin=begin,
    )
