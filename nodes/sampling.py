"""Nodes for SamplerCustomAdvanced: guider, sampler, sigmas."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..editors.ale import ALESettings
from ..host.messages import name_node
from ..host.sampling.branch_guider import EVALUATIONS, Branch, BranchGuider, Evaluation
from ..host.sampling.branch_guider import NODE as GUIDER
from ..host.sampling.schedule import lcm_sigmas
from ..host.sampling.virtual_inversion import NODE as SAMPLER
from ..host.sampling.virtual_inversion import virtual_inversion_sampler
from ..prompts.edits import require_choice

CATEGORY = "ALE-Edit/sampling"


def steps_input() -> Any:
    """The number of steps."""
    return io.Int.Input(
        "steps",
        default=ALESettings.steps,
        min=1,
        max=50,
        tooltip="Number of latent consistency steps, 1 to 50. Paper: 15.",
    )


def strength_input() -> Any:
    """The share of the steps that runs."""
    return io.Float.Input(
        "strength",
        default=ALESettings.strength,
        min=0.05,
        max=1.0,
        step=0.05,
        tooltip=(
            "Share of the steps that runs, from the last ones: below 1 the edit starts from the "
            "noised source image and stays closer to it."
        ),
    )


def guidance_inputs() -> list[Any]:
    """The guidance scales of both branches."""
    source = (
        "Classifier-free guidance of the source branch. 1 (default) is off and keeps the image."
    )
    target = (
        "Classifier-free guidance of the edited branch. 2 (default) suits LCM models; plain models "
        "3 to 7."
    )
    return [
        io.Float.Input(
            name, default=default, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip
        )
        for name, default, tooltip in (
            ("source_guidance", ALESettings.source_guidance, source),
            ("target_guidance", ALESettings.target_guidance, target),
        )
    ]


def reuse_input() -> Any:
    """Whether an edit may take the source branch of the one before."""
    return io.Boolean.Input(
        "reuse_source",
        default=True,
        optional=True,
        tooltip=(
            "Edit the same image again, with the same source prompt, seed and schedule, in about "
            "half the time: the source branch of the last edit is kept in main memory (at most 2 "
            "GB). Not beside other nodes' patches. Off: equal edits are equal bit for bit."
        ),
    )


class TwoBranchGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALETwoBranchGuider",
            display_name="Two-Branch Guider",
            category=CATEGORY,
            description=(
                "Runs the source image and its edit side by side in every step, each with its "
                "own guidance. Use with Virtual Inversion in SamplerCustomAdvanced."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with Region Cross-Attention, injection and blending.",
                ),
                io.Conditioning.Input(
                    "source", tooltip="Describes the image as it is: ORE's source output."
                ),
                io.Conditioning.Input(
                    "target", tooltip="Describes the edited image: ORE's target output."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="Shared by both branches; the empty prompt in the paper."
                ),
                *guidance_inputs(),
                reuse_input(),
                io.Combo.Input(
                    "evaluation",
                    options=list(EVALUATIONS),
                    default="together",
                    optional=True,
                    tooltip=(
                        "How a step computes the branches: together in one call of the model, "
                        "which is the fastest, or in turn, one call a branch, which needs less "
                        "memory."
                    ),
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        source: Any,
        target: Any,
        negative: Any,
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
                "Edits without inverting the image: both branches share their noise and the "
                "source's known latent corrects the edit at every step. InfEdit, Algorithm 2 "
                "(arXiv 2312.04965). Needs Two-Branch Guider."
            ),
            inputs=[
                io.Float.Input(
                    "eta",
                    default=ALESettings.eta,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of fresh noise in each step. 1 (default) is the method; lower "
                        "values reuse the predicted noise."
                    ),
                ),
                io.Float.Input(
                    "kappa",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "How much of the edit so far each step carries on. 0 (default) is DDCM, "
                        "1 is FlowEdit's rule."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    def execute(cls, eta: float, kappa: float = 0.0) -> io.NodeOutput:
        with name_node(SAMPLER):
            return io.NodeOutput(virtual_inversion_sampler(eta, kappa))


class LCMSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALELCMSchedule",
            display_name="LCM Schedule",
            category=CATEGORY,
            description=(
                "The exact time steps of a latent consistency model (arXiv 2310.04378), as "
                "diffusers' LCMScheduler spaces them. Also good for models that are not "
                "distilled."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Gives the noise level of each time step."),
                steps_input(),
                strength_input(),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="One noise level a step, and 0 at the end."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, strength: float) -> io.NodeOutput:
        return io.NodeOutput(lcm_sigmas(model, steps, strength))


NODES = [TwoBranchGuiderNode, VirtualInversion, LCMSchedule]
