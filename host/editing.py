"""A whole edit by any editor in one call: its branches, its control, its sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import comfy.model_management
import latent_preview
import torch
from torch import Tensor

from ..attention.control import Control
from ..editors.editor import (
    SOURCE,
    BranchPlan,
    BranchText,
    ControlInputs,
    Editor,
    S,
    SamplingPlan,
)
from ..inversion.stored import (
    REPLAYED,
    Inversion,
    require_same_prompt,
    require_same_schedule,
)
from ..prompts.edits import Edits
from ..regions.paste import restore_size
from ..regions.regions import Regions
from .attention.adapter import add_control
from .attention.unet import require_cross_attention, self_attention_layers
from .comfy_types import Conditioning
from .inverting.methods import invert_by
from .inverting.sampler import inversion_sampler, noise_sampler
from .messages import name_node, tell
from .regions import regions_from_inputs
from .sampling.branch_guider import BranchGuider
from .sampling.branch_inputs import Branch
from .sampling.branch_sampler import BranchSampler
from .sampling.latents import pixels_per_cell
from .sampling.run_checks import require_width
from .sampling.schedule import sigmas_of
from .sampling.virtual_inversion import virtual_inversion_sampler
from .text.embedding import encode_prompt, encode_text, read_word, tell_unknown_words
from .text.end_tokens import substitute_rows

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
    masks: Mapping[str, Tensor] | None = None,
    negative: Conditioning | None = None,
    reuses_source: bool = True,
    inversion: Inversion | None = None,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3 or 4) in [0, 1]: (B, H, W, 3), at exactly the same size.

    masks: those of the editor's mask inputs (Editor.masks) that are connected, one or one for each
        image. negative: CONDITIONING that all branches share; the editor's own prompt if None.
        reuses_source:
        take the source branch from the last edit where it is the same. inversion: of this image,
        in place of the one that the editor makes.
    """
    require_size(image, model, editor.title)
    height, width = image.shape[1:3]
    regions = regions_from_inputs(masks or {}, (height, width), len(image), editor.title)
    edit = open_edit(
        editor, settings, model, clip, edits,
        regions=regions, negative=negative, reuses_source=reuses_source, inversion=inversion,
    )  # fmt: skip
    edited = edit.edit_image(vae, image, seed)
    require_decoded(edited, image, model, editor.title)
    return restore_size(edited, image, pixels_per_cell(model))


@dataclass(frozen=True, eq=False)
class OpenEdit:
    """An edit that is ready to sample.

    prompts: the CONDITIONING of each text. text: that the image is inverted with. negative,
        guidance: of the source branch, which null-text and edit-friendly inversion need. inversion:
        that it starts from, where there is one already.
    """

    guider: BranchGuider
    model: ModelPatcher
    plan: SamplingPlan
    prompts: Mapping[BranchText, Conditioning] = field(default_factory=dict)
    text: str = ""
    negative: Conditioning | None = None
    guidance: float = 1.0
    inversion: Inversion | None = None

    def edit_image(self, vae: VAE, image: Tensor, seed: int) -> Tensor:
        """Encode, sample, decode: (B, H, W, 3)."""
        samples = self.sample(cast(Tensor, vae.encode(image[..., :3].expand(-1, -1, -1, 3))), seed)
        return vae.decode(samples.to(comfy.model_management.intermediate_device()))

    def sample(
        self, latent: Tensor, seed: int, callback: Callable[..., None] | None = None
    ) -> Tensor:
        """The edited latents (B, C, h, w) of latents as a VAE encodes them."""
        sigmas = sigmas_of(self.model, self.plan.schedule)
        callback = callback or latent_preview.prepare_callback(self.model, len(sigmas) - 1)
        return self.guider.sample(
            torch.zeros_like(latent),  # the sampler draws its own noise
            latent,
            self._sampler(latent, seed),
            sigmas,
            callback=callback,
            seed=seed,
        )

    def _sampler(self, latent: Tensor, seed: int) -> BranchSampler:
        plan = self.plan
        if self.inversion is not None:
            return inversion_sampler(self.inversion)
        if plan.start == "virtual":
            return virtual_inversion_sampler(plan.eta)
        if plan.start == "noise":
            return noise_sampler()
        inversion = invert_by(
            plan.start,
            self.model,
            self.prompts[plan.prompt],
            latent,
            plan.schedule,
            self.text,
            negative=self.negative,
            guidance=self.guidance,
            convention=plan.convention,
            seed=seed,
        )
        return inversion_sampler(inversion)


def open_edit(
    editor: Editor[S],
    settings: S,
    model: ModelPatcher,
    clip: CLIP,
    edits: Edits,
    *,
    regions: Regions | None = None,
    negative: Conditioning | None = None,
    reuses_source: bool = True,
    inversion: Inversion | None = None,
) -> OpenEdit:
    """The guider of an editor's branches under its control, and its sampling; see `edit_image`."""
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
        cell=pixels_per_cell(model),
    )

    target, words = prompts["target"]
    if plain := editor.end_prompt(settings).strip():
        target = substitute_rows(clip, target, words, plain)

    def make_control(*_: object) -> Control:
        with name_node(editor.title):
            return editor.make_control(settings, inputs)

    make_control()  # refuses before the image is encoded
    patched = add_control(model, f"ale_edit.{editor.name}", make_control, editor.title)
    texts: dict[BranchText, Conditioning] = {
        "source": prompts["source"][0],
        "target": target,
        "empty": encode_text(clip, ""),
    }
    plan = editor.plan(settings)
    text = "" if plan.prompt == "empty" else prompts[plan.prompt][1].text
    if inversion is not None:
        with name_node(editor.title):
            require_same_prompt(inversion, text)
            require_same_schedule(inversion, plan.schedule)
        plan = replace(plan, start=inversion.method)
    if negative is None:
        negative = encode_text(clip, editor.negative)
    if plan.start == "negative-prompt":
        negative = texts[plan.prompt]

    def branch(own: BranchPlan) -> Branch:
        guidance = getattr(settings, own.guidance)
        is_known = own.name == SOURCE.name and plan.start in REPLAYED
        return Branch(own.name, texts[own.text], 1.0 if is_known else guidance)

    branches = [branch(own) for own in editor.branches(settings)]
    guider = BranchGuider(patched, branches, negative, reuses_source=reuses_source)
    guidance = getattr(settings, "source_guidance", 1.0)
    if inversion is not None and inversion.null_texts is not None:
        advise_guidance(inversion, guidance, editor.title)
    return OpenEdit(guider, model, plan, texts, text, negative, guidance, inversion)


def advise_guidance(inversion: Inversion, guidance: float, node: str) -> None:
    """Gives a notice where null texts were found at another guidance than the source runs at."""
    if inversion.method == "null-text" and abs(inversion.guidance - guidance) > 1e-6:
        tell(
            f"{node}: the inversion's null texts were found at guidance {inversion.guidance:g}, "
            f"but source_guidance is {guidance:g}; the source will not be followed well. Set both "
            "to the same values."
        )


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
    """Raises ValueError for a VAE whose picture is not the encoded one's, or none."""
    size, made, most = image.shape[1:3], edited.shape[1:3], pixels_per_cell(model)
    if not all(0 <= whole - part < most for whole, part in zip(size, made, strict=True)):
        raise ValueError(
            f"{node}: the vae input makes a picture of {made[0]}x{made[1]} (height x width) of one "
            f"of {size[0]}x{size[1]}. Connect the VAE of the same checkpoint."
        )
    if not bool(edited.isfinite().all()):
        raise ValueError(
            f"{node}: the vae input makes a picture of numbers that are not finite. Use a VAE in "
            "fp32 (--fp32-vae): one in fp16 makes such numbers of some pictures."
        )
