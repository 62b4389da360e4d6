"""A node that shows where a model sees the words of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from comfy_api.latest import io

from ..host.attention.word_maps import NODE, map_words
from ..host.edit_checks import require_size
from ..host.messages import name_node
from ..host.pictures import read_pictures
from ..inversion.stored import Inversion
from ..regions.heat import enlarge, paint
from ..scoring.comparison import sheet_each
from . import sockets

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from torch import Tensor

CATEGORY = "ALE-Edit/regions"
CELL_HEIGHT = 384


class WordAttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ALEWordAttentionMaps",
            display_name="Word Attention Maps",
            category=CATEGORY,
            description=(
                "Shows where in an image the model sees each word of a prompt: a sheet to "
                "look at, and a mask for each word. These are the attention maps that "
                "Prompt-to-Prompt and its local blend use (arXiv 2208.01626). They show which "
                "object an attribute leaks to."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SD 1.5, SD 2 or SDXL model."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Image.Input("image", tooltip="The image to inspect, or a batch."),
                io.String.Input(
                    "prompt",
                    default="grey wolf and yellow moon",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Describes the image, or what it should become.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip=(
                        'Words or phrases of the prompt, separated by commas, such as "wolf, '
                        'yellow moon". Empty: every word of the prompt.'
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip=(
                        "Number of noise levels at which the maps are read. Ignored if "
                        "inversion is connected."
                    ),
                ),
                io.Float.Input(
                    "first_share",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the noisiest, after which the maps count.",
                ),
                io.Float.Input(
                    "last_share",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the noisiest, up to which the maps count.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "How strongly a place must respond to a word to be in its mask, "
                        "relative to the strongest response."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise. Item j of a batch uses seed + j.",
                ),
                sockets.Inversion.Input(
                    "inversion",
                    optional=True,
                    tooltip=(
                        "An inversion of this image. The maps are then read from its latents, "
                        "as in the source branch of an edit, and not from a noised image."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet",
                    tooltip=(
                        "The image, then the image under the map of each word. One sheet per image."
                    ),
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One mask per word, in order; for a batch, image by image.",
                ),
                io.Mask.Output(
                    display_name="maps", tooltip="The maps from 0 to 1, before threshold."
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
        prompt: str,
        words: str,
        steps: int,
        first_share: float,
        last_share: float,
        threshold: float,
        seed: int,
        inversion: Inversion | None = None,
    ) -> io.NodeOutput:
        require_size(image, model, NODE)
        pixels = read_pictures(image, NODE)
        names, found = map_words(
            model, clip, cast("Tensor", vae.encode(pixels)), prompt, words,
            steps=steps, first_share=first_share, last_share=last_share, seed=seed,
            inversion=inversion,
        )  # fmt: skip
        maps = enlarge(found, image.shape[1:3])
        with name_node(NODE, "Name fewer words."):
            sheets = sheet_each(pixels, paint(pixels, maps), names, CELL_HEIGHT)
        flat = maps.flatten(0, 1)
        return io.NodeOutput(sheets, (flat > threshold).float(), flat)


NODES = [WordAttentionMaps]
