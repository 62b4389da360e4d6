"""Whole editors as one node."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from comfy_api.latest import io

from ..editors import EDITORS
from ..editors.ale import ALESettings
from ..editors.editor import Editor
from ..host.ale_edit import NODE, edit_image
from ..host.editing import edit_image as edit_image_by
from ..host.messages import name_node, speak_as
from ..host.regions import regions_from_edits
from ..inversion.stored import Inversion
from ..inversion.update_rule import SOURCE
from ..prompts.edits import VARIANTS, Edits, require_choice, set_variant
from ..regions.preview import preview_image
from ..regions.regions import AnyRegions
from . import sockets
from .model import schedule_inputs, schedule_of
from .regions import dilation_input
from .sampling import guidance_inputs, reuse_input, steps_input, strength_input

CATEGORY = "ALE-Edit/editors"
AS_IN_EDITS = "as in the edits"


def task_inputs(image: str, suits_lcm: bool = True) -> list[Any]:
    """What every editor is given: model, image, edits and seed. image: the input's tooltip.
    suits_lcm: whether it samples as latent consistency models do."""
    lcm = "; best an LCM, or with an LCM LoRA" if suits_lcm else ""
    return [
        io.Model.Input("model", tooltip=f"A checkpoint of SD 1.5, SD 2 or SDXL{lcm}."),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input("image", tooltip=image),
        sockets.Edits.Input("edits", tooltip="The edits, from Edit Object or Edit List."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Seed of the noise.",
        ),
    ]


def negative_input(default: str = "") -> Any:
    """A negative prompt of the person's own. default: the editor's."""
    without = f'"{default}"' if default else "the empty prompt"
    return io.Conditioning.Input(
        "negative",
        optional=True,
        tooltip=f"Shared by all branches; without it {without}, as in the paper.",
    )


def inversion_input() -> Any:
    """An inversion that was made before."""
    return sockets.Inversion.Input(
        "inversion",
        optional=True,
        tooltip=(
            "An inversion of this image, from Invert Image or Load Inversion. The edit starts from "
            "it and uses its method, so that nothing is inverted again."
        ),
    )


def image_output() -> Any:
    return io.Image.Output(
        display_name="image", tooltip="The edited image, at the size of the source."
    )


def setting_input(setting: dataclasses.Field[Any]) -> Any:
    """The widget of one field of an editor's settings."""
    shown = dict(setting.metadata)
    common = {"default": setting.default, "tooltip": shown.pop("tooltip")}
    if shown.pop("later", False):  # a saved workflow does not have it
        common["optional"] = True
    if "choices" in shown:
        return io.Combo.Input(setting.name, options=list(shown["choices"]), **common)
    if isinstance(setting.default, str):
        return io.String.Input(setting.name, **common)
    if isinstance(setting.default, bool):
        return io.Boolean.Input(setting.name, **common)
    if isinstance(setting.default, int):
        return io.Int.Input(setting.name, **common, **shown)
    return io.Float.Input(setting.name, **common, **shown, round=shown["step"] / 10)


def make_node(editor: Editor) -> type[io.ComfyNode]:
    """The node of an editor, from its settings."""

    class EditorNode(io.ComfyNode):
        EDITOR: ClassVar[Editor] = editor

        @classmethod
        def define_schema(cls) -> io.Schema:
            image = "The image to edit, or a batch; item j uses seed + j."
            fields, plan = dataclasses.fields(editor.settings), editor.plan(editor.settings())
            branches = editor.branches(editor.settings())
            has_source = any(branch.name == SOURCE for branch in branches)
            task = task_inputs(image, suits_lcm=plan.schedule.time_steps == "LCM")
            first, later = (
                [setting_input(f) for f in fields if f.metadata.get("later", False) == is_later]
                for is_later in (False, True)
            )
            inverts = any(field.name == "inversion_method" for field in fields)
            last = [*later, inversion_input()] if inverts else later
            return io.Schema(
                node_id=editor.node_id,
                display_name=editor.title,
                category=CATEGORY,
                description=editor.description,
                inputs=[
                    *task,
                    *first,
                    *([reuse_input()] if has_source else []),
                    negative_input(editor.negative),
                    *last,
                ],
                outputs=[image_output()],
            )

        @classmethod
        def execute(
            cls,
            model: Any,
            clip: Any,
            vae: Any,
            image: Any,
            edits: Edits,
            seed: int,
            reuse_source: bool = True,
            negative: Any = None,
            inversion: Inversion | None = None,
            **values: Any,
        ) -> io.NodeOutput:
            with name_node(editor.title):
                settings = editor.settings(**values)
            with speak_as(editor.title):
                edited = edit_image_by(
                    editor, settings, model, clip, vae, image, edits, seed,
                    negative=negative, reuses_source=reuse_source, inversion=inversion,
                )  # fmt: skip
            return io.NodeOutput(edited)

    EditorNode.__name__ = EditorNode.__qualname__ = editor.node_id
    return EditorNode


class ALEEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEEdit",
            display_name="ALE Edit",
            category=CATEGORY,
            description=(
                "Edits several objects of an image at once, each with its own attributes, and "
                "keeps the background: embeddings, region attention, injection, blending and "
                "sampling in one node, with the paper's defaults. ALE-Edit (arXiv 2412.04715)."
            ),
            inputs=[
                *task_inputs(
                    "The image to edit, or a batch, each image with its own masks or all with the "
                    "same; item j uses seed + j."
                ),
                steps_input(),
                *guidance_inputs(),
                *schedule_inputs(),
                strength_input(),
                dilation_input(" Not used when regions is connected."),
                io.Boolean.Input(
                    "paste_background",
                    default=False,
                    tooltip=(
                        "Put the source's own pixels back outside the regions, undoing the VAE's "
                        "small colour shifts."
                    ),
                ),
                io.Combo.Input(
                    "variant",
                    options=[AS_IN_EDITS, *VARIANTS],
                    default=AS_IN_EDITS,
                    tooltip=(
                        "Follow the paper or the published code; by default what Method Settings "
                        "says, else the paper."
                    ),
                ),
                sockets.Regions.Input(
                    "regions",
                    optional=True,
                    tooltip=sockets.REGIONS_TOOLTIP
                    + " Without it, the edits' own masks are taken.",
                ),
                reuse_input(),
                negative_input(),
            ],
            outputs=[
                image_output(),
                io.Image.Output(
                    display_name="regions preview",
                    tooltip="The source with one colour and label per object.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        edits: Edits,
        seed: int,
        edit_type: str,
        schedule: float,
        dilation: float,
        paste_background: bool,
        variant: Any,
        regions: AnyRegions | None = None,
        reuse_source: bool = True,
        negative: Any = None,
        **numbers: Any,
    ) -> io.NodeOutput:
        with name_node(NODE):
            require_choice("variant", variant, (AS_IN_EDITS, *VARIANTS))
            share = schedule_of(edit_type, schedule)
        edits = edits if variant == AS_IN_EDITS else set_variant(edits, variant)
        settings = ALESettings(schedule=share, dilation=dilation, **numbers)
        with speak_as(NODE):
            if regions is None:
                count, *size = image.shape[:3]
                regions = regions_from_edits(edits, None, dilation, 0.0, tuple(size), count)
            inputs = (model, clip, vae, image, edits, regions, settings)
            edited = edit_image(*inputs, seed, paste_background, reuse_source, negative)
        return io.NodeOutput(edited, preview_image(image, regions))


NODES = [ALEEdit, *(make_node(editor) for editor in EDITORS)]
