"""Nodes for stored inversions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..editors.inverted import InvertedSettings
from ..host.inverting import files
from ..host.inverting.invert import NODE as INVERT
from ..host.inverting.methods import invert_by
from ..host.inverting.sampler import NODE as SAMPLE
from ..host.inverting.sampler import inversion_sampler
from ..host.messages import name_node, speak_as
from ..host.sampling.schedule import sigmas_of
from ..host.text.embedding import encode_text
from ..host.versions import LEFT_TO_THE_RUN
from ..inversion.ddim import CONVENTIONS, Convention
from ..inversion.stored import (
    INVERSION_METHODS,
    Inversion,
    InversionMethod,
    Schedule,
    TimeSteps,
)
from ..prompts.edits import require_choice
from . import sockets
from .inputs import setting_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

CATEGORY = "ALE-Edit/inversion"
INVERSION_TOOLTIP = "An inversion, from Invert Image or Load Inversion."


class InvertImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEInvertImage",
            display_name="Invert Image",
            category=CATEGORY,
            description=(
                "Finds the noise from which the model generates this image, by DDIM or DDPM "
                "inversion. Many edits can start from the same inversion."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that the edit will use, with its LoRAs."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Latent.Input("latent", tooltip="The image, from VAE Encode, or a batch."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip=(
                        "Describes the image as it is. The edit must use the same source "
                        "prompt. Leave it empty for MasaCtrl, FPE and PnP, as in their "
                        "papers."
                    ),
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Number of steps at strength 1."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of the steps to run, counted from the end. Below 1, the image "
                        "is not inverted to pure noise."
                    ),
                ),
                *(
                    setting_input(field)
                    for field in dataclasses.fields(InvertedSettings)
                    if field.name == "time_steps"
                ),
                io.Combo.Input(
                    "method",
                    options=list(INVERSION_METHODS),
                    default="DDIM",
                    tooltip=(
                        "How edits use the inversion. DDIM: all branches start from the "
                        "noise. direct: the source branch also follows the stored latents. "
                        "negative-prompt: the source prompt replaces the negative prompt. "
                        "null-text: optimises a negative text for each step, which takes "
                        "minutes. edit-friendly: DDPM steps with stored noise maps. The source "
                        "prompt, at the guidance of the inversion, gives the image back. "
                        "regularised: DDIM with noise that is made more like white noise, as in "
                        "pix2pix-zero."
                    ),
                ),
                io.Combo.Input(
                    "convention",
                    options=list(CONVENTIONS),
                    default="published code",
                    tooltip=(
                        "Timestep that the model gets in each step: the next, noisier one, as "
                        "in the published code of these methods, or the latent's own. "
                        "edit-friendly always uses the latter."
                    ),
                ),
                io.Float.Input(
                    "guidance",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip=(
                        "null-text: CFG scale that the edit will use. edit-friendly: CFG scale of "
                        "the inversion, 3.5 in the paper. The other methods ignore it."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # else each run would invert again
                    optional=True,
                    tooltip="The seed of the noise. Only edit-friendly and regularised use it.",
                ),
            ],
            outputs=[
                sockets.Inversion.Output(
                    display_name="inversion",
                    tooltip="For editors, Sample from Inversion and Save Inversion.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        latent: io.Latent.LatentDict,
        prompt: str,
        steps: int,
        strength: float,
        time_steps: TimeSteps,
        method: InversionMethod,
        convention: Convention,
        guidance: float,
        seed: int = 0,
    ) -> io.NodeOutput:
        with name_node(INVERT):
            require_choice("method", method, INVERSION_METHODS)
            require_choice("convention", convention, CONVENTIONS)
            schedule = Schedule(steps, strength, time_steps)
        with speak_as(INVERT):
            inversion = invert_by(
                method, model, encode_text(clip, prompt), latent["samples"], schedule, prompt,
                negative=encode_text(clip, ""), guidance=guidance, convention=convention, seed=seed,
            )  # fmt: skip
        return io.NodeOutput(inversion)


class SampleFromInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALESampleFromInversion",
            display_name="Sample from Inversion",
            category=CATEGORY,
            description=(
                "Edits from an inversion by DDIM, as Prompt-to-Prompt, MasaCtrl, FPE and PnP "
                "do, or by DDPM with the noise maps of edit-friendly. Requires Two-Branch Guider. "
                "Replaces Virtual Inversion and LCM Schedule."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that the image was inverted with."),
                sockets.Inversion.Input("inversion", tooltip=INVERSION_TOOLTIP),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="The noise levels of the inversion. Do not use others.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, inversion: Inversion) -> io.NodeOutput:
        with speak_as(SAMPLE):
            sigmas = sigmas_of(model, inversion.schedule)
        return io.NodeOutput(inversion_sampler(inversion), sigmas)


class SaveInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALESaveInversion",
            display_name="Save Inversion",
            category=CATEGORY,
            description="Saves an inversion to the inversions folder of ComfyUI's output.",
            is_output_node=True,
            inputs=[
                sockets.Inversion.Input("inversion", tooltip=INVERSION_TOOLTIP),
                io.String.Input(
                    "filename_prefix",
                    default="inversion",
                    tooltip="Beginning of the file name; a number is added. May contain folders.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="name",
                    tooltip="The name of the file, as Load Inversion lists it.",
                )
            ],
        )

    @classmethod
    def execute(cls, inversion: Inversion, filename_prefix: str) -> io.NodeOutput:
        return io.NodeOutput(files.save_inversion(inversion, filename_prefix))


class LoadInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALELoadInversion",
            display_name="Load Inversion",
            category=CATEGORY,
            description=(
                "Loads an inversion that Save Inversion wrote. It only works with the model, "
                "size and steps that it was made with. Editors also require its prompt as the "
                "source prompt."
            ),
            inputs=[
                io.Combo.Input(
                    "name",
                    options=files.list_inversions(),
                    tooltip="A file in the inversions folder of ComfyUI's output, newest first.",
                )
            ],
            outputs=[
                sockets.Inversion.Output(
                    display_name="inversion", tooltip="For editors and Sample from Inversion."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool:
        return LEFT_TO_THE_RUN

    @classmethod
    def fingerprint_inputs(cls, name: str) -> float:
        return files.path_of(name).stat().st_mtime

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(files.load_inversion(name))


NODES = [InvertImage, SampleFromInversion, SaveInversion, LoadInversion]
