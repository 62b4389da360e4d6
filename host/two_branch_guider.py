"""A guider whose every UNet call holds the source branch and the target branch of each image.

Latents are [source x B, target x B] in one batch, so attention patches see both, and each branch
has its own guidance scale. When the source branch is known from the run before, calls hold the
target rows alone (source_branch.py).
"""

from __future__ import annotations

import logging
import math
from typing import Any
from uuid import uuid4

import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from .branch_inputs import (
    branches_entry,
    require_active,
    require_branches,
    require_control,
    require_pooled,
    require_same_hidden_part,
    with_mask_of,
)
from .conditioning import BRANCHES_KEY
from .patching import WRAPPERS
from .rows import STEP_KEY, step_index, with_latent
from .run_checks import (
    advise_size,
    require_latent,
    require_noise_space,
    require_own_guidance,
    require_sigmas,
    require_text_width,
    require_two_branch_sampler,
    require_whole_rows,
)
from .self_injection import ACTIVE_KEY
from .source_branch import (
    SOURCE_KEY,
    SourceBranch,
    find,
    forget,
    is_source_separable,
    keep,
    run_inputs,
)
from .unet import require_cross_attention

logger = logging.getLogger(__name__)

NODE = "Two-Branch Guider"
LEAST_SPLIT_POSITIONS = 32 * 32
"""Latent positions of a branch below which two calls take longer than one with more rows."""


class TwoBranchGuider(comfy.samplers.CFGGuider):
    """Guides source and target together; to be driven by a two-branch sampler such as Virtual
    Inversion."""

    is_two_branch = True

    def __init__(self, model: Any) -> None:
        require_cross_attention(model, NODE)
        super().__init__(model)
        self._reuses_source = True
        self._source_branch: SourceBranch | None = None

    def set_branches(self, source: Any, target: Any, negative: Any) -> None:
        """Take the CONDITIONING of both branches and the negative that they share.

        Raises ValueError when source or target has several entries or they differ in anything but
        their texts.
        """
        require_branches(source, target, NODE)
        self._source = comfy.sampler_helpers.convert_cond(source)[0]
        self._target = comfy.sampler_helpers.convert_cond(target)[0]
        self._negative = comfy.sampler_helpers.convert_cond(negative)

    def set_reuse(self, reuses_source: bool) -> None:
        """Whether to keep the source branch for the next edit of the same image, and use the last
        run's."""
        self._reuses_source = reuses_source

    def set_guidance(self, source_guidance: float, target_guidance: float) -> None:
        """Classifier-free guidance scale of each branch; 1 is off."""
        self._guidance = (source_guidance, target_guidance)
        self.cfg = target_guidance

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Run the sampler; as CFGGuider.sample, after checking what would give a wrong image."""
        require_two_branch_sampler(sampler, NODE)
        self._require_inputs(latent_image, sigmas)
        batch = latent_image.shape[0]
        positive = branches_entry((self._source, self._target), batch)
        negative = [
            {**with_mask_of(cond, batch, branches=2), BRANCHES_KEY: True} for cond in self._negative
        ]
        self.original_conds = {"positive": [positive], "negative": negative}
        is_separable = is_source_separable(self.model_patcher, sampler, positive, negative)
        if not (self._reuses_source and is_separable and not args):
            forget()
        else:
            numbers = {
                "latent": latent_image,
                "noise mask": kwargs.get("denoise_mask"),
                "sigmas": sigmas,
                "seed": kwargs.get("seed"),
                "guidance": self._guidance[0],
            }
            inputs = run_inputs(self.model_patcher, positive, self._source, negative, numbers)
            self._open_source_branch(inputs, batch)
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self._source_branch is not None:
                keep(self.model_patcher.model, self._source_branch)
            return out
        finally:
            self.original_conds = {}
            self._source_branch = None
            self.__dict__.pop("conds", None)

    def _require_inputs(self, latent_image: Tensor, sigmas: Tensor) -> None:
        require_noise_space(self.model_patcher, NODE)
        require_sigmas(sigmas, NODE)
        require_latent(latent_image, self.model_patcher, NODE)
        require_whole_rows(self.model_options, NODE)
        require_own_guidance(self.model_patcher, NODE)
        inputs = [("source", self._source), ("target", self._target)]
        for name, cond in [*inputs, *(("negative", cond) for cond in self._negative)]:
            require_text_width(name, cond, self.model_patcher, NODE)
            require_control(name, cond, latent_image.shape[0], self.model_patcher, NODE)
        advise_size(latent_image, self.model_patcher, NODE)
        require_pooled(self._source, self._target, self.model_patcher, NODE)
        require_active("source", [self._source], sigmas, self.model_patcher, NODE)
        if not all(self._is_off(self.model_options)):
            require_same_hidden_part(self._target, self._negative, self.model_patcher, NODE)
            require_active("negative", self._negative, sigmas, self.model_patcher, NODE)

    def _open_source_branch(self, inputs: dict[str, Any], batch: int) -> None:
        """Take the source branch of an earlier run with the same inputs, or begin one."""
        self._source_branch = find(self.model_patcher.model, inputs)
        if self._source_branch is None:
            self._source_branch = SourceBranch(inputs)
            return
        logger.info("%s: the source branch of the last edit is used again.", NODE)
        self.original_conds["target"] = [branches_entry((self._target,), batch)]
        # SDXL's refiner asks for the kind of prompt, by default the name of the entries
        self.original_conds["target negative"] = [
            {"prompt_type": "negative", **cond, "uuid": uuid4()} for cond in self._negative
        ]

    def outer_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        comfy.patcher_extension.add_wrapper(
            WRAPPERS.PREPARE_SAMPLING,
            _prepare_both_branches,
            self.model_options,
            is_model_options=True,
        )
        try:
            return super().outer_sample(*args, **kwargs)
        finally:
            loaded = self.__dict__.pop("loaded_models", None)  # core leaves it when a run fails
            if loaded is not None:
                comfy.sampler_helpers.cleanup_models(self.conds, loaded)
            self.__dict__.pop("inner_model", None)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        seed: int | None = None,
    ) -> Tensor:
        """Denoised predictions (2B, C, h, w) of latents [source x B, target x B]."""
        model_options = with_latent(_with_step(model_options, timestep), x)
        options = model_options["transformer_options"]
        batch = x.shape[0] // 2
        branch, number = self._source_branch, options[STEP_KEY]
        if branch is None:
            return torch.cat(self._both_branches(x, timestep, model_options))
        kept = branch.step(number, self._injected_chunks(model_options))
        if kept is not None:
            options[SOURCE_KEY] = kept
            target = self._target_alone(x[batch:], timestep[batch:], model_options)
            return torch.cat([kept.denoised.to(target), target])
        step = options[SOURCE_KEY] = branch.open()
        source, target = self._both_branches(x, timestep, model_options)
        branch.add(number, step, source)
        return torch.cat([source, target])

    def _both_branches(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        batch = x.shape[0] // 2
        conds = self.conds["positive"], self.conds["negative"]
        outs = self._predictions(x, timestep, model_options)
        # guidance patches see the whole batch, as they may call the model again; each scale's own
        # branch is taken from the result
        scales = self._scales(model_options)
        guided = {
            scale: self._guided(conds, outs, scale, x, timestep, model_options)
            for scale in set(scales)
        }
        source, target = (guided[scale] for scale in scales)
        return source[:batch], target[batch:]

    def _target_alone(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> Tensor:
        """The target's guided prediction, (B, C, h, w), while the source is known."""
        is_off = self._is_off(model_options)[1]
        conds = self.conds["target"], self.conds["target negative"]
        called = [conds[0], None if is_off else conds[1]]
        cond, uncond = self._call(called, x, timestep, model_options)
        if is_off:
            return cond
        return self._guided(conds, (cond, uncond), self._guidance[1], x, timestep, model_options)

    def _injected_chunks(self, model_options: dict[str, Any]) -> set[int]:
        """The chunks of rows (0 conditional, 1 unconditional) whose self-attention takes the
        source's at this step."""
        if not self._is_injecting(model_options):
            return set()
        return {0} if self._is_off(model_options)[1] else {0, 1}

    def _is_injecting(self, model_options: dict[str, Any]) -> bool:
        options = model_options["transformer_options"]
        is_active = options.get(ACTIVE_KEY)
        return is_active is not None and is_active(options)

    def _scales(self, model_options: dict[str, Any]) -> tuple[float, float]:
        """The scale at which each branch's guidance is computed.

        A branch without guidance has its conditional prediction in both places, which every scale
        leaves as it is. It goes along at the other branch's, so that patches with a memory (APG's
        momentum) are called once a step.
        """
        source, target = self._guidance
        is_off = self._is_off(model_options)
        return (target if is_off[0] else source, source if is_off == [False, True] else target)

    def _is_off(self, model_options: dict[str, Any]) -> list[bool]:
        """Whether each branch needs no unconditional prediction."""
        if model_options.get("disable_cfg1_optimization", False):
            return [False, False]
        return [math.isclose(scale, 1.0) for scale in self._guidance]

    def _predictions(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional predictions of both branches.

        A branch at guidance 1 has its conditional prediction in both; the rows that it does not
        need are left out of the call where no other row depends on them.
        """
        batch = x.shape[0] // 2
        positive, negative = self.conds["positive"], self.conds["negative"]
        is_off = self._is_off(model_options)
        if all(is_off):
            negative = None
        if is_off == [True, False] and not self._is_one_call(x, model_options):
            cond, _ = self._call([positive, None], x, timestep, model_options)
            _, uncond = self._call([None, negative], x[batch:], timestep[batch:], model_options)
            return cond, torch.cat([cond[:batch], uncond])
        cond, uncond = self._call([positive, negative], x, timestep, model_options)
        rows = (slice(0, batch), slice(batch, None))
        parts = [cond[r] if off else uncond[r] for r, off in zip(rows, is_off, strict=True)]
        return cond, torch.cat(parts)

    def _call(
        self, conds: list[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> list[Tensor]:
        model_options = with_latent(model_options, x)
        if "sampler_calc_cond_batch_function" in model_options:
            args = {
                "conds": conds,
                "input": x,
                "sigma": timestep,
                "model": self.inner_model,
                "model_options": model_options,
            }
            return model_options["sampler_calc_cond_batch_function"](args)
        return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)

    def _is_one_call(self, x: Tensor, model_options: dict[str, Any]) -> bool:
        """Whether this step keeps the source's unconditional rows, in one call with the others:
        where the target's depend on them, where something keeps rows from one call to the next,
        and where one larger call is faster (docs/performance.md)."""
        if x.device.type != "cpu" or x.shape[0] // 2 * x[0, 0].numel() < LEAST_SPLIT_POSITIONS:
            return True
        return self._is_injecting(model_options) or self._keeps_rows(model_options)

    def _keeps_rows(self, model_options: dict[str, Any]) -> bool:
        """Whether a control or a wrapper of another node may expect as many rows in each call."""
        wrappers = model_options["transformer_options"].get("wrappers", {})
        return (
            "model_function_wrapper" in model_options
            or any(
                wrappers.get(kind) for kind in (WRAPPERS.CALC_COND_BATCH, WRAPPERS.DIFFUSION_MODEL)
            )
            or any("control" in cond for cond in self.conds["positive"])
        )

    def _guided(
        self,
        conds: tuple[Any, Any],
        outs: tuple[Tensor, Tensor],
        scale: float,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Tensor:
        """Classifier-free guidance of all rows at one scale, with every guidance patch on the
        model."""
        positive, negative = conds
        out = list(outs)
        for patch in model_options.get("sampler_pre_cfg_function", []):
            out = patch(
                {
                    "conds": [positive, negative],
                    "conds_out": out,
                    "cond_scale": scale,
                    "timestep": timestep,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )
        return comfy.samplers.cfg_function(
            self.inner_model,
            out[0],
            out[1],
            scale,
            x,
            timestep,
            model_options=model_options,
            cond=positive,
            uncond=negative,
        )


def _with_step(model_options: dict[str, Any], timestep: Tensor) -> dict[str, Any]:
    """The options of one step: patches read its number instead of each asking the device."""
    options = dict(model_options["transformer_options"])
    options[STEP_KEY] = step_index({**options, "sigmas": timestep})
    return {**model_options, "transformer_options": options}


def _prepare_both_branches(
    executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any
) -> Any:
    """Let ComfyUI reserve memory for both branches: a run's latent batch is twice the image
    batch."""
    return executor(model, [2 * noise_shape[0], *noise_shape[1:]], *args, **kwargs)
