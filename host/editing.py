"""A whole edit by any editor in one call: its branches, its control, virtual inversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import comfy.model_management
import torch
from torch import Tensor

from ..attention.control import Control
from ..editors.editor import BranchPlan, ControlInputs, Editor, RunSettings, S
from ..prompts.edits import Edits
from ..regions.paste import restore_size
from ..regions.regions import Regions
from .attention.adapter import add_control
from .attention.unet import require_cross_attention, self_attention_layers
from .comfy_types import Conditioning
from .messages import name_node
from .sampling.branch_guider import BranchGuider
from .sampling.branch_inputs import Branch
from .sampling.latents import pixels_per_cell
from .sampling.run_checks import require_width
from .sampling.schedule import lcm_sigmas
from .sampling.virtual_inversion import virtual_inversion_sampler
from .text.embedding import encode_prompt, read_word, tell_unknown_words

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE


def edit_image(
    editor: Editor[S],
    settings: S,
    model: ModelPatcher,
    clip: CLIP,
    vae: VAE,
    image: Tensor,
    edits: Edits,
    seed: int,
    *,
    regions: Regions | None = None,
    negative: Conditioning | None = None,
    reuses_source: bool = True,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3 or 4) in [0, 1]: (B, H, W, 3), at exactly the same size.

    negative: CONDITIONING that all branches share; the empty prompt if None. reuses_source: take
    the source branch from the last edit where it is the same.
    """
    require_size(image, model, editor.title)
    guider = guide(
        editor, settings, model, clip, edits,
        regions=regions, negative=negative, reuses_source=reuses_source,
    )  # fmt: skip
    edited = sample_edit(guider, vae, image, settings, seed)
    require_decoded(edited, image, model, editor.title)
    return restore_size(edited, image, pixels_per_cell(model))


def guide(
    editor: Editor[S],
    settings: S,
    model: ModelPatcher,
    clip: CLIP,
    edits: Edits,
    *,
    regions: Regions | None = None,
    negative: Conditioning | None = None,
    reuses_source: bool = True,
) -> BranchGuider:
    """The guider of an editor's branches under its control; see `edit_image`."""
    require_cross_attention(model, editor.title)
    prompts = {side: encode_prompt(clip, edits, side) for side in ("source", "target")}
    for conditioning, _ in prompts.values():
        require_one_text(conditioning, model, editor.title)
    tell_unknown_words(clip, edits)
    inputs = ControlInputs(
        source=prompts["source"][1],
        target=prompts["target"][1],
        read_word=lambda word: read_word(clip, word),
        self_layers=len(self_attention_layers(model.get_model_object("diffusion_model"))),
        variant=edits.settings.variant,
        regions=regions,
    )

    def make_control(*_: object) -> Control:
        with name_node(editor.title):
            return editor.make_control(settings, inputs)

    make_control()  # refuses before the image is encoded
    patched = add_control(model, f"ale_edit.{editor.name}", make_control, editor.title)
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    texts = {**{side: conditioning for side, (conditioning, _) in prompts.items()}, "empty": empty}

    def branch(plan: BranchPlan) -> Branch:
        return Branch(plan.name, texts[plan.text], getattr(settings, plan.guidance))

    branches = [branch(plan) for plan in editor.branches(settings)]
    return BranchGuider(
        patched, branches, empty if negative is None else negative, reuses_source=reuses_source
    )


def sample_edit(
    guider: BranchGuider,
    vae: VAE,
    image: Tensor,
    settings: RunSettings,
    seed: int,
    eta: float = 1.0,
) -> Tensor:
    """Encode, sample by virtual inversion on the steps of the settings, decode: (B, H, W, 3)."""
    import latent_preview

    model = guider.model_patcher
    sigmas = lcm_sigmas(model, settings.steps, settings.strength)
    latent = cast(Tensor, vae.encode(image[..., :3]))
    samples = guider.sample(
        torch.zeros_like(latent),  # the sampler draws its own noise
        latent,
        virtual_inversion_sampler(eta),
        sigmas,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        seed=seed,
    )
    return vae.decode(samples.to(comfy.model_management.intermediate_device()))


def require_size(image: Tensor, model: ModelPatcher, node: str) -> None:
    """Raises ValueError when an image is smaller than one cell of the latent."""
    height, width = image.shape[1:3]
    least = pixels_per_cell(model)
    if min(height, width) < least:
        raise ValueError(
            f"{node}: the image input is {height}x{width} (height x width); at least {least} "
            "pixels a side are needed. Connect a larger image."
        )


def require_one_text(conditioning: Conditioning, model: ModelPatcher, node: str) -> None:
    """Raises ValueError for a text encoder that gives several texts, or those of another model."""
    if len(conditioning) != 1:
        raise ValueError(
            f"{node}: the clip input gives {len(conditioning)} texts, one for each part of a "
            "schedule of hooks, where one is needed. Connect a CLIP whose hooks stay the same in "
            "all steps."
        )
    width = model.model.model_config.unet_config.get("context_dim")
    if width is not None:
        require_width("clip", conditioning[0][0].shape[-1], width, node)


def require_decoded(edited: Tensor, image: Tensor, model: ModelPatcher, node: str) -> None:
    """Raises ValueError for a VAE whose picture is not the encoded one's."""
    size, made, most = image.shape[1:3], edited.shape[1:3], pixels_per_cell(model)
    if not all(0 <= whole - part < most for whole, part in zip(size, made, strict=True)):
        raise ValueError(
            f"{node}: the vae input makes a picture of {made[0]}x{made[1]} (height x width) of one "
            f"of {size[0]}x{size[1]}. Connect the VAE of the same checkpoint."
        )
