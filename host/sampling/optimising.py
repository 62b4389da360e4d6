"""What controls do to the latents of branches before a step, by gradients through the network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...attention.control import Step
from ..attention.adapter import controls_with_nodes
from ..attention.rows import add_step
from ..attention.store import STORE_KEY, StepStore
from ..comfy_types import Options
from ..gradients import (
    checkpoint_blocks,
    explain_memory,
    leaf,
    ordinary_entry,
    record_gradients,
    stop_if_interrupted,
    use_differentiable_attention,
)
from ..messages import NodeName, name_node
from .guidance import call_model

if TYPE_CHECKING:
    from .branch_guider import BranchGuider

NODE = NodeName("Two-Branch Guider")


def optimise_latents(
    latents: Mapping[str, Tensor],
    guider: BranchGuider,
    sigmas: Tensor,
    step: int,
    extra_args: Options,
) -> dict[str, Tensor]:
    """The latents (B, C, h, w) by branch that a step starts from, as the controls of the run
    optimise them."""
    options = extra_args.get("model_options", {})
    now = Step(step, len(sigmas) - 1, float(sigmas[step]))
    for control, node in controls_with_nodes(options.get("transformer_options", {})):
        if not control.optimises(now):
            continue
        network = guider.inner_model
        with (
            record_gradients(network),
            checkpoint_blocks(network.diffusion_model),
            name_node(node),
            explain_memory(network, next(iter(latents.values())).shape),
        ):
            sigma = leaf(sigmas[step])
            store = StepStore(frozenset(latents))

            def evaluate(
                branch: str, latents: Tensor, sigma: Tensor = sigma, store: StepStore = store
            ) -> Tensor:
                stop_if_interrupted()
                with nullcontext() if latents.requires_grad else torch.no_grad():
                    return _evaluate(guider, branch, latents, sigma, options, store)

            own = {name: leaf(x) for name, x in latents.items()}
            latents = control.optimise(own, now, evaluate)
    return dict(latents)


def _evaluate(
    guider: BranchGuider, branch: str, x: Tensor, sigma: Tensor, options: Options, store: StepStore
) -> Tensor:
    """The conditional prediction of latents under the text of a branch.

    store: what the branch reads of others, and leaves for them.
    """
    times = sigma.expand(len(x))
    options = add_step(options, times, NODE)
    options["transformer_options"][STORE_KEY] = store
    use_differentiable_attention(options["transformer_options"])
    entries = [ordinary_entry(cond) for cond in guider.branch_entries(branch)]
    cond, _ = call_model(guider.inner_model, [entries, None], x, times, options, NODE)
    return cond
