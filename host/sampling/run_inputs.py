"""Everything that a run of branches is given, checked before any sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..comfy_types import Cond, Options
from ..flow_families import find_family
from .branch_inputs import (
    require_active,
    require_control,
    require_pooled,
    require_same_hidden_part,
)
from .run_checks import (
    advise_size,
    require_area,
    require_latent,
    require_noise_space,
    require_own_guidance,
    require_sigmas,
    require_text_width,
    require_whole_rows,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

REFUSED_IN_FLOW = {
    "reference_latents": "reference latents (as ReferenceLatent and Kontext workflows add them)",
    "attention_mask_img_shape": "an attention mask on image tokens (as Apply Style Model adds it)",
}
"""Entries of a conditioning that add tokens or masks to a flow transformer's attention."""


def require_run(
    model: ModelPatcher,
    branches: Mapping[str, Cond],
    negative: Sequence[Cond],
    latent: Tensor,
    sigmas: Tensor,
    model_options: Options,
    is_guided: bool,
    node: str,
) -> None:
    """Raises ValueError for what would give a wrong image.

    branches: their texts. is_guided: whether the negative is used.
    """
    is_flow = find_family(model) is not None
    if not is_flow:
        require_noise_space(model, node)
    require_sigmas(sigmas, node)
    require_latent(latent, model, node)
    require_whole_rows(model_options, node)
    require_own_guidance(model, node)
    for name, cond in _each_text(branches, negative):
        require_text_width(name, cond, model, node)
        require_area(name, cond, latent, node)
        require_control(name, cond, latent.shape[0], model, node)
        if is_flow:
            _require_plain_text(name, cond, node)
    advise_size(latent, model, node)
    require_pooled(branches, negative if is_guided else (), model, node)
    first = next(iter(branches))
    require_active(first, [branches[first]], sigmas, model, node)
    if is_guided:
        last = list(branches)[-1]
        require_same_hidden_part(branches[last], negative, model, node)
        require_active("negative", negative, sigmas, model, node)


def _each_text(
    branches: Mapping[str, Cond], negative: Sequence[Cond]
) -> Iterator[tuple[str, Cond]]:
    yield from branches.items()
    for cond in negative:
        yield "negative", cond


def _require_plain_text(name: str, cond: Cond, node: str) -> None:
    for key, words in REFUSED_IN_FLOW.items():
        if cond.get(key) is not None:
            raise ValueError(
                f"{node}: the {name} input carries {words}, which source and edit cannot share "
                "yet. Remove the node that adds them."
            )
