"""Nodes that say what to edit: edits, full prompts, method settings, and their embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..host.messages import name_node
from ..host.regions import read_edit_mask
from ..host.text.embedding import embed_edits
from ..host.text.end_tokens import substitute_ends
from ..prompts.edits import (
    END_OF_TEXT,
    OVERLAPS,
    POOLED,
    VARIANTS,
    Edits,
    MethodSettings,
    make_edit,
    parse_edits,
)
from . import sockets

if TYPE_CHECKING:
    from comfy.sd import CLIP

CATEGORY = "ALE-Edit/prompts"


class EditObject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEditObject",
            display_name="Edit Object",
            category=CATEGORY,
            description=(
                "One object to edit: what it is now and what it becomes. Chain one node per "
                "object through previous. ALE-Edit (arXiv 2412.04715)."
            ),
            inputs=[
                io.String.Input(
                    "source",
                    default="wolf",
                    tooltip=(
                        "What the object is in the image, in few words: wolf. Used for the "
                        "source branch."
                    ),
                ),
                io.String.Input(
                    "target",
                    default="brown-colored goat",
                    tooltip=(
                        "What it becomes, with all of its attributes: brown-colored goat, or "
                        "goat made of gold."
                    ),
                ),
                sockets.Edits.Input(
                    "previous",
                    optional=True,
                    tooltip="The edits so far; leave open on the first Edit Object.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where the object is in the image, 1 on the object; for a batch of images "
                        "one for all or one each. Leave open when Regions gets the masks."
                    ),
                ),
            ],
            outputs=[
                sockets.Edits.Output(display_name="edits", tooltip=sockets.EDITS_OUTPUT_TOOLTIP)
            ],
        )

    @classmethod
    def execute(
        cls, source: str, target: str, previous: Edits | None = None, mask: Tensor | None = None
    ) -> io.NodeOutput:
        own = read_edit_mask(mask, "Edit Object") if mask is not None else None
        edits = previous if previous is not None else Edits(())
        with name_node("Edit Object"):
            return io.NodeOutput(edits.add(make_edit(source, target, own)))


class EditList(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEditList",
            display_name="Edit List",
            category=CATEGORY,
            description=(
                "Several edits as text, one a line. The short form of a chain of Edit Object nodes."
            ),
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="wolf -> brown-colored goat\nmoon -> soccer ball",
                    tooltip=(
                        "One edit a line, source phrase -> target phrase. Empty lines and lines "
                        "that start with # are skipped."
                    ),
                ),
            ],
            outputs=[
                sockets.Edits.Output(display_name="edits", tooltip=sockets.EDITS_OUTPUT_TOOLTIP)
            ],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        with name_node("Edit List"):
            return io.NodeOutput(Edits(parse_edits(text)))


class FullPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEFullPrompts",
            display_name="Full Prompts",
            category=CATEGORY,
            description=(
                "Whole sentences around the edits' phrases, instead of the phrases joined by and: "
                'such as "a photo of a wolf under a moon" and "a photo of a brown-colored goat '
                'under a soccer ball".'
            ),
            inputs=[
                sockets.Edits.Input(
                    "edits", tooltip="The edits whose phrases stand in the two prompts."
                ),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Describes the image as it is; holds every source phrase word for word, "
                        "with its weight if it has one. Empty: the phrases joined by and."
                    ),
                ),
                io.String.Input(
                    "target_prompt",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Describes the edited image; holds every target phrase word for word, "
                        "with its weight if it has one. Empty: the phrases joined by and."
                    ),
                ),
            ],
            outputs=[
                sockets.Edits.Output(display_name="edits", tooltip=sockets.EDITS_OUTPUT_TOOLTIP)
            ],
        )

    @classmethod
    def execute(cls, edits: Edits, source_prompt: str, target_prompt: str) -> io.NodeOutput:
        prompts = (prompt.strip() or None for prompt in (source_prompt, target_prompt))
        source, target = prompts
        return io.NodeOutput(replace(edits, source_prompt=source, target_prompt=target))


class MethodSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEMethodSettings",
            display_name="Method Settings",
            category=CATEGORY,
            description=(
                "Which form of ALE-Edit the whole graph follows, and the ablations of the "
                "paper's tables 12 and 13. The settings travel with the edits, so every node "
                "agrees. Leave the node out for the paper's method."
            ),
            inputs=[
                sockets.Edits.Input(
                    "edits", tooltip="The edits that carry the settings from here on."
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="paper",
                    tooltip=(
                        "paper: the algorithms as printed. published code: the authors' "
                        "repository, with its differences (docs/methods.md lists them)."
                    ),
                ),
                io.Boolean.Input(
                    "ore",
                    default=True,
                    tooltip=(
                        "Object-Restricted Embeddings. Off: every region takes the plain "
                        "encoding of the whole prompt."
                    ),
                ),
                io.Boolean.Input(
                    "rgb_cam",
                    default=True,
                    tooltip=(
                        "Region Cross-Attention. Off: that node does nothing, every pixel sees "
                        "the whole text."
                    ),
                ),
                io.Boolean.Input(
                    "blending",
                    default=True,
                    tooltip=(
                        "Background Blending. Off: that node does nothing, the background is "
                        "edited along."
                    ),
                ),
                io.Combo.Input(
                    "end_of_text",
                    options=list(END_OF_TEXT),
                    default="ours",
                    tooltip=(
                        "What follows an object's words in its embedding. ours: its own "
                        "end-of-text run. naive: the whole prompt's. zeros, bos, empty string: "
                        "table 12's other strategies."
                    ),
                ),
                io.Boolean.Input(
                    "end_of_text_in_base",
                    default=False,
                    tooltip=(
                        "Apply that choice to the background's embedding as well (zeros, bos and "
                        "empty string only)."
                    ),
                ),
                io.Combo.Input(
                    "overlap",
                    options=list(OVERLAPS),
                    default="background",
                    tooltip=(
                        "What a place gets that lies in several regions: the background's text "
                        "(section 3.2 and the published code), or the last object's (Algorithm "
                        "2)."
                    ),
                ),
                io.Combo.Input(
                    "pooled",
                    options=list(POOLED),
                    default="target",
                    optional=True,
                    tooltip=(
                        "SDXL only: the prompt that its pooled vector speaks for, in all regions "
                        "and the background alike. target: each branch its own prompt. source: "
                        "both the source's. empty: both none."
                    ),
                ),
            ],
            outputs=[
                sockets.Edits.Output(display_name="edits", tooltip=sockets.EDITS_OUTPUT_TOOLTIP)
            ],
        )

    @classmethod
    def execute(cls, edits: Edits, **settings: Any) -> io.NodeOutput:
        with name_node("Method Settings"):
            return io.NodeOutput(replace(edits, settings=MethodSettings(**settings)))


class ObjectRestrictedEmbeddingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEObjectRestrictedEmbeddings",
            display_name="Object-Restricted Embeddings (ORE)",
            category=CATEGORY,
            description=(
                "Encodes the edits so that no object's words or end-of-text tokens speak of "
                "another object. ALE-Edit, section 3.1 and Algorithm 1 (arXiv 2412.04715)."
            ),
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "The text encoder of the checkpoint that edits: SD 1.5, SD 2 or SDXL, or "
                        "a model made from one of them."
                    ),
                ),
                sockets.Edits.Input(
                    "edits", tooltip="The edits, from Edit Object, Edit List or Method Settings."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="source",
                    tooltip="For the source input of Two-Branch Guider: what the image shows.",
                ),
                io.Conditioning.Output(
                    display_name="target",
                    tooltip=(
                        "For the target input of Two-Branch Guider, or the positive input of a "
                        "KSampler. Region Cross-Attention finds its embeddings in here."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: CLIP, edits: Edits) -> io.NodeOutput:
        return io.NodeOutput(*embed_edits(clip, edits))


class EndTokenSubstitutionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEndTokenSubstitution",
            display_name="End Token Substitution (ETS)",
            category=CATEGORY,
            description=(
                "Encodes a prompt of several objects so that its end tokens do not carry the "
                "attributes from one object to another: they come from the prompt without "
                "attributes. Token Merging (NeurIPS 2024, arXiv 2411.07132)."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "prompt",
                    default="a brown goat and a yellow ball",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The prompt, with all attributes.",
                ),
                io.String.Input(
                    "ets_prompt",
                    default="a goat and a ball",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The same without attributes: its objects in the same order.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip=(
                        "The conditioning of prompt, where it is not simply CLIP Text Encode's, "
                        "such as with an area or a ControlNet. What it has beside the text is kept."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For the positive input of a KSampler, or any other sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip: CLIP, prompt: str, ets_prompt: str, conditioning: Any = None
    ) -> io.NodeOutput:
        return io.NodeOutput(substitute_ends(clip, prompt, ets_prompt, conditioning))


NODES = [
    EditObject,
    EditList,
    FullPrompts,
    MethodSettingsNode,
    ObjectRestrictedEmbeddingsNode,
    EndTokenSubstitutionNode,
]
