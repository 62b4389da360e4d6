"""A node that shows where a model sees the words of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from comfy_api.latest import io

from ..host.attention.word_maps import NODE, map_words
from ..host.messages import name_node
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
                "Shows where the model sees each word of a prompt in an image: a sheet to look at, "
                "and a mask for each word. These are the maps that Prompt-to-Prompt and its local "
                "blend go by (arXiv 2208.01626); they show which object an attribute leaks to."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A checkpoint of SD 1.5, SD 2 or SDXL."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Image.Input("image", tooltip="The image to look at, or a batch."),
                io.String.Input(
                    "prompt",
                    default="grey wolf and yellow moon",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Describes the image, or what it is to become.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip=(
                        'Words or phrases of the prompt, with commas between them: "wolf, yellow '
                        'moon". Empty: every word of the prompt.'
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Noise levels at which the model looks. Not used with an inversion.",
                ),
                io.Float.Input(
                    "first_share",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the noisiest, after which maps count.",
                ),
                io.Float.Input(
                    "last_share",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps, from the noisiest, up to which maps count.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "How clearly a place must belong to a word to be in its mask, as a share "
                        "of the clearest."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise; item j of a batch uses seed + j.",
                ),
                sockets.Inversion.Input(
                    "inversion",
                    optional=True,
                    tooltip=(
                        "An inversion of this image: the model then looks at its latents, as the "
                        "source branch of an edit does, in place of a noised image."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The image, and for each word the image under its map; one sheet each.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="A mask for each word, in order; of a batch, image by image.",
                ),
                io.Mask.Output(
                    display_name="maps", tooltip="The same as maps from 0 to 1, without threshold."
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
        pixels = image[..., :3].cpu().float()
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
