"""Nodes that say what to edit: edits, full prompts, method settings, and their embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

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
    from torch import Tensor

    from ..host.comfy_types import Conditioning

CATEGORY = "ALE-Edit/prompts"


class EditObject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEditObject",
            display_name="Edit Object",
            category=CATEGORY,
            description=(
                "One object to edit: what it is now and what it becomes. For several objects, "
                "chain one node per object through previous. ALE-Edit (arXiv 2412.04715)."
            ),
            inputs=[
                io.String.Input(
                    "source",
                    default="wolf",
                    tooltip=(
                        "What the object is now, in a few words, such as wolf. It is the prompt of "
                        "the source branch. Empty: the object is added where the mask is, by an "
                        "editor that can add, such as CPAM."
                    ),
                ),
                io.String.Input(
                    "target",
                    default="brown-colored goat",
                    tooltip=(
                        "What it becomes, with all of its attributes, such as brown-colored goat "
                        "or goat made of gold. Empty: the object is removed, by an editor that can "
                        "remove, such as CPAM."
                    ),
                ),
                sockets.Edits.Input(
                    "previous",
                    optional=True,
                    tooltip="The edits so far. Leave unconnected on the first Edit Object.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where the object is in the image, 1 on the object. For a batch of images: "
                        "one mask for all, or one each. Leave unconnected if Regions gets the "
                        "masks."
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
                "Several edits as text, one per line: the short form of a chain of Edit Object "
                "nodes."
            ),
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="wolf -> brown-colored goat\nmoon -> soccer ball",
                    tooltip=(
                        "One edit per line: source phrase -> target phrase. Without a target "
                        "phrase the object is removed, without a source phrase it is added, by an "
                        "editor that can, such as CPAM. Empty lines and lines that start with # "
                        "are skipped."
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
                'Puts the phrases of the edits into whole sentences, such as "a photo of a wolf '
                'under a moon" and "a photo of a brown-colored goat under a soccer ball". Without '
                'this node they are joined by "and".'
            ),
            inputs=[
                sockets.Edits.Input(
                    "edits", tooltip="The edits whose phrases the two prompts contain."
                ),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Describes the image as it is. It must contain every source phrase word "
                        "for word, with its weight if it has one. Empty: the phrases joined by "
                        '"and".'
                    ),
                ),
                io.String.Input(
                    "target_prompt",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Describes the edited image. It must contain every target phrase word for "
                        'word, with its weight if it has one. Empty: the phrases joined by "and".'
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
                "Sets which form of ALE-Edit the whole graph follows, including the ablations of "
                "the paper's tables 12 and 13. The settings travel with the edits, so all nodes "
                "agree. Leave this node out to follow the paper."
            ),
            inputs=[
                sockets.Edits.Input("edits", tooltip="The edits that will carry these settings."),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="paper",
                    tooltip=(
                        "paper: the algorithms as printed. published code: the authors' "
                        "repository, including its differences (listed in docs/methods.md)."
                    ),
                ),
                io.Boolean.Input(
                    "ore",
                    default=True,
                    tooltip=(
                        "Object-Restricted Embeddings. Off: every region uses the plain encoding "
                        "of the whole prompt."
                    ),
                ),
                io.Boolean.Input(
                    "rgb_cam",
                    default=True,
                    tooltip=(
                        "Region Cross-Attention. Off: that node does nothing, and every pixel sees "
                        "the whole prompt."
                    ),
                ),
                io.Boolean.Input(
                    "blending",
                    default=True,
                    tooltip=(
                        "Background Blending. Off: that node does nothing, and the background is "
                        "edited too."
                    ),
                ),
                io.Combo.Input(
                    "end_of_text",
                    options=list(END_OF_TEXT),
                    default="ours",
                    tooltip=(
                        "What follows an object's words in its embedding. ours: the object's own "
                        "end-of-text tokens. naive: those of the whole prompt. zeros, bos, empty "
                        "string: the other strategies of table 12."
                    ),
                ),
                io.Boolean.Input(
                    "end_of_text_in_base",
                    default=False,
                    tooltip=(
                        "Applies end_of_text to the background's embedding as well (zeros, bos and "
                        "empty string only)."
                    ),
                ),
                io.Combo.Input(
                    "overlap",
                    options=list(OVERLAPS),
                    default="background",
                    tooltip=(
                        "Which text applies where regions overlap: the background's (section 3.2 "
                        "and the published code) or the last object's (Algorithm 2)."
                    ),
                ),
                io.Combo.Input(
                    "pooled",
                    options=list(POOLED),
                    default="target",
                    optional=True,
                    tooltip=(
                        "SDXL only: the prompt of the pooled vector, which applies to all regions "
                        "and the background. target: each branch uses its own prompt. source: both "
                        "use the source prompt. empty: both use the empty prompt."
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
                "Encodes the edits so that no object's words or end-of-text tokens carry "
                "information about another object. ALE-Edit, section 3.1 and Algorithm 1 (arXiv "
                "2412.04715)."
            ),
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "The text encoder of the model that samples: SD 1.5, SD 2, SDXL or a model "
                        "derived from them."
                    ),
                ),
                sockets.Edits.Input(
                    "edits", tooltip="The edits, from Edit Object, Edit List or Method Settings."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="source",
                    tooltip=(
                        "For the source input of Two-Branch Guider: describes the image as it is."
                    ),
                ),
                io.Conditioning.Output(
                    display_name="target",
                    tooltip=(
                        "For the target input of Two-Branch Guider, or the positive input of a "
                        "KSampler. Also carries the embeddings that Region Cross-Attention uses."
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
                "Encodes a prompt with several objects so that its end tokens do not carry "
                "attributes from one object to another: they are taken from the prompt "
                "without attributes. Token Merging (NeurIPS 2024, arXiv 2411.07132)."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "prompt",
                    default="a brown goat and a yellow ball",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The prompt, with all of its attributes.",
                ),
                io.String.Input(
                    "ets_prompt",
                    default="a goat and a ball",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip=(
                        "The same prompt without attributes, with the objects in the same order."
                    ),
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip=(
                        "The conditioning of the prompt, if it has more than the text, such "
                        "as an area or a ControlNet. Everything but the text is kept."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For the positive input of a KSampler or any other sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip: CLIP, prompt: str, ets_prompt: str, conditioning: Conditioning | None = None
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
