"""A guider whose every step holds several named branches of each image: the source, its edit, and
others that an editor adds.

Latents are [branch x B for each branch] in one batch. The branches run *together*, rows of one
call, so that attention controls see them all; or *in turn*, one call a branch, with what later
branches read of earlier ones in a store. Each branch has its own guidance scale. When the source
branch is known from the run before, calls hold the other branches alone (source_branch.py).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..attention.adapter import running_controls
from ..attention.rows import STEP_KEY, add_latent, add_step, step_of, take_branches
from ..attention.store import STORE_KEY, StepStore
from ..comfy_types import Cond, Conditioning, Conds, Options
from ..flow_families import find_family, require_editable
from ..gradients import ROWS_OF_GRADIENTS
from ..messages import NodeName
from ..patching import WRAPPERS
from .branch_inputs import (
    NEGATIVE,
    Branch,
    make_branches_entry,
    make_negative_entry,
    replace_negative,
    replace_rows,
    require_alike,
    shares_rows,
    spread_guidance,
)
from .branch_order import is_any_read, order_in_turn, reads_cond, runs_cond_first
from .guidance import call_halves, call_model, guide, keeps_rows
from .run_checks import require_branch_sampler, require_finite
from .run_inputs import require_run
from .source_branch import (
    SOURCE,
    SourceBranch,
    find,
    forget,
    is_source_separable,
    keep,
    source_inputs,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

logger = logging.getLogger(__name__)

NODE = NodeName("Two-Branch Guider")
LEAST_SPLIT_POSITIONS = 32 * 32
"""Latent positions of a branch below which two calls take longer than one with more rows."""

Names: TypeAlias = tuple[str, ...]
Evaluation: TypeAlias = Literal["together", "in turn"]
EVALUATIONS: Names = get_args(Evaluation)


class BranchGuider(comfy.samplers.CFGGuider):
    """Guides all branches of a run; to be driven by a sampler of branches such as Virtual
    Inversion.

    negative: the CONDITIONING that all branches share. evaluation: "together" is faster; "in turn"
    needs less memory. reuses_source: whether to keep the source branch for the next edit of the
    same image, and use the last run's. optimises: whether a control optimises latents, for which
    branches are also evaluated one by one.

    Where attention sees text without a mask, branches whose texts differ in length run in turn.

    Raises ValueError for a model that is neither a UNet nor a known flow transformer, when a branch
    has several entries or texts, and when branches differ in anything but their texts.
    """

    def __init__(
        self,
        model: ModelPatcher,
        branches: Sequence[Branch],
        negative: Conditioning,
        *,
        evaluation: Evaluation = "together",
        reuses_source: bool = True,
        optimises: bool = False,
    ) -> None:
        require_editable(model, NODE)
        super().__init__(model)
        require_alike({b.name: b.conditioning for b in branches}, self.model_patcher, NODE)
        self.branch_names: Names = tuple(branch.name for branch in branches)
        self.reuses_source = reuses_source
        self.seed = 0
        self._evaluation = evaluation
        self._optimises = optimises
        self._guidance = {branch.name: branch.guidance for branch in branches}
        convert = comfy.sampler_helpers.convert_cond
        self._branches = {b.name: convert(b.conditioning)[0] for b in branches}
        self._negative = convert(negative)
        self._family = find_family(model)
        self._has_whole_entry = self._family is None or shares_rows(self._branches)
        if not self._has_whole_entry:
            self._evaluation = "in turn"
        self._source_branch: SourceBranch | None = None
        self.cfg = self._guidance.get("target", 1.0)  # what other nodes take for the run's scale

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Run the sampler; as CFGGuider.sample, after checking what would give a wrong image."""
        require_branch_sampler(sampler, NODE)
        guided = [name for name in self.branch_names if not self._is_off(name, self.model_options)]
        require_run(
            self.model_patcher, self._branches, self._negative, latent_image, sigmas,
            self.model_options, bool(guided), NODE,
        )  # fmt: skip
        batch = latent_image.shape[0]
        self.seed = kwargs.get("seed") or 0
        whole = self.branch_names if self._has_whole_entry else self.branch_names[:1]
        self.original_conds = self._conds(whole, batch)
        if self._evaluation == "in turn" or self._optimises:
            for name in self.branch_names:
                self.original_conds.update(self._conds((name,), batch))
        (positive,), negative = (self.original_conds[key] for key in self._keys(whole))
        is_separable = is_source_separable(self.model_patcher, sampler, positive, negative)
        if not (self.reuses_source and is_separable and SOURCE in self._branches and not args):
            forget(self.model_patcher.model)
        else:
            numbers = {
                "latent": latent_image,
                "noise mask": kwargs.get("denoise_mask"),
                "sigmas": sigmas,
                "seed": kwargs.get("seed"),
                "guidance": self._guidance[SOURCE],
            }
            source = self._branches[SOURCE]
            inputs = source_inputs(self.model_patcher, positive, source, negative, numbers)
            self._open_source_branch(inputs, batch)
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            require_finite(out, NODE)
            if self._source_branch is not None:
                keep(self.model_patcher.model, self._source_branch)
            return out
        finally:
            self.original_conds = {}
            self._source_branch = None
            self.__dict__.pop("conds", None)

    def _conds(self, names: Names, batch: int) -> Conds:
        """The entries of calls that hold these branches, and of those of them that are guided."""
        positive, negative = self._keys(names)
        conds = {
            positive: [make_branches_entry({name: self._branches[name] for name in names}, batch)],
            negative: [make_negative_entry(cond, names, batch) for cond in self._negative],
        }
        guided = self._find_guided(names)
        if guided and guided != names:
            key = self._keys(guided)[1]
            conds[key] = [make_negative_entry(cond, guided, batch) for cond in self._negative]
        return conds

    def _keys(self, names: Names) -> tuple[str, str]:
        """The keys of these branches' entries among the conds of the run."""
        if names == self.branch_names:
            return "positive", NEGATIVE
        return "+".join(names), f"{'+'.join(names)} {NEGATIVE}"

    def _find_guided(self, names: Names) -> Names:
        """The branches whose guidance is on, by their scales."""
        return tuple(name for name in names if not math.isclose(self._guidance[name], 1.0))

    def replace_negative_text(self, text: Tensor) -> None:
        """Put another text (1 or B, L, D) in the place of the negative input's, from the running
        step on. All branches share it."""
        replace_negative(self.conds, text)

    def replace_text(self, branch: str, text: Tensor) -> None:
        """Put another text (1 or B, L, D) in the place of a branch's, from the running step on."""
        replace_rows(self.conds, branch, text)

    def branch_entries(self, name: str) -> list[Cond]:
        """The conditional entries of a branch that is evaluated alone."""
        return self.conds[self._keys((name,))[0]]

    def _open_source_branch(self, inputs: dict[str, object], batch: int) -> None:
        """Take the source branch of an earlier run with the same inputs, or begin one."""
        self._source_branch = find(self.model_patcher.model, inputs)
        if self._source_branch is None:
            self._source_branch = SourceBranch(inputs)
            return
        logger.info("%s: the source branch of the last edit is used again.", str(NODE))
        if self._evaluation == "together":
            self.original_conds.update(self._conds(self._other_names(), batch))

    def _other_names(self) -> Names:
        return tuple(name for name in self.branch_names if name != SOURCE)

    def outer_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        for kind, wrapper in (
            (WRAPPERS.PREPARE_SAMPLING, self._prepare_branches),
            (WRAPPERS.SAMPLER_SAMPLE, self._sample_branches),
        ):
            comfy.patcher_extension.add_wrapper(
                kind, wrapper, self.model_options, is_model_options=True
            )
        try:
            return super().outer_sample(*args, **kwargs)
        finally:
            loaded = self.__dict__.pop("loaded_models", None)  # core leaves it when a run fails
            if loaded is not None:
                comfy.sampler_helpers.cleanup_models(self.conds, loaded)
            self.__dict__.pop("inner_model", None)

    def _prepare_branches(
        self,
        executor: WrapperExecutor,
        model: ModelPatcher,
        noise_shape: Sequence[int],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Let ComfyUI reserve memory for all rows of a call, as many as branches an image."""
        count = 1 if self._evaluation == "in turn" else len(self.branch_names)
        if self._optimises:
            count = max(count, ROWS_OF_GRADIENTS)
        return executor(model, [count * noise_shape[0], *noise_shape[1:]], *args, **kwargs)

    def _sample_branches(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        """Give each row its branch's embedded guidance, where the model has one: ComfyUI has
        encoded the texts now, with one number an entry."""
        if self._family is not None and self._family.guidance is not None:
            spread_guidance(self.conds, self._branches, self._family.guidance)
        return executor(*args, **kwargs)

    # -- one step ----------------------------------------------------------------------------------

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: Options,
        seed: int | None = None,
    ) -> Tensor:
        """Denoised predictions (rows, C, h, w) of the latents of all branches."""
        model_options = add_latent(add_step(model_options, timestep, NODE), x, NODE)
        options = model_options["transformer_options"]
        store, is_kept = self._open_step(model_options)
        denoised: dict[str, Tensor] = {}
        if is_kept:
            assert store is not None
            denoised[SOURCE] = store.denoised[SOURCE].to(x)
        if store is not None:
            options[STORE_KEY] = store
        for names in self._groups(options, is_kept):
            rows, times = (take_branches(t, self.branch_names, names) for t in (x, timestep))
            denoised.update(self._predict(names, rows, times, model_options))
        if store is not None and not is_kept and self._source_branch is not None:
            self._source_branch.add(options[STEP_KEY], store, denoised[SOURCE])
        return torch.cat([denoised[name] for name in self.branch_names])

    def _open_step(self, model_options: Options) -> tuple[StepStore | None, bool]:
        """What this step reads of branches that ran before, and whether the source is among
        them."""
        options = model_options["transformer_options"]
        branch, number = self._source_branch, options[STEP_KEY]
        if branch is not None and number in branch.steps:
            others = frozenset(self._other_names())
            halves = {0} if not self._find_guided(self._other_names()) else {0, 1}
            store, controls = branch.steps[number], running_controls(options)
            if store.serves(controls, step_of(options), others, halves):
                return store.open_for(others), True
        if self._evaluation == "in turn" or reads_cond(model_options):
            return StepStore(frozenset(self.branch_names)), False
        return (branch.open_step(), False) if branch is not None else (None, False)

    def _groups(self, options: Options, is_kept: bool) -> list[Names]:
        """The branches of each evaluation of a step."""
        names = self._other_names() if is_kept else self.branch_names
        if self._evaluation == "together":
            return [names]
        order = order_in_turn(self.branch_names, options, NODE)
        return [(name,) for name in order if name in names]

    def _predict(
        self, names: Names, x: Tensor, timestep: Tensor, model_options: Options
    ) -> dict[str, Tensor]:
        """The guided predictions (B, C, h, w) of branches that run together."""
        batch = x.shape[0] // len(names)
        conds = tuple(self.conds[key] for key in self._keys(names))
        outs = self._predictions(names, x, timestep, model_options)
        # guidance patches see the whole batch, as they may call the model again; each scale's own
        # branches are taken from the result
        scales = self._scales(names, model_options)
        guided = {
            scale: guide(self.inner_model, conds, outs, scale, x, timestep, model_options)
            for scale in set(scales.values())
        }
        return {
            name: guided[scales[name]][i * batch : (i + 1) * batch] for i, name in enumerate(names)
        }

    def _scales(self, names: Names, model_options: Options) -> dict[str, float]:
        """The scale at which each branch's guidance is computed.

        A branch without guidance has its conditional prediction in both places, which every scale
        leaves as it is. It goes along at another branch's, so that patches with a memory (APG's
        momentum) are called once a step for each scale.
        """
        guided = [name for name in names if not self._is_off(name, model_options)]
        leading = guided[-1] if guided else names[-1]
        return {name: self._guidance[name if name in guided else leading] for name in names}

    def _is_off(self, name: str, model_options: Options) -> bool:
        """Whether a branch needs no unconditional prediction."""
        if model_options.get("disable_cfg1_optimization", False):
            return False
        return math.isclose(self._guidance[name], 1.0)

    def _predictions(
        self, names: Names, x: Tensor, timestep: Tensor, model_options: Options
    ) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional predictions of branches that run together.

        A branch at guidance 1 has its conditional prediction in both. The rows that it does not
        need are left out of the call where no other row depends on them.
        """
        positive, negative = (self.conds[key] for key in self._keys(names))
        is_off = [self._is_off(name, model_options) for name in names]
        if all(is_off):
            # in turn, the halves of branches that guided ones read must run all the same
            other = negative if self._is_read(names, model_options) else None
            cond, _ = call_model(
                self.inner_model, [positive, other], x, timestep, model_options, NODE
            )
            return cond, cond
        guided = tuple(name for name, off in zip(names, is_off, strict=True) if not off)
        if is_off[0] and not self._is_one_call(guided, x, len(names), model_options):
            cond, _ = call_model(
                self.inner_model, [positive, None], x, timestep, model_options, NODE
            )
            negative = self.conds[self._keys(guided)[1]]
            rows, times = (take_branches(t, names, guided) for t in (x, timestep))
            _, uncond = call_model(
                self.inner_model, [None, negative], rows, times, model_options, NODE
            )
            rest = iter(uncond.chunk(len(guided)))
        else:
            cond, uncond = call_halves(
                self.inner_model, [positive, negative], x, timestep, model_options, NODE
            )
            rest = iter(take_branches(uncond, names, guided).chunk(len(guided)))
        own = zip(cond.chunk(len(names)), is_off, strict=True)
        return cond, torch.cat([part if off else next(rest) for part, off in own])

    def _is_one_call(self, guided: Names, x: Tensor, count: int, model_options: Options) -> bool:
        """Whether this step keeps the unconditional rows of branches without guidance, in one call
        with the others: where guided branches read them, where something keeps rows from one call
        to the next, and where one larger call is faster (docs/performance.md)."""
        positions = x.shape[0] // count * x[0, 0].numel()
        is_larger_faster = x.device.type != "cpu" or positions < LEAST_SPLIT_POSITIONS
        if is_larger_faster and not runs_cond_first(model_options):
            return True
        others = frozenset(self.branch_names) - {*guided}
        return is_any_read(guided, others, model_options) or keeps_rows(
            model_options, self.conds["positive"]
        )

    def _is_read(self, names: Names, model_options: Options) -> bool:
        """Whether guided branches that run elsewhere read these."""
        others = (name for name in self.branch_names if name not in names)
        guided = [name for name in others if not self._is_off(name, model_options)]
        return is_any_read(guided, frozenset(names), model_options)
