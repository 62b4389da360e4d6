"""The demo world: a small trained model and scenes, to try everything without a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..demo.captions import demo_edits
from ..demo.finder import SceneFinder
from ..demo.mini_clip import MiniClip
from ..demo.models import build_clip, load_demo_model
from ..demo.render import IMAGE_SIZE, render
from ..demo.scenes import MAX_OBJECTS, make_scene
from ..demo.weights import read_weights
from ..host.scoring.similarity import offer_similarity
from ..host.text.tokens import unknown_words
from ..prompts.edits import ARROW
from ..scoring.similarity import Similarity
from . import sockets

if TYPE_CHECKING:
    from comfy.sd import CLIP
    from torch import Tensor

CATEGORY = "ALE-Edit/demo"
MINI_CLIP = "the demo world's mini CLIP"


class DemoModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEDemoModelLoader",
            display_name="Demo Model Loader",
            category=CATEGORY,
            description=(
                "Loads the small diffusion model that comes with this pack and runs on any CPU in "
                "seconds. It only knows the shapes, colours and materials of a synthetic demo "
                "world (demo/MODEL_CARD.md)."
            ),
            inputs=[
                io.Boolean.Input(
                    "lcm_lora",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Adds the LCM LoRA and LCM sampling: use 4 to 15 steps with a source "
                        "guidance of 1 and a target guidance of 2. Off: use 3 and 5."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="An SD 1.5-style UNet with 7 million parameters."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Its text encoder. It only knows the words of the demo world.",
                ),
                io.Vae.Output(
                    display_name="vae", tooltip="Its VAE. One latent cell is 8 pixels wide."
                ),
            ],
        )

    @classmethod
    def execute(cls, lcm_lora: bool = False) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model(lcm_lora))


class DemoDetectorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEDemoDetectorLoader",
            display_name="Demo Detector Loader",
            category=CATEGORY,
            description=(
                "Loads the demo world's own detector and segmenter, to try Grounded-SAM Masks "
                "without any download. They only find objects of the demo world, by its own words "
                "(demo/MODEL_CARD.md)."
            ),
            inputs=[],
            outputs=[
                sockets.Detector.Output(display_name="detector", tooltip="For Grounded-SAM Masks."),
                sockets.Segmenter.Output(
                    display_name="segmenter", tooltip="For Grounded-SAM Masks."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        finder = SceneFinder.load()
        return io.NodeOutput(finder, finder)


class DemoScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEDemoScene",
            display_name="Demo Scene",
            category=CATEGORY,
            description=(
                "Draws a scene of the demo world with exact masks, and suggests colour edits for "
                "it."
            ),
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=99_999,
                    control_after_generate=False,
                    tooltip="Selects the scene. The published tables use 0 to 2999.",
                ),
                io.Int.Input(
                    "objects",
                    default=2,
                    min=1,
                    max=MAX_OBJECTS,
                    tooltip="Number of objects in the scene.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The scene, 128x128 pixels."),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One exact mask per object, in the order of the edits.",
                ),
                io.String.Output(
                    display_name="edits text",
                    tooltip="One colour edit per object, for the text input of Edit List.",
                ),
                io.String.Output(
                    display_name="description", tooltip="The contents of the scene, as JSON."
                ),
            ],
        )

    @classmethod
    def execute(cls, seed: int, objects: int) -> io.NodeOutput:
        scene = make_scene(seed, objects)
        image, masks = render(scene)
        lines = [
            f"{source} {ARROW} {target}"
            for source, target, _ in demo_edits(seed, objects=objects, name_colors=True)
        ]
        text = "  \n".join(lines)  # Preview as Text shows Markdown: two spaces keep the line break
        return io.NodeOutput(image[None], masks, text, json.dumps(asdict(scene)))


# -- the similarity model --------------------------------------------------------------------------


@cache
def text_encoder() -> CLIP:
    """The demo model's CLIP. Raises ValueError where its weights are missing or damaged."""
    return build_clip(read_weights("text"))


@cache
def mini_clip() -> MiniClip:
    return MiniClip.load(text_encoder())


def mini_cosines(images: Tensor, texts: list[str]) -> Tensor:
    return mini_clip().similarity(images, texts)


def refuse_foreign(texts: Sequence[str], size: tuple[int, int]) -> str:
    """It knows the scenes and the words of the demo world."""
    if size != (IMAGE_SIZE, IMAGE_SIZE):
        return (
            f"the picture is {size[0]}x{size[1]}, a scene of the demo world "
            f"{IMAGE_SIZE}x{IMAGE_SIZE}"
        )
    foreign = unknown_words(text_encoder(), texts)
    return f'"{foreign[0]}" is not a word of the demo world' if foreign else ""


offer_similarity(Similarity(MINI_CLIP, mini_cosines, refusal=refuse_foreign))

NODES = [DemoModelLoader, DemoDetectorLoader, DemoScene]
