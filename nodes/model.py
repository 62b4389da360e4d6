"""Nodes that patch a model: MODEL -> MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.attention.rgb_cam import apply_rgb_cam
from ..host.attention.self_injection import apply_self_injection
from ..host.comfy_types import Conditioning
from ..host.messages import name_node
from ..host.sampling.blending import apply_background_blending
from ..prompts.edits import require_choice
from ..regions.regions import Regions
from . import sockets
from .inputs import choose_schedule, schedule_inputs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "ALE-Edit/model"
EDGES = ("hard", "soft")


class RegionCrossAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALERegionCrossAttention",
            display_name="Region Cross-Attention (RGB-CAM)",
            category=CATEGORY,
            description=(
                "Each region of the image only sees the words of its own object. Works with "
                "Two-Branch Guider for edits, and with a KSampler for regional generation. "
                "ALE-Edit, section 3.2 and Algorithm 2 (arXiv 2412.04715)."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "An SD 1.5, SD 2 or SDXL model, with or without LoRAs and other patches."
                    ),
                ),
                sockets.Regions.Input(
                    "regions",
                    tooltip=sockets.REGIONS_TOOLTIP
                    + " They must be made from the same edits as the embeddings.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1: RGB-CAM. 0: the model without it. In between: a mixture of both.",
                ),
                io.Conditioning.Input(
                    "background",
                    optional=True,
                    tooltip=(
                        "What to draw outside the regions, from CLIP Text Encode; for regional "
                        "generation. Without it, pixels there see the prompt without the objects' "
                        "words, as in the paper."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip=("The model with region-wise cross-attention.")
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        regions: Regions,
        strength: float,
        background: Conditioning | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(apply_rgb_cam(model, regions, strength, background))


class SelfAttentionInjection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALESelfAttentionInjection",
            display_name="Self-Attention Injection",
            category=CATEGORY,
            description=(
                "Keeps the structure of the source image: in the first steps, the edited branch "
                "uses the self-attention queries and keys of the source branch. Requires "
                "Two-Branch Guider. Free-Prompt-Editing (CVPR 2024); ALE-Edit, appendix D."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SD 1.5, SD 2 or SDXL model, with or without other patches."
                ),
                *schedule_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with structure injection.")
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, edit_type: str, schedule: float) -> io.NodeOutput:
        with name_node("Self-Attention Injection"):
            share = choose_schedule(edit_type, schedule)
        return io.NodeOutput(apply_self_injection(model, share))


class BackgroundBlending(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEBackgroundBlending",
            display_name="Background Blending",
            category=CATEGORY,
            description=(
                "Keeps the background: while sampling, the edit is replaced by the source outside "
                "the regions. Requires Two-Branch Guider. ALE-Edit, section 3.3 and Eq. 4 (arXiv "
                "2412.04715)."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SD 1.5, SD 2 or SDXL model, with or without other patches."
                ),
                sockets.Regions.Input("regions", tooltip=sockets.REGIONS_TOOLTIP),
                io.Combo.Input(
                    "edge",
                    options=list(EDGES),
                    default="hard",
                    tooltip=(
                        "hard: each latent cell is either source or edit. soft: source and edit "
                        "blend across the feather set in Regions."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with background blending.")
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, regions: Regions, edge: str) -> io.NodeOutput:
        with name_node("Background Blending"):
            require_choice("edge", edge, EDGES)
        return io.NodeOutput(apply_background_blending(model, regions, is_soft=edge == "soft"))


NODES = [RegionCrossAttention, SelfAttentionInjection, BackgroundBlending]
