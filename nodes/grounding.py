"""Nodes that find the objects by their words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

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
                "Loads a detector that finds objects by words, from models/grounding-dino. "
                "Nothing is downloaded. Grounding DINO (arXiv 2303.05499)."
            ),
            inputs=[
                io.Combo.Input(
                    "detector_name",
                    options=model_files.list_files(model_files.DETECTOR),
                    tooltip=(
                        "groundingdino_swint_ogc.pth, groundingdino_swinb_cogcoor.pth, or the "
                        "folder of a published transformers model (the paper's code: "
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
                "Loads Segment Anything, which makes masks of boxes, from models/sams or "
                "models/sam2. Nothing is downloaded. SAM (arXiv 2304.02643), SAM 2 (arXiv "
                "2408.00714)."
            ),
            inputs=[
                io.Combo.Input(
                    "sam_name",
                    options=model_files.list_files(model_files.SEGMENTER),
                    tooltip=(
                        "sam_vit_h, sam_vit_l or sam_vit_b .pth, or the folder of a published "
                        "transformers model of SAM, SAM 2 or SAM 2.1."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=PRECISIONS[0],
                    tooltip=(
                        "Of the image encoder. auto: fp16 where ComfyUI uses it for models, else "
                        "fp32. The mask decoder always has fp32."
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
                "Finds each edit's object in the image by its source phrase, and makes its mask: "
                "from words to regions. An edit that has a mask keeps it. Grounded-SAM (arXiv "
                "2401.14159), as in ALE-Edit, appendix D."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip="The source image, or a batch; every image is looked at."
                ),
                sockets.Edits.Input(
                    "edits", tooltip="The edits, whose source phrases are looked for."
                ),
                sockets.Detector.Input(
                    "detector", tooltip="What finds boxes by words, from GroundingDINO Loader."
                ),
                io.Float.Input(
                    "box_threshold",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "The least score of a box for its phrase. Published code: 0.45. Lower it "
                        "when an object is not found, raise it when wrong ones are."
                    ),
                ),
                io.Float.Input(
                    "text_threshold",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "The least score of the phrase's noun in a box, so that an adjective alone "
                        "finds nothing. Published code: 0.4."
                    ),
                ),
                io.String.Input(
                    "instances",
                    default="all",
                    tooltip=(
                        "Which of several instances of an object: all, best, or a number from 1 "
                        "counted from left to right; one choice for all objects, or one each with "
                        "commas between (all, best, 2)."
                    ),
                ),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    default=MISSING[0],
                    tooltip=(
                        "An object that is not found: stop with an error, leave its edit out, or "
                        "give it the whole image outside the other objects."
                    ),
                ),
                io.Combo.Input(
                    "nothing_found",
                    options=list(NOTHING_FOUND),
                    default=NOTHING_FOUND[0],
                    tooltip=(
                        "When no object at all is found: stop, or edit the whole image without "
                        "RGB-CAM and Background Blending, as the paper does."
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
                        "Islands and holes of a mask below this fraction of its pixels go; 0 "
                        "leaves the masks as they are."
                    ),
                ),
                sockets.Segmenter.Input(
                    "segmenter",
                    optional=True,
                    tooltip="What makes masks of boxes, from SAM Loader. Open: the boxes.",
                ),
            ],
            outputs=[
                sockets.Regions.Output(display_name="regions", tooltip=sockets.REGIONS_TOOLTIP),
                sockets.Edits.Output(
                    display_name="edits",
                    tooltip=(
                        "The edits with their masks, without those left out. Connect these, not "
                        "the ones before, to the nodes that follow."
                    ),
                ),
                io.Mask.Output(
                    display_name="object masks",
                    tooltip="One mask per object (undilated); of a batch those of image 1 first.",
                ),
                io.Mask.Output(
                    display_name="background mask", tooltip="1 where no dilated mask is."
                ),
                io.String.Output(
                    display_name="detections",
                    tooltip="What was found: a line per object with scores and boxes in pixels.",
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


NODES = [GroundingDINOLoader, SAMLoader, GroundedSAMMasks]
