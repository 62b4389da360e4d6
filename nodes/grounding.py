"""Nodes that find the objects from their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..host import model_files
from ..host.pictures import read_pictures
from ..host.segmenting.grounded_sam import (
    MISSING,
    NOTHING_FOUND,
    MaskSettings,
    ground_regions,
)
from ..host.segmenting.grounding import NODE, PRECISIONS, load_detector, load_segmenter
from ..host.versions import LEFT_TO_THE_RUN
from ..prompts.edits import Edits
from ..regions.detection import Detector, Segmenter
from ..regions.preview import preview_batch
from ..regions.regions import object_masks, soft_backgrounds
from . import sockets
from .inputs import ale_inputs
from .regions import CATEGORY


class GroundingDINOLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEGroundingDINOLoader",
            display_name="GroundingDINO Loader",
            category=CATEGORY,
            description=(
                "Loads a detector that finds objects by text, from models/grounding-dino. "
                "Downloads nothing. Grounding DINO (arXiv 2303.05499)."
            ),
            inputs=[
                io.Combo.Input(
                    "detector_name",
                    options=model_files.list_files(model_files.DETECTOR),
                    tooltip=(
                        "groundingdino_swint_ogc.pth, groundingdino_swinb_cogcoor.pth, or the "
                        "folder of a transformers model (the paper's code uses "
                        "grounding-dino-base)."
                    ),
                )
            ],
            outputs=[
                sockets.Detector.Output(display_name="detector", tooltip="For Grounded-SAM Masks.")
            ],
        )

    @classmethod
    def validate_inputs(cls, detector_name: str | None = None) -> bool:
        return LEFT_TO_THE_RUN

    @classmethod
    def execute(cls, detector_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_detector(detector_name))


class SAMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALESAMLoader",
            display_name="SAM Loader",
            category=CATEGORY,
            description=(
                "Loads Segment Anything, which turns boxes into masks, from models/sams or "
                "models/sam2. Downloads nothing. SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714)."
            ),
            inputs=[
                io.Combo.Input(
                    "sam_name",
                    options=model_files.list_files(model_files.SEGMENTER),
                    tooltip=(
                        "sam_vit_h, sam_vit_l or sam_vit_b (.pth), or the folder of a transformers "
                        "model of SAM, SAM 2 or SAM 2.1."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=PRECISIONS[0],
                    tooltip=(
                        "Precision of the image encoder. auto: fp16 where ComfyUI uses it for "
                        "models, otherwise fp32. The mask decoder always runs in fp32."
                    ),
                ),
            ],
            outputs=[
                sockets.Segmenter.Output(
                    display_name="segmenter", tooltip="For Grounded-SAM Masks."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, sam_name: str | None = None) -> bool:
        return LEFT_TO_THE_RUN

    @classmethod
    def execute(cls, sam_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load_segmenter(sam_name, precision))


class GroundedSAMMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEGroundedSAMMasks",
            display_name="Grounded-SAM Masks",
            category=CATEGORY,
            description=(
                "Finds the object of each edit by its source phrase and turns it into a mask and a "
                "region. Edits that already have a mask keep it. Grounded-SAM (arXiv 2401.14159), "
                "as in ALE-Edit, appendix D."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip="The source image, or a batch. Every image is searched."
                ),
                sockets.Edits.Input("edits", tooltip="The edits whose source phrases to look for."),
                sockets.Detector.Input(
                    "detector", tooltip="Finds boxes by text, from GroundingDINO Loader."
                ),
                io.Float.Input(
                    "box_threshold",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Minimum score of a box for its phrase. Published code: 0.45. Lower it if "
                        "objects are missed, raise it if wrong ones are found."
                    ),
                ),
                io.Float.Input(
                    "text_threshold",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Minimum score of the phrase's noun in a box, so that an adjective alone "
                        "finds nothing. Published code: 0.4."
                    ),
                ),
                io.String.Input(
                    "instances",
                    default="all",
                    tooltip=(
                        "Which instances of an object to use: all, best, or a number, counting "
                        "from 1 at the left. One choice for all objects, or one per object, "
                        "separated by commas (all, best, 2)."
                    ),
                ),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    default=MISSING[0],
                    tooltip=(
                        "What to do if an object is not found: stop with an error, leave out its "
                        "edit, or give it the whole image outside the other objects."
                    ),
                ),
                io.Combo.Input(
                    "nothing_found",
                    options=list(NOTHING_FOUND),
                    default=NOTHING_FOUND[0],
                    tooltip=(
                        "What to do if no object at all is found: stop, or edit the whole image "
                        "without RGB-CAM and Background Blending, as the paper does."
                    ),
                ),
                *ale_inputs("dilation"),
                io.Float.Input(
                    "clean_up",
                    default=0.02,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip=(
                        "Removes islands and holes smaller than this fraction of the mask. 0 "
                        "leaves the masks unchanged."
                    ),
                ),
                sockets.Segmenter.Input(
                    "segmenter",
                    optional=True,
                    tooltip=(
                        "Turns boxes into masks, from SAM Loader. Without it, the boxes are the "
                        "masks."
                    ),
                ),
            ],
            outputs=[
                sockets.Regions.Output(display_name="regions", tooltip=sockets.REGIONS_TOOLTIP),
                sockets.Edits.Output(
                    display_name="edits",
                    tooltip=(
                        "The edits with their masks, without those that were left out. Connect "
                        "these to the nodes that follow, not the original edits."
                    ),
                ),
                io.Mask.Output(
                    display_name="object masks",
                    tooltip=(
                        "One mask per object, not dilated. For a batch, those of image 1 come "
                        "first."
                    ),
                ),
                io.Mask.Output(
                    display_name="background mask", tooltip="1 outside all dilated masks."
                ),
                io.String.Output(
                    display_name="detections",
                    tooltip="What was found: one line per object, with scores and boxes in pixels.",
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
        image: Tensor,
        edits: Edits,
        detector: Detector,
        segmenter: Segmenter | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        settings = MaskSettings(**widgets)
        regions, kept, text = ground_regions(image, edits, detector, segmenter, settings)
        preview, shown = preview_batch(read_pictures(image, NODE), regions)
        return io.NodeOutput(
            regions,
            kept,
            object_masks(regions),
            soft_backgrounds(regions),
            text,
            preview,
            ui=ui.PreviewImage(shown, cls=cls),
        )


if TYPE_CHECKING:
    from torch import Tensor

NODES = [GroundingDINOLoader, SAMLoader, GroundedSAMMasks]
