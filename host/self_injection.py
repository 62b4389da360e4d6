"""Self-attention injection in a ComfyUI run: target rows take the source rows' queries and keys
(attn1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention.self_injection import rows_with_source
from ..editors.ale import is_injection_step
from .conditioning import run_settings
from .messages import NodeName
from .patching import SELF_INJECTION_KEY, WRAPPERS, with_wrapper
from .rows import STEP_KEY, branch_rows, chunk_rows, require_whole_batch
from .run_checks import require_two_branch
from .source_branch import SOURCE_KEY, OpenStep, SourceStep, attention_keys
from .unet import require_cross_attention

NODE = NodeName("Self-Attention Injection")
ACTIVE_KEY = "ale_edit_injects"


def apply_self_injection(model: Any, schedule: float) -> Any:
    """A clone of a MODEL that injects self-attention during the first `schedule` share of the
    steps, in [0, 1]."""
    require_cross_attention(model, NODE)

    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        require_two_branch(guider, NODE)
        variant = run_settings(guider.conds).variant
        indices: dict[tuple[int, int, torch.device], Tensor] = {}

        def is_active(options: dict[str, Any]) -> bool:
            steps = len(options["sample_sigmas"]) - 1
            return is_injection_step(options[STEP_KEY], steps, schedule, variant)

        def attn1_patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
            if not is_active(options):
                return n, context, value
            require_whole_batch(n.shape[0], options, NODE)
            step: SourceStep | OpenStep | None = options.get(SOURCE_KEY)
            keys = attention_keys(options)
            if isinstance(step, SourceStep):  # all rows are the target's
                kept = [step.attention[key] for key in keys]
                source = torch.cat([rows.to(n, non_blocking=n.is_cuda) for rows in kept])
                return source, source, value
            pairs = [branch_rows(chunk) for chunk in chunk_rows(n.shape[0], options)]
            if step is not None:
                for key, rows in zip(keys, pairs, strict=True):
                    step.put(key, n[rows.source])
            key = (n.shape[0], len(pairs), n.device)
            if key not in indices:
                index = rows_with_source(n.shape[0], ((rows.source, rows.target) for rows in pairs))
                indices[key] = index.to(n.device)
            index = indices[key]
            source = n[index]
            return source, source if context is n else context[index], value

        options = guider.model_options.setdefault("transformer_options", {})
        patches = options["patches"] = dict(options.get("patches", {}))
        patches["attn1_patch"] = [attn1_patch, *patches.get("attn1_patch", [])]
        options[ACTIVE_KEY] = is_active
        return executor(*args, **kwargs)

    return with_wrapper(model, WRAPPERS.OUTER_SAMPLE, SELF_INJECTION_KEY, outer_sample, NODE)
