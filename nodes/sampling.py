"""Nodes for SamplerCustomAdvanced: guider, sampler, sigmas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.comfy_types import Conditioning
from ..host.messages import name_node
from ..host.sampling.branch_guider import EVALUATIONS, BranchGuider, Evaluation
from ..host.sampling.branch_guider import NODE as GUIDER
from ..host.sampling.branch_inputs import Branch
from ..host.sampling.schedule import lcm_sigmas
from ..host.sampling.virtual_inversion import NODE as SAMPLER
from ..host.sampling.virtual_inversion import virtual_inversion_sampler
from ..prompts.edits import require_choice
from .inputs import ale_inputs, reuse_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "ALE-Edit/sampling"


class TwoBranchGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALETwoBranchGuider",
            display_name="Two-Branch Guider",
            category=CATEGORY,
            description=(
                "Samples the source image and its edit side by side, each with its own guidance. "
                "Use it with Virtual Inversion in SamplerCustomAdvanced."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model, with Region Cross-Attention, Self-Attention Injection and "
                        "Background Blending as needed."
                    ),
                ),
                io.Conditioning.Input(
                    "source",
                    tooltip=(
                        "Describes the image as it is: the source output of Object-Restricted "
                        "Embeddings."
                    ),
                ),
                io.Conditioning.Input(
                    "target",
                    tooltip=(
                        "Describes the edited image: the target output of Object-Restricted "
                        "Embeddings."
                    ),
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip=(
                        "The negative prompt of both branches. The paper uses the empty prompt."
                    ),
                ),
                *ale_inputs("source_guidance", "target_guidance"),
                reuse_input(),
                io.Combo.Input(
                    "evaluation",
                    options=list(EVALUATIONS),
                    default="together",
                    optional=True,
                    tooltip=(
                        "How a step computes the branches. together: in one model call, which is "
                        "fastest. in turn: one call per branch, which needs less memory."
                    ),
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        source: Conditioning,
        target: Conditioning,
        negative: Conditioning,
        source_guidance: float,
        target_guidance: float,
        reuse_source: bool = True,
        evaluation: Evaluation = "together",
    ) -> io.NodeOutput:
        with name_node(GUIDER):
            require_choice("evaluation", evaluation, EVALUATIONS)
        branches = (
            Branch("source", source, source_guidance),
            Branch("target", target, target_guidance),
        )
        guider = BranchGuider(
            model, branches, negative, evaluation=evaluation, reuses_source=reuse_source
        )
        return io.NodeOutput(guider)


class VirtualInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEVirtualInversion",
            display_name="Virtual Inversion (DDCM)",
            category=CATEGORY,
            description=(
                "Edits without inverting the image: both branches share the same noise, and the "
                "known source latent corrects the edit at every step. Requires Two-Branch Guider. "
                "InfEdit, Algorithm 2 (arXiv 2312.04965)."
            ),
            inputs=[
                *ale_inputs("eta"),
                io.Float.Input(
                    "kappa",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "How much of the edit so far each step carries over. 0 (default) is DDCM, "
                        "1 is FlowEdit's rule."
                    ),
                ),
                io.Float.Input(
                    "zeta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "How strongly each step pulls the edit back to the source. 0 (default) is "
                        "off; 0.01 with kappa 1 is FlowAlign's value."
                    ),
                ),
                io.Int.Input(
                    "n_avg",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip=(
                        "Draws of noise in each step, whose predictions are averaged. Each one "
                        "costs a step. More than 1 requires eta 1."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    def execute(
        cls, eta: float, kappa: float = 0.0, zeta: float = 0.0, n_avg: int = 1
    ) -> io.NodeOutput:
        with name_node(SAMPLER):
            return io.NodeOutput(virtual_inversion_sampler(eta, kappa, zeta, n_avg))


class LCMSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALELCMSchedule",
            display_name="LCM Schedule",
            category=CATEGORY,
            description=(
                "The exact timesteps of a latent consistency model (arXiv 2310.04378), spaced as "
                "in diffusers' LCMScheduler. Also works for models that are not distilled."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Provides the noise level of each timestep."),
                *ale_inputs("steps", "strength"),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="One noise level per step, then 0.")
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, steps: int, strength: float) -> io.NodeOutput:
        return io.NodeOutput(lcm_sigmas(model, steps, strength))


NODES = [TwoBranchGuiderNode, VirtualInversion, LCMSchedule]
