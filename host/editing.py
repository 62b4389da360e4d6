"""A whole edit by any editor in one call: its branches, its control, its sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import comfy.model_management
import latent_preview
import torch
from torch import Tensor

from ..attention.control import Control
from ..editors.editor import (
    NO_REGIONS,
    SOURCE,
    BranchPlan,
    BranchText,
    ControlInputs,
    EditBranch,
    Editor,
    Part,
    RegionCrossAttention,
    S,
    SamplingPlan,
    SelfAttentionInjection,
)
from ..inversion.stored import (
    OPTIMISED,
    REPLAYED,
    Inversion,
    InversionMethod,
    require_same_prompt,
    require_same_schedule,
)
from ..prompts.alignment import EncodedPrompt, align
from ..prompts.edits import Edits, Side, keep_targets
from ..regions.paste import restore_size
from ..regions.regions import Regions, size_of
from .abilities import require_abilities
from .attention.adapter import add_control
from .attention.rgb_cam import apply_rgb_cam
from .attention.self_injection import apply_self_injection
from .attention.unet import require_cross_attention, self_attention_layers
from .comfy_types import Conditioning, RunCallback
from .edit_checks import (
    advise_guidance,
    advise_negative,
    require_decoded,
    require_method,
    require_one_text,
    require_size,
)
from .inverting.dynamic_words import WordLearner
from .inverting.methods import invert_by
from .inverting.sampler import inversion_sampler, noise_sampler
from .messages import name_node, tell
from .regions import read_regions, require_same_objects
from .sampling.blending import apply_background_blending
from .sampling.branch_guider import BranchGuider, Evaluation
from .sampling.branch_inputs import Branch
from .sampling.branch_sampler import BranchSampler
from .sampling.latents import pixels_per_cell
from .sampling.schedule import sigmas_of
from .sampling.virtual_inversion import virtual_inversion_sampler
from .segmenting.disagreement import find_place
from .text.conditioning import carry_embeddings
from .text.directions import move_text
from .text.embedding import (
    embed_side,
    encode_prompt,
    encode_text,
    encode_whole,
    read_word,
    tell_unknown_words,
    tokenize_prompt,
)
from .text.end_tokens import substitute_rows

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider
    from comfy.sd import CLIP, VAE


BOTH_SIDES: tuple[Side, ...] = ("source", "target")


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
    masks: Mapping[str, Tensor] | None = None,
    negative: Conditioning | None = None,
    reuses_source: bool = True,
    inversion: Inversion | None = None,
    keep_inversion: Callable[[Inversion], object] = lambda inversion: None,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3 or 4) in [0, 1]: (B, H, W, 3), at exactly the same size.

    regions: where the editor acts, of each image or one for all; if None, the masks of the edits
        (Editor.grow_regions), those of `masks`, or the place that it finds (Editor.find_mask).
        masks: of the editor's mask inputs (Editor.masks) that are connected, one or one for each
        image. negative: CONDITIONING that all branches share; the editor's own prompt if None.
        reuses_source: take the source branch from the last edit where it is the same. inversion: of
        this image, in place of the one that the editor makes. keep_inversion: is given the one that
        the edit started from, if any.
    """
    require_abilities(edits, editor.title, editor.abilities)
    require_size(image, model, editor.title)
    if regions is None:
        regions = read_regions(editor, settings, edits, image, masks or {})
    if editor.grow_regions is not None and regions is not None:
        require_same_objects(edits, regions, image, pixels_per_cell(model), editor.title)
    latent: Tensor | None = None
    if editor.find_mask is not None and regions is None:
        sigmas_of(model, editor.plan(settings).schedule)  # refuses before the mask is looked for
        require_one_text(encode_text(clip, ""), model, editor.title)
        latent = encode_image(vae, image)
        size, how = (image.shape[1], image.shape[2]), editor.find_mask(settings)
        regions = find_place(model, clip, edits, latent, how, seed, size)
    edit = open_edit(
        editor, settings, model, clip, edits,
        regions=regions, negative=negative, reuses_source=reuses_source, inversion=inversion,
        keep_inversion=keep_inversion, size=(image.shape[1], image.shape[2]),
    )  # fmt: skip
    edited = edit.edit_latent(vae, encode_image(vae, image) if latent is None else latent, seed)
    require_decoded(edited, image, model, editor.title)
    return restore_size(edited, image, pixels_per_cell(model))


def encode_image(vae: VAE, image: Tensor) -> Tensor:
    """The latents of images (B, H, W, 1, 3 or 4)."""
    return cast(Tensor, vae.encode(image[..., :3].expand(-1, -1, -1, 3)))


@dataclass(frozen=True, eq=False)
class OpenEdit:
    """An edit that is ready to sample.

    prompts: the CONDITIONING of each text. text: that the image is inverted with. negative,
        guidance: of the source branch, which null-text and edit-friendly inversion need; of the
        target where null texts have no effect on the source. inversion: that it starts from, where
        there is one already. learner: of the words of the editor's own inversion.
    """

    guider: BranchGuider
    model: ModelPatcher
    plan: SamplingPlan
    prompts: Mapping[BranchText, Conditioning]
    text: str
    negative: Conditioning
    guidance: float
    inversion: Inversion | None = None
    learner: WordLearner | None = None
    keep_inversion: Callable[[Inversion], object] = lambda inversion: None

    def edit_latent(self, vae: VAE, latent: Tensor, seed: int) -> Tensor:
        """Sample and decode: (B, H, W, 3)."""
        samples = self.sample(latent, seed)
        return vae.decode(samples.to(comfy.model_management.intermediate_device()))

    def sample(self, latent: Tensor, seed: int, callback: RunCallback | None = None) -> Tensor:
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
        if self.inversion is None and plan.start == "virtual":
            return virtual_inversion_sampler(plan.eta)
        if self.inversion is None and plan.start == "noise":
            return noise_sampler()
        inversion = self.inversion or self.invert(latent, seed)
        self.keep_inversion(inversion)
        texts = None
        if self.learner is not None and inversion.word_vectors is not None:
            texts = self.learner.find_texts(inversion)
        return inversion_sampler(inversion, texts)

    def invert(self, latent: Tensor, seed: int) -> Inversion:
        """What the edit starts from, where the editor makes an inversion."""
        plan, conditioning = self.plan, self.prompts[self.plan.prompt]
        if self.learner is not None:
            return self.learner.invert(
                conditioning, latent, plan.schedule, self.text,
                negative=self.negative, guidance=self.guidance, convention=plan.convention,
            )  # fmt: skip
        return invert_by(
            cast("InversionMethod", plan.start), self.model, conditioning, latent, plan.schedule,
            self.text, negative=self.negative, guidance=self.guidance, convention=plan.convention,
            seed=seed,
        )  # fmt: skip


def open_edit(
    editor: Editor[S],
    settings: S,
    model: ModelPatcher,
    clip: CLIP,
    edits: Edits,
    *,
    regions: Regions | None = None,
    negative: Conditioning | None = None,
    evaluation: Evaluation = "together",
    reuses_source: bool = True,
    inversion: Inversion | None = None,
    keep_inversion: Callable[[Inversion], object] = lambda inversion: None,
    size: tuple[int, int] | None = None,
) -> OpenEdit:
    """The guider of an editor's branches under its control, and its sampling; see `edit_image`.

    evaluation: how the branches run, see BranchGuider. size: (height, width) of the image, if the
        regions have another.
    """
    require_cross_attention(model, editor.title)
    patched = model
    for part in editor.parts(settings):
        patched = _apply_part(patched, part, regions, editor.title)
    texts, prompts = _encode_sides(editor, settings, clip, edits)
    optimises, learner = False, None
    for conditioning in texts.values():
        require_one_text(conditioning, model, editor.title)
    if editor.find_sentences is not None:
        with name_node(editor.title):
            sentences = editor.find_sentences(settings, edits.pairs)
        texts["target"] = move_text(clip, texts["source"], sentences)
    tell_unknown_words(clip, edits)
    branches = _encode_edits(clip, edits) if editor.has_edit_branches else {}
    for _, conditioning in branches.values():
        require_one_text(conditioning, model, editor.title)
    if prompts:
        target, words = texts["target"], prompts["target"]
        if plain := editor.end_prompt(settings).strip():
            texts["target"] = substitute_rows(clip, target, words, plain)
        inputs = _control_inputs(
            editor, model, clip, edits, prompts, regions,
            tuple(branch for branch, _ in branches.values()),
            has_own_negative=editor.negative is not None or negative is not None,
            size=size,
        )  # fmt: skip
        patched, optimises = _add_own_control(editor, settings, patched, inputs)
        if editor.learn is not None:
            with name_node(editor.title):
                learned = editor.learn(settings, inputs)
            source, target = (tokenize_prompt(clip, edits, side) for side in BOTH_SIDES)
            mapper = align(inputs.source.tokens, inputs.target.tokens).mapper
            learner = WordLearner(model, clip, source, target, mapper, learned, editor.title)
    texts["empty"] = encode_text(clip, "")
    plan = editor.plan(settings)
    text = "" if plan.prompt == "empty" else edits.prompt(plan.prompt)
    if inversion is not None:
        with name_node(editor.title):
            require_method(inversion, settings)
            require_same_prompt(inversion, text)
            require_same_schedule(inversion, plan.schedule)
        plan = replace(plan, start=inversion.method)
    guidance = getattr(settings, "source_guidance", 1.0)
    if plan.start in OPTIMISED and math.isclose(guidance, 1.0):
        # no negative text acts on the source, so the texts serve the target
        guidance = getattr(settings, "target_guidance", 1.0)
    if negative is not None:
        advise_negative(plan.start, guidance, editor.title)
    elif editor.negative is None:
        negative = texts["source"]
    else:
        negative = encode_text(clip, editor.negative)
    if plan.start == "negative-prompt":
        negative = texts[plan.prompt]

    def branch(own: BranchPlan) -> Branch:
        guidance = getattr(settings, own.guidance)
        is_known = own.name == SOURCE.name and plan.start in REPLAYED
        return Branch(own.name, texts[own.text], 1.0 if is_known else guidance)

    texts["negative"] = negative
    named = [branch(own) for own in editor.branches(settings)]
    named += [Branch(name, conditioning) for name, (_, conditioning) in branches.items()]
    guider = BranchGuider(
        patched, named, negative, evaluation=evaluation, reuses_source=reuses_source,
        optimises=optimises,
    )  # fmt: skip
    if inversion is not None and inversion.null_texts is not None:
        advise_guidance(inversion, guidance, editor.title)
    return OpenEdit(
        guider, model, plan, texts, text, negative, guidance, inversion, learner, keep_inversion
    )


def _apply_part(
    model: ModelPatcher, part: Part, regions: Regions | None, node: str
) -> ModelPatcher:
    """A clone of a MODEL under a control that is a node of its own, too."""
    if isinstance(part, SelfAttentionInjection):
        return apply_self_injection(model, part.share)
    if regions is None:
        raise ValueError(f"{node}: {NO_REGIONS}")
    if isinstance(part, RegionCrossAttention):
        return apply_rgb_cam(model, regions)
    return apply_background_blending(model, regions)


def _encode_sides(
    editor: Editor[S], settings: S, clip: CLIP, edits: Edits
) -> tuple[dict[BranchText, Conditioning], dict[Side, EncodedPrompt]]:
    """The CONDITIONING of source and target; and the rows of both where they are plain prompts."""
    texts: dict[BranchText, Conditioning] = {}
    prompts: dict[Side, EncodedPrompt] = {}
    for side in BOTH_SIDES:
        if editor.texts == "objects":
            texts[side] = embed_side(clip, edits, side)
        else:
            texts[side], prompts[side] = encode_prompt(clip, edits, side)
    if editor.has_object_texts(settings) and (drawn := keep_targets(edits)).items:
        texts["target"] = carry_embeddings(texts["target"], embed_side(clip, drawn, "target"))
    return texts, prompts


def _encode_edits(clip: CLIP, edits: Edits) -> dict[str, tuple[EditBranch, Conditioning]]:
    """The branch of each edit under its name, and its CONDITIONING."""
    found: dict[str, tuple[EditBranch, Conditioning]] = {}
    masked = 0
    for k, edit in enumerate(edits.items):
        conditioning, phrase = encode_whole(clip, edit.target, "the target phrase of the edits")
        name = f"edit {k + 1}"
        region = None if edit.mask is None else masked
        masked += edit.mask is not None
        found[name] = EditBranch(name, phrase, region), conditioning
    return found


def _control_inputs(
    editor: Editor[S],
    model: ModelPatcher,
    clip: CLIP,
    edits: Edits,
    prompts: Mapping[Side, EncodedPrompt],
    regions: Regions | None,
    branches: tuple[EditBranch, ...],
    has_own_negative: bool,
    size: tuple[int, int] | None,
) -> ControlInputs:
    cell = pixels_per_cell(model)
    if size is None:
        size = (0, 0) if regions is None else size_of(regions)
    return ControlInputs(
        source=prompts["source"],
        target=prompts["target"],
        read_word=lambda word: read_word(clip, word),
        self_layers=len(self_attention_layers(model.get_model_object("diffusion_model"))),
        variant=edits.settings.variant,
        regions=regions,
        cell=cell,
        latent=(size[0] // cell, size[1] // cell),
        phrases=edits.pairs,
        edits=branches,
        has_own_negative=has_own_negative,
    )


def _add_own_control(
    editor: Editor[S], settings: S, model: ModelPatcher, inputs: ControlInputs
) -> tuple[ModelPatcher, bool]:
    """A clone of a MODEL under the control that the editor makes, if it makes one, and whether that
    control optimises latents."""
    advising = replace(inputs, advise=lambda sentence: tell(f"{editor.title}: {sentence}"))

    def make_control(inputs: ControlInputs) -> Control | None:
        with name_node(editor.title):
            return editor.make_control(settings, inputs)

    first = make_control(advising)  # refuses before the image is encoded
    if first is None:
        return model, False

    def open_run(guider: CFGGuider, _: Tensor) -> Control | None:
        return make_control(replace(inputs, seed=cast(BranchGuider, guider).seed))

    patched = add_control(model, f"ale_edit.{editor.name}", open_run, editor.title)
    return patched, first.has_optimisation()
