"""Nodes that say how well an edit went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui
from torch import Tensor

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

CATEGORY = "ALE-Edit/scores"
SIMILARITY_TOOLTIP = "For Leakage Score: what says how well a picture fits words."
REGIONS_TOOLTIP = "The regions of the edit; their raw masks count, without the dilation."
JSON_TOOLTIP = "The same for tools, with every picture of a batch; for the scores of Compare."


class CLIPSimilarityLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALECLIPSimilarityLoader",
            display_name="CLIP Similarity Loader",
            category=CATEGORY,
            description=(
                "Loads a whole CLIP, text and image encoder, for Leakage Score, from a published "
                "folder in models/clip, models/text_encoders or models/clip_vision. Nothing is "
                "downloaded. The paper's is clip-vit-large-patch14."
            ),
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=model_files.list_files(model_files.SIMILARITY),
                    tooltip=(
                        "The folder of a published transformers model of CLIP, with its "
                        "config.json and model.safetensors: clip-vit-large-patch14 for figures "
                        "that can be compared with published ones."
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
                "Makes a similarity model of ComfyUI's own CLIP and CLIP Vision, for Leakage "
                "Score, when they are the two halves of one CLIP. The CLIP of an SD 1.5 checkpoint "
                "has no projection into that space and is refused."
            ),
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "A text encoder with its projection and without a LoRA, such as "
                        "clip_l.safetensors of SD 3 or Flux from Load CLIP. CLIP skip does not "
                        "matter."
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
                "Measures how much of each object's target shows where it should not: in the "
                "background (TE) and on the other objects (TI), with the same of the source image "
                "beside it. ALE-Edit, Eq. 5 and 6. Shown on the node and kept in the history."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The edited image, or several of one source."),
                sockets.Regions.Input("regions", tooltip=REGIONS_TOOLTIP),
                sockets.Edits.Input("edits", tooltip="The edits, whose targets are looked for."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip=(
                        "The image that was edited. Its own TE and TI are what an edit without "
                        "any leakage comes close to; a score alone says little."
                    ),
                ),
                sockets.Similarity.Input(
                    "similarity",
                    optional=True,
                    tooltip=(
                        "What compares pictures and words, from CLIP Similarity Loader. Open: the "
                        "demo world's own, for scenes and words of the demo world only."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="TE", tooltip="Target-external leakage, 0 to 100; lower is better."
                ),
                io.Float.Output(
                    display_name="TI",
                    tooltip="Target-internal leakage, 0 to 100; not a number with one object.",
                ),
                io.Float.Output(
                    display_name="source TE",
                    tooltip="TE of the source; not a number without a source.",
                ),
                io.Float.Output(
                    display_name="source TI",
                    tooltip="TI of the source; not a number without a source.",
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="All scores, those of each target in each place among them.",
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
                "Measures how well an edit keeps its source outside the objects: PSNR, MSE, SSIM "
                "and LPIPS over background pixels alone and in PIE-Bench's way, and the structure "
                "distance of the whole images. PIE-Bench (arXiv 2310.01506)."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The edited image, or several of one source."),
                io.Image.Input("source", tooltip="The image that was edited."),
                sockets.Regions.Input("regions", tooltip=REGIONS_TOOLTIP),
                io.Combo.Input(
                    "structure_input",
                    options=list(SCALES),
                    default=SCALES[0],
                    tooltip=(
                        "What DINO sees for the structure distance: pictures as it was trained on, "
                        "or, as published, PIE-Bench's 255 times brighter ones, to compare with "
                        "published figures."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="PSNR", tooltip="Of the background alone, in dB; higher is better."
                ),
                io.Float.Output(
                    display_name="MSE", tooltip="Of the background alone; lower is better."
                ),
                io.Float.Output(
                    display_name="SSIM", tooltip="Of the background alone; higher is better."
                ),
                io.Float.Output(
                    display_name="LPIPS",
                    tooltip="Of the background alone; lower is better. Not a number without files.",
                ),
                io.Float.Output(
                    display_name="structure distance",
                    tooltip="Of the whole images; lower is better. Not a number without a file.",
                ),
                io.String.Output(
                    display_name="text", tooltip="All scores, those in PIE-Bench's way among them."
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
                "Puts pictures side by side on one sheet, each with a label and its scores below "
                "it. Pictures of different size or of different nodes: chain several of these "
                "nodes through previous."
            ),
            inputs=[
                io.Image.Input("images", tooltip="An image, a batch, or a list of images."),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One label a line, in the order of the pictures; may be fewer.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures in a row. 0: up to five in one row, else nearly a square.",
                ),
                io.Int.Input(
                    "cell_height",
                    default=512,
                    min=64,
                    max=4096,
                    tooltip=(
                        "Height of each picture on the sheet, in pixels. Small pictures are "
                        "magnified, none is distorted."
                    ),
                ),
                io.String.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    tooltip="The json of Leakage Score or Preservation Score for these pictures.",
                ),
                io.String.Input(
                    "more_scores",
                    optional=True,
                    force_input=True,
                    tooltip="The json of another score for the same pictures.",
                ),
                sockets.Comparison.Input(
                    "previous",
                    optional=True,
                    tooltip="The comparison of another Compare; its pictures come first.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The sheet."),
                sockets.Comparison.Output(
                    display_name="comparison", tooltip="For the previous of another Compare."
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
