"""Whole editors as one node."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from comfy_api.latest import io

from ..editors import COMPARED, ale
from ..editors.editor import SOURCE, Editor
from ..host.comfy_types import Conditioning
from ..host.editing import edit_image
from ..host.messages import name_node, speak_as
from ..host.regions import regions_on_images
from ..host.sampling.latents import pixels_per_cell
from ..inversion.stored import Inversion
from ..prompts.edits import VARIANTS, Edits, Variant, require_choice, set_variant
from ..regions.paste import paste_background as paste
from ..regions.preview import preview_image
from ..regions.regions import Regions
from . import sockets
from .inputs import (
    ale_inputs,
    choose_schedule,
    inversion_input,
    mask_input,
    negative_input,
    regions_input,
    reuse_input,
    schedule_inputs,
    setting_input,
    task_inputs,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from torch import Tensor

CATEGORY = "ALE-Edit/editors"
AS_IN_EDITS: Final = "as in the edits"


def image_output() -> io.Output:
    return io.Image.Output(
        display_name="image", tooltip="The edited image, at the size of the source image."
    )


def inversion_output() -> io.Output:
    return sockets.Inversion.Output(
        display_name="learned words",
        tooltip="What was learned of this image, for Save Inversion and for further edits.",
    )


def make_node(editor: Editor[Any]) -> type[io.ComfyNode]:
    """The node of an editor, from its settings."""

    class EditorNode(io.ComfyNode):
        EDITOR: ClassVar[Editor[Any]] = editor

        @classmethod
        def define_schema(cls) -> io.Schema:
            image = "The image to edit, or a batch. Item j of a batch uses seed + j."
            fields, plan = dataclasses.fields(editor.settings), editor.plan(editor.settings())
            branches = editor.branches(editor.settings())
            has_source = any(branch.name == SOURCE.name for branch in branches)
            task = task_inputs(image, suits_lcm=plan.schedule.time_steps == "LCM")
            first, later = (
                [setting_input(f) for f in fields if f.metadata.get("later", False) == is_later]
                for is_later in (False, True)
            )
            ways = [f.metadata["choices"] for f in fields if f.name == "inversion_method"]
            learns = editor.learn is not None
            last = [*later, inversion_input()] if learns or ways else later
            masks = [mask_input(*named) for named in editor.masks]
            places = [regions_input()] if editor.grow_regions is not None else []
            return io.Schema(
                node_id=editor.node_id,
                display_name=editor.title,
                category=CATEGORY,
                description=editor.description,
                inputs=[
                    *task,
                    *first,
                    *([reuse_input()] if has_source else []),
                    negative_input(editor.negative, learns or any("null-text" in w for w in ways)),
                    *last,
                    *masks,
                    *places,
                ],
                outputs=[image_output(), *([inversion_output()] if learns else [])],
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
            reuse_source: bool = True,
            negative: Conditioning | None = None,
            inversion: Inversion | None = None,
            regions: Regions | None = None,
            **values: Any,
        ) -> io.NodeOutput:
            masks = {name: values.pop(name, None) for name, _ in editor.masks}
            kept: list[Inversion] = []
            with name_node(editor.title):
                settings = editor.settings(**values)
            with speak_as(editor.title):
                edited = edit_image(
                    editor, settings, model, clip, vae, image, edits, seed,
                    masks={name: mask for name, mask in masks.items() if mask is not None},
                    regions=regions, negative=negative, reuses_source=reuse_source,
                    inversion=inversion, keep_inversion=kept.append,
                )  # fmt: skip
            return io.NodeOutput(edited, *(kept if editor.learn else []))

    EditorNode.__name__ = EditorNode.__qualname__ = editor.node_id
    return EditorNode


class ALEEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=ale.EDITOR.node_id,
            display_name=ale.EDITOR.title,
            category=CATEGORY,
            description=ale.EDITOR.description,
            inputs=[
                *task_inputs(
                    "The image to edit, or a batch, in which each image has its own masks or all "
                    "share the same ones. Item j of a batch uses seed + j."
                ),
                *ale_inputs("steps", "source_guidance", "target_guidance"),
                *schedule_inputs(),
                *ale_inputs("strength"),
                *ale_inputs("dilation", note=" Ignored if regions is connected."),
                io.Boolean.Input(
                    "paste_background",
                    default=False,
                    tooltip=(
                        "Pastes the source's own pixels back outside the regions, which undoes the "
                        "slight colour shifts of the VAE."
                    ),
                ),
                io.Combo.Input(
                    "variant",
                    options=[AS_IN_EDITS, *VARIANTS],
                    default=AS_IN_EDITS,
                    tooltip=(
                        "Whether to follow the paper or the published code. By default this is "
                        "what Method Settings says, or else the paper."
                    ),
                ),
                regions_input(),
                reuse_input(),
                negative_input(),
            ],
            outputs=[
                image_output(),
                io.Image.Output(
                    display_name="regions preview",
                    tooltip="The source image with one colour and label per object.",
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
        edit_type: str,
        schedule: float,
        dilation: float,
        paste_background: bool,
        variant: Variant | Literal["as in the edits"],
        regions: Regions | None = None,
        reuse_source: bool = True,
        negative: Conditioning | None = None,
        **numbers: Any,
    ) -> io.NodeOutput:
        with name_node(ale.EDITOR.title):
            require_choice("variant", variant, (AS_IN_EDITS, *VARIANTS))
            share = choose_schedule(edit_type, schedule)
        edits = edits if variant == AS_IN_EDITS else set_variant(edits, variant)
        settings = ale.ALESettings(schedule=share, dilation=dilation, **numbers)
        with speak_as(ale.EDITOR.title):
            if regions is None:
                regions = regions_on_images(edits, image, dilation)
            edited = edit_image(
                ale.EDITOR, settings, model, clip, vae, image, edits, seed,
                regions=regions, negative=negative, reuses_source=reuse_source,
            )  # fmt: skip
        if paste_background:
            edited = paste(edited, image, regions, pixels_per_cell(model))
        return io.NodeOutput(edited, preview_image(image, regions))


NODES = [ALEEdit, *(make_node(editor) for editor in COMPARED)]
