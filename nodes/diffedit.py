"""A node that finds where each edit of an image would change it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from comfy_api.latest import io

from ..editors.diffedit import MaskSettings
from ..host.edit_checks import require_one_text, require_size
from ..host.messages import speak_as
from ..host.pictures import read_pictures
from ..host.sampling.latents import pixels_per_cell
from ..host.segmenting.disagreement import NODE, map_edits
from ..host.text.embedding import encode_text
from ..prompts.edits import Edits
from ..regions.grid import paint_cells
from . import sockets
from .inputs import setting_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from torch import Tensor

CATEGORY = "ALE-Edit/regions"


class DiffEditMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEDiffEditMask",
            display_name="DiffEdit Mask",
            category=CATEGORY,
            description=(
                "Finds a mask for each edit, without a detector: the places at which the model's "
                "predictions under the source and the target prompt disagree. DiffEdit (ICLR 2023, "
                "arXiv 2210.11427)."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SD 1.5, SD 2 or SDXL model."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Image.Input("image", tooltip="The image to edit, or a batch."),
                sockets.Edits.Input(
                    "edits",
                    tooltip=(
                        "The edits, from Edit Object or Edit List. Each is compared with the "
                        "source prompt while the others change nothing. Their own masks are not "
                        "used."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise. Item j of a batch uses seed + j.",
                ),
                *map(setting_input, dataclasses.fields(MaskSettings)),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    tooltip=(
                        "One mask per edit, in order; for a batch, image by image. For the masks "
                        "input of Regions, for example."
                    ),
                ),
                io.Mask.Output(
                    display_name="differences",
                    tooltip="How much the prompts disagree, from 0 to 1, before threshold.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        image: Tensor,
        edits: Edits,
        seed: int,
        **settings: Any,
    ) -> io.NodeOutput:
        require_size(image, model, NODE)
        with speak_as(NODE):
            require_one_text(encode_text(clip, ""), model, NODE)
        pixels = read_pictures(image, NODE)
        latent = cast("Tensor", vae.encode(pixels))
        found = map_edits(model, clip, edits, latent, MaskSettings(**settings), seed)
        size, cell = (image.shape[1], image.shape[2]), pixels_per_cell(model)
        masks, shares = (paint_cells(cells.flatten(0, 1), size, cell) for cells in found)
        return io.NodeOutput(masks, shares)


NODES = [DiffEditMask]
