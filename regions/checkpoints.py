"""Weights by other names: original checkpoints renamed for transformers' models, with every tensor
accounted for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

SHOWN = 6
COMPUTED = (".relative_position_index",)  # tables that a model makes by itself


class UnfitFile(ValueError):
    """A file that does not hold what its model needs; says which file, and what is wrong."""


def rename(
    weights: Mapping[str, Tensor],
    rules: Sequence[tuple[str, str]],
    fused: Sequence[tuple[str, tuple[str, ...]]],
    unused: re.Pattern[str],
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by their new names, and the names of those that no rule knows.

    rules: pattern of a whole name and its replacement; the first that fits is taken. fused: pattern
    and replacements; such a tensor is split along its first axis into equal parts. unused: names
    that are left out.
    """
    out: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        if unused.fullmatch(name):
            continue
        if (parts := _split(name, tensor, fused)) is not None:
            out.update(parts)
        elif (new := _rename_one(name, rules)) is not None:
            out[new] = tensor
        else:
            unknown.append(name)
    return out, unknown


def _rename_one(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for pattern, new in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(new)
    return None


def _split(
    name: str, tensor: Tensor, fused: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[str, Tensor] | None:
    for pattern, names in fused:
        if found := re.fullmatch(pattern, name):
            parts = tensor.chunk(len(names))
            return {found.expand(new): part for new, part in zip(names, parts, strict=True)}
    return None


Network: TypeAlias = Any
"""A model of transformers, or another network, whose parts have no types."""
Config: TypeAlias = Any
"""A configuration of transformers, which takes and holds what its class says at run time."""


def load_model(
    cls: type[PreTrainedModel], config: Config, weights: dict[str, Tensor], file: str
) -> nn.Module:
    """A transformers model of a class and configuration that holds exactly these weights (fp32), in
    eval mode.

    transformers itself loads them, because its own names of the parts differ between versions.
    Raises UnfitFile that lists missing, unknown and misshapen tensors.
    """
    floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    model, found = cast(Network, cls).from_pretrained(
        None,
        config=config,
        state_dict=floats,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
    )
    found = found if isinstance(found, dict) else vars(found)
    shapes = [entry if isinstance(entry, str) else entry[0] for entry in found["mismatched_keys"]]
    missing = [name for name in found["missing_keys"] if not name.endswith(COMPUTED)]
    require_all(missing, found["unexpected_keys"], shapes, file)
    return model.to(torch.float32).eval().requires_grad_(False)


def require_all(
    missing: Iterable[str], unknown: Iterable[str], shapes: Iterable[str], file: str
) -> None:
    """Raises UnfitFile when a file's tensors are not those of its model, and lists them."""
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    listed = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for kind, names in ((kind, sorted(given)) for kind, given in kinds.items())
        if names
    ]
    if listed:
        raise UnfitFile(
            f"{file} does not hold the tensors of its model: {'; '.join(listed)}. The file is "
            "incomplete, or of a variant that this loader does not know; take the published file."
        )


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights without a prefix that all of their names may have ("module.")."""
    if weights and all(name.startswith(prefix) for name in weights):
        return {name[len(prefix) :]: tensor for name, tensor in weights.items()}
    return dict(weights)
