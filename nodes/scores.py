"""Nodes that say how well an edit went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..host import model_files
from ..host.scoring.comparing import draw_sheet, make_entries
from ..host.scoring.networks import stamp_weights
from ..host.scoring.scores import make_ui_output, report_leakage, report_preservation
from ..host.scoring.similarity import load_clip_folder, pair_sockets
from ..host.versions import LEFT_TO_THE_RUN
from ..prompts.edits import Edits
from ..regions.regions import Regions
from ..scoring.comparison import SheetCell
from ..scoring.similarity import Similarity
from ..scoring.structure import SCALES, Scale
from . import sockets

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel
    from comfy.sd import CLIP
    from torch import Tensor

CATEGORY = "ALE-Edit/scores"
SIMILARITY_TOOLTIP = "For Leakage Score: measures how well an image matches a text."
REGIONS_TOOLTIP = "The regions of the edit. Their original masks are used, without dilation."
JSON_TOOLTIP = (
    "The same for programs, with every image of a batch. Goes into the scores input of Compare."
)


class CLIPSimilarityLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALECLIPSimilarityLoader",
            display_name="CLIP Similarity Loader",
            category=CATEGORY,
            description=(
                "Loads a complete CLIP (text and image encoder) for Leakage Score, from a model "
                "folder in models/clip, models/text_encoders or models/clip_vision. Downloads "
                "nothing. The paper uses clip-vit-large-patch14."
            ),
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=model_files.list_files(model_files.SIMILARITY),
                    tooltip=(
                        "The folder of a transformers CLIP model, with its config.json and "
                        "model.safetensors. Use clip-vit-large-patch14 for scores that compare "
                        "with published ones."
                    ),
                )
            ],
            outputs=[
                sockets.Similarity.Output(display_name="similarity", tooltip=SIMILARITY_TOOLTIP)
            ],
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None = None) -> bool:
        return LEFT_TO_THE_RUN

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_clip_folder(clip_name))


class CLIPSimilarityFromCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALECLIPSimilarityFromCLIPVision",
            display_name="CLIP Similarity from CLIP Vision",
            category=CATEGORY,
            description=(
                "Builds a similarity model for Leakage Score from ComfyUI's own CLIP and CLIP "
                "Vision, if they are the two halves of the same CLIP. The CLIP of an SD 1.5 "
                "checkpoint is refused, because it has no projection into the shared space."
            ),
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "A text encoder with its projection and no LoRA, such as "
                        "clip_l.safetensors of SD 3 or Flux from Load CLIP. CLIP skip makes no "
                        "difference."
                    ),
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder of the same CLIP, from Load CLIP Vision.",
                ),
            ],
            outputs=[
                sockets.Similarity.Output(display_name="similarity", tooltip=SIMILARITY_TOOLTIP)
            ],
        )

    @classmethod
    def execute(cls, clip: CLIP, clip_vision: ClipVisionModel) -> io.NodeOutput:
        return io.NodeOutput(pair_sockets(clip, clip_vision))


class LeakageScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALELeakageScore",
            display_name="Leakage Score",
            category=CATEGORY,
            description=(
                "Measures how much of each object's target shows up where it should not: in the "
                "background (TE) and on the other objects (TI), next to the same scores of the "
                "source image. The scores appear on the node and in the history. ALE-Edit, Eq. 5 "
                "and 6."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip=("The edited image, or several edits of the same source.")
                ),
                sockets.Regions.Input("regions", tooltip=REGIONS_TOOLTIP),
                sockets.Edits.Input("edits", tooltip="The edits whose targets are measured."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip=(
                        "The image that was edited. An edit without leakage scores about the same "
                        "TE and TI as its source; a score on its own says little."
                    ),
                ),
                sockets.Similarity.Input(
                    "similarity",
                    optional=True,
                    tooltip=(
                        "Compares images and text, from CLIP Similarity Loader. Without it, the "
                        "demo world's own model is used, which only works for scenes and words of "
                        "the demo world."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="TE", tooltip="Target-external leakage, 0 to 100. Lower is better."
                ),
                io.Float.Output(
                    display_name="TI",
                    tooltip=(
                        "Target-internal leakage, 0 to 100. Lower is better. NaN if there is only "
                        "one object."
                    ),
                ),
                io.Float.Output(
                    display_name="source TE",
                    tooltip="TE of the source. NaN without a source.",
                ),
                io.Float.Output(
                    display_name="source TI",
                    tooltip="TI of the source. NaN without a source.",
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="All scores, including each target in each place.",
                ),
                io.String.Output(display_name="json", tooltip=JSON_TOOLTIP),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        regions: Regions,
        edits: Edits,
        source: Tensor | None = None,
        similarity: Similarity | None = None,
    ) -> io.NodeOutput:
        report = report_leakage(image, regions, edits, source, similarity)
        summary = report.summary
        return io.NodeOutput(
            report.te,
            report.ti,
            report.source_te,
            report.source_ti,
            summary.text,
            summary.json,
            ui=dict(make_ui_output(summary)),
        )


class PreservationScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEPreservationScore",
            display_name="Preservation Score",
            category=CATEGORY,
            description=(
                "Measures how well an edit preserves its source outside the objects: PSNR, MSE, "
                "SSIM and LPIPS, over background pixels only and the way PIE-Bench computes them, "
                "and the structure distance of the whole images. PIE-Bench (arXiv 2310.01506)."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip=("The edited image, or several edits of the same source.")
                ),
                io.Image.Input("source", tooltip="The image that was edited."),
                sockets.Regions.Input("regions", tooltip=REGIONS_TOOLTIP),
                io.Combo.Input(
                    "structure_input",
                    options=list(SCALES),
                    default=SCALES[0],
                    tooltip=(
                        "What DINO gets for the structure distance. corrected: images as it was "
                        "trained on. as published: 255 times brighter ones, as in PIE-Bench's "
                        "code, to compare with published figures."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="PSNR", tooltip="Of the background only, in dB. Higher is better."
                ),
                io.Float.Output(
                    display_name="MSE", tooltip="Of the background only. Lower is better."
                ),
                io.Float.Output(
                    display_name="SSIM", tooltip="Of the background only. Higher is better."
                ),
                io.Float.Output(
                    display_name="LPIPS",
                    tooltip=(
                        "Of the background only. Lower is better. NaN without the weight files."
                    ),
                ),
                io.Float.Output(
                    display_name="structure distance",
                    tooltip="Of the whole images. Lower is better. NaN without the weight file.",
                ),
                io.String.Output(
                    display_name="text",
                    tooltip=("All scores, including those computed the way PIE-Bench does."),
                ),
                io.String.Output(display_name="json", tooltip=JSON_TOOLTIP),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: object) -> str:
        return stamp_weights()

    @classmethod
    def execute(
        cls, image: Tensor, source: Tensor, regions: Regions, structure_input: Scale
    ) -> io.NodeOutput:
        report = report_preservation(image, source, regions, structure_input)
        summary = report.summary
        return io.NodeOutput(
            report.psnr,
            report.mse,
            report.ssim,
            report.lpips,
            report.structure,
            summary.text,
            summary.json,
            ui=dict(make_ui_output(summary)),
        )


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALECompare",
            display_name="Compare",
            category=CATEGORY,
            description=(
                "Puts images side by side on one sheet, each with its label and scores below it. "
                "For images of different sizes or from different nodes, chain Compare nodes "
                "through previous."
            ),
            inputs=[
                io.Image.Input("images", tooltip="An image, a batch, or a list of images."),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip=(
                        "One label per line, in the order of the images. There may be fewer labels "
                        "than images."
                    ),
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip=(
                        "Images per row. 0: up to five in one row, otherwise close to a square."
                    ),
                ),
                io.Int.Input(
                    "cell_height",
                    default=512,
                    min=64,
                    max=4096,
                    tooltip=(
                        "Height of each image on the sheet, in pixels. Small images are enlarged; "
                        "none is distorted."
                    ),
                ),
                io.String.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    tooltip=(
                        "The json output of Leakage Score or Preservation Score for these images."
                    ),
                ),
                io.String.Input(
                    "more_scores",
                    optional=True,
                    force_input=True,
                    tooltip="The json output of another score for the same images.",
                ),
                sockets.Comparison.Input(
                    "previous",
                    optional=True,
                    tooltip="The comparison output of another Compare. Its images come first.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The comparison sheet."),
                sockets.Comparison.Output(
                    display_name="comparison", tooltip="For the previous input of another Compare."
                ),
            ],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        labels: list[str],
        columns: list[int],
        cell_height: list[int],
        scores: list[str] | None = None,
        more_scores: list[str] | None = None,
        previous: list[tuple[SheetCell, ...]] | None = None,
    ) -> io.NodeOutput:
        given = [text for text in (scores, more_scores) if text]
        earlier = [entry for comparison in previous or () for entry in comparison]
        entries = make_entries(images, labels[0], given, earlier)
        sheet = draw_sheet(entries, columns[0], cell_height[0])
        return io.NodeOutput(sheet, entries, ui=ui.PreviewImage(sheet, cls=cls))


NODES = [
    CLIPSimilarityLoader,
    CLIPSimilarityFromCLIPVision,
    LeakageScore,
    PreservationScore,
    Compare,
]
