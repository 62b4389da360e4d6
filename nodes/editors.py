"""Whole editors as one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..editors.ale import ALESettings
from ..host.ale_edit import NODE, edit_image
from ..host.messages import name_node, speak_as
from ..host.regions import regions_from_edits
from ..prompts.edits import VARIANTS, Edits, require_choice, with_variant
from ..regions.preview import preview_image
from ..regions.regions import AnyRegions
from . import sockets
from .model import schedule_inputs, schedule_of
from .regions import dilation_input
from .sampling import guidance_inputs, reuse_input, steps_input, strength_input

AS_IN_EDITS = "as in the edits"


class ALEEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEdit",
            display_name="ALE Edit",
            category="ALE-Edit/editors",
            description=(
                "Edits several objects of an image at once, each with its own attributes, and "
                "keeps the background: embeddings, region attention, injection, blending and "
                "sampling in one node, with the paper's defaults. ALE-Edit (arXiv 2412.04715)."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A checkpoint of SD 1.5, SD 2 or SDXL; best an LCM, or with an LCM LoRA."
                    ),
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The image to edit, or a batch, each image with its own masks or all with "
                        "the same; item j uses seed + j."
                    ),
                ),
                sockets.Edits.Input("edits", tooltip="The edits, from Edit Object or Edit List."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                steps_input(),
                *guidance_inputs(),
                *schedule_inputs(),
                strength_input(),
                dilation_input(" Not used when regions is connected."),
                io.Boolean.Input(
                    "paste_background",
                    default=False,
                    tooltip=(
                        "Put the source's own pixels back outside the regions, undoing the VAE's "
                        "small colour shifts."
                    ),
                ),
                io.Combo.Input(
                    "variant",
                    options=[AS_IN_EDITS, *VARIANTS],
                    default=AS_IN_EDITS,
                    tooltip=(
                        "Follow the paper or the published code; by default what Method Settings "
                        "says, else the paper."
                    ),
                ),
                sockets.Regions.Input(
                    "regions",
                    optional=True,
                    tooltip=sockets.REGIONS_TOOLTIP
                    + " Without it, the edits' own masks are taken.",
                ),
                reuse_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The edited image, at the size of the source."
                ),
                io.Image.Output(
                    display_name="regions preview",
                    tooltip="The source with one colour and label per object.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        edits: Edits,
        seed: int,
        edit_type: str,
        schedule: float,
        dilation: float,
        paste_background: bool,
        variant: Any,
        regions: AnyRegions | None = None,
        reuse_source: bool = True,
        **numbers: Any,
    ) -> io.NodeOutput:
        with name_node(NODE):
            require_choice("variant", variant, (AS_IN_EDITS, *VARIANTS))
            share = schedule_of(edit_type, schedule)
        edits = edits if variant == AS_IN_EDITS else with_variant(edits, variant)
        settings = ALESettings(schedule=share, dilation=dilation, **numbers)
        with speak_as(NODE):
            if regions is None:
                count, *size = image.shape[:3]
                regions = regions_from_edits(edits, None, dilation, 0.0, tuple(size), count)
            inputs = (model, clip, vae, image, edits, regions, settings)
            edited = edit_image(*inputs, seed, paste_background, reuse_source)
        return io.NodeOutput(edited, preview_image(image, regions))


NODES = [ALEEdit]
