"""What controls do to the latents of branches before a step, by gradients through the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

import comfy.model_management
import torch
from torch import Tensor

from ...attention.control import Step
from ..attention.adapter import controls_with_nodes
from ..attention.rows import add_step
from ..attention.store import STORE_KEY, StepStore
from ..comfy_types import Options
from ..gradients import (
    ROWS_OF_GRADIENTS,
    checkpoint_blocks,
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
GIB = 2**30


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
            _explain_memory(guider, latents),
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


@contextmanager
def _explain_memory(guider: BranchGuider, latents: Mapping[str, Tensor]) -> Iterator[None]:
    """Says what gradients need where a card has too little memory for them."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION as error:
        shape = next(iter(latents.values())).shape
        rows = [ROWS_OF_GRADIENTS * shape[0], *shape[1:]]
        needed = guider.inner_model.memory_required(rows) / GIB
        device = guider.inner_model.current_patcher.load_device
        whole = cast("float", comfy.model_management.get_total_memory(device)) / GIB
        raise ValueError(
            f"the gradients of latents of {shape[-2]}x{shape[-1]} cells (height x width) need "
            f"about {needed:.1f} GB beside the model; {device} has {whole:.1f} GB in all and too "
            "little left. Scale the image down, edit one image at a time, or start ComfyUI with "
            "--lowvram."
        ) from error
