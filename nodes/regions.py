"""Nodes that say where the objects are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..host.messages import name_node
from ..host.regions import regions_from_edits
from ..prompts.edits import Edits
from ..regions.paste import paste_background
from ..regions.preview import preview_batch
from ..regions.regions import LARGEST_CELL, Regions, object_masks, soft_backgrounds
from . import sockets
from .inputs import ale_inputs

if TYPE_CHECKING:
    from torch import Tensor

CATEGORY = "ALE-Edit/regions"


class RegionsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALERegions",
            display_name="Regions",
            category=CATEGORY,
            description=(
                "Turns one mask per edit into regions: dilated masks, the background, and a "
                "preview with one colour and label per object. ALE-Edit, section 3.2."
            ),
            inputs=[
                sockets.Edits.Input(
                    "edits",
                    tooltip="The edits. Each needs one mask, its own or one from the masks input.",
                ),
                *ale_inputs("dilation"),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=0.25,
                    step=0.005,
                    tooltip=(
                        "Width over which the edge of the background fades, as a fraction of the "
                        "image height. Used by Paste Background and soft Background Blending. 0: a "
                        "hard edge."
                    ),
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip=(
                        "A batch with one mask for each edit that has none of its own, in the "
                        "order of the edits. For a batch of images, one such set for all or one "
                        "per image, those of image 1 first."
                    ),
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip=(
                        "The source image, or a batch. Sets the size and the number of images, and "
                        "is shown in the preview."
                    ),
                ),
            ],
            outputs=[
                sockets.Regions.Output(display_name="regions", tooltip=sockets.REGIONS_TOOLTIP),
                io.Mask.Output(
                    display_name="object masks",
                    tooltip=(
                        "The masks as given, one per object, not dilated. If each image has its "
                        "own, those of image 1 come first."
                    ),
                ),
                io.Mask.Output(
                    display_name="background mask",
                    tooltip="1 outside all dilated masks; fades over the feather.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The image with one colour and label per object.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        edits: Edits,
        dilation: float,
        feather: float,
        masks: Tensor | None = None,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        size = None if image is None else (image.shape[1], image.shape[2])
        count = 1 if image is None else len(image)
        regions = regions_from_edits(edits, masks, dilation, feather, size, count)
        preview, shown = preview_batch(image, regions)
        return io.NodeOutput(
            regions,
            object_masks(regions),
            soft_backgrounds(regions),
            preview,
            ui=ui.PreviewImage(shown, cls=cls),
        )


class PasteBackground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEPasteBackground",
            display_name="Paste Background",
            category=CATEGORY,
            description=(
                "Pastes the source image's own pixels back outside the regions and restores its "
                "exact size. The VAE shifts colours slightly even where nothing was edited; this "
                "undoes it."
            ),
            inputs=[
                io.Image.Input("edited", tooltip="The edited image, decoded by the VAE."),
                io.Image.Input("source", tooltip="The image that was edited."),
                sockets.Regions.Input(
                    "regions", tooltip=sockets.REGIONS_TOOLTIP + " Its feather softens the edge."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip=(
                        "The edited image at the source's size, with the source's pixels outside "
                        "the regions and its alpha channel."
                    ),
                )
            ],
        )

    @classmethod
    def execute(cls, edited: Tensor, source: Tensor, regions: Regions) -> io.NodeOutput:
        with name_node("Paste Background"):
            return io.NodeOutput(paste_background(edited, source, regions, LARGEST_CELL))


NODES = [RegionsNode, PasteBackground]
