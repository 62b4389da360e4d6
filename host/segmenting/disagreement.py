"""DiffEdit's masks by a MODEL: where its predictions under two prompts disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import latent_preview
import torch
from torch import Tensor

from ...editors.diffedit import MaskSettings, add_disagreement, clamp_disagreement, cut_mask
from ...inversion.update_rule import SOURCE, ItemNoise, noise_image
from ...prompts.edits import Edits, edit_alone
from ...regions.grid import paint_cells
from ...regions.regions import Regions, RegionsBatch, make_regions
from ..abilities import require_visible
from ..comfy_types import Conditioning, Options, StepCallback
from ..compare import is_same
from ..messages import NodeName, name_node, speak_as
from ..sampling.branch_guider import Branch, BranchGuider
from ..sampling.branch_sampler import BranchSampler, SamplerModel, predict_branches
from ..sampling.latents import pixels_per_cell
from ..sampling.noise_levels import level_at
from ..sampling.schedule import sigmas_of
from ..text.embedding import encode_prompt, encode_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

NODE = NodeName("DiffEdit Mask")
CURE_OF_SAME = "Write into the target what is to change."
REGION = "the edit"


class ComparingSampler(BranchSampler):
    """A SAMPLER that compares the predictions of all branches for the image under some noises, and
    keeps their disagreement (B, K, h, w) with the source."""

    def __init__(self, maps: int) -> None:
        super().__init__(self._compare)
        self._maps = maps
        self.disagreement = torch.empty(0)

    def _compare(
        self,
        model: SamplerModel,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Options | None = None,
        callback: StepCallback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """The image itself, (B, C, h, w). Item j of a batch at a seed is the single run at seed +
        j. x is not used."""
        options = {**(extra_args or {})}
        options.pop("denoise_mask", None)
        guider = model.inner_model
        names: tuple[str, ...] = guider.branch_names  # pyright: ignore[reportAttributeAccessIssue]
        level = level_at(guider.inner_model.model_sampling, float(sigmas[0]))
        image = model.latent_image.to(x)
        noise = ItemNoise(options.get("seed") or 0, image.shape)
        totals: dict[str, Tensor | float] = dict.fromkeys(names[1:], 0.0)
        for number in range(self._maps):
            noised = noise_image(image, noise.draw(image), level)
            predicted = predict_branches(model, dict.fromkeys(names, noised), sigmas[0], options)
            source = predicted.pop(SOURCE)
            for name, own in predicted.items():
                totals[name] = add_disagreement(totals[name], source, own)
            if callback is not None:
                callback({"x": noised, "i": number, "sigma": sigmas[0], "denoised": source})
        self.disagreement = torch.stack([torch.as_tensor(own) for own in totals.values()], 1)
        return image


def measure_disagreement(
    model: ModelPatcher,
    source: Conditioning,
    targets: Sequence[Conditioning],
    negative: Conditioning,
    latent: Tensor,
    settings: MaskSettings,
    seed: int,
) -> Tensor:
    """(B, K, h, w), where the predictions under the source and each of K targets disagree.

    latent: (B, C, h, w), as a VAE encodes the image. seed: of the noise; item j has seed + j.
    """
    branches = [Branch(SOURCE, source)]
    branches += [Branch(f"target {k + 1}", target) for k, target in enumerate(targets)]
    sampler = ComparingSampler(settings.maps)
    BranchGuider(model, branches, negative, reuses_source=False).sample(
        torch.zeros_like(latent),
        latent,
        sampler,
        torch.stack([sigmas_of(model, settings.schedule)[0], torch.zeros(())]),
        callback=latent_preview.prepare_callback(model, settings.maps),
        seed=seed,
    )
    return sampler.disagreement.cpu()


def compare_prompts(
    model: ModelPatcher,
    clip: CLIP,
    edits: Sequence[Edits],
    latent: Tensor,
    settings: MaskSettings,
    seed: int,
) -> Tensor:
    """The clamped disagreement (B, K, h, w), in [0, 1], of the source prompt and each of K target
    prompts. edits: with the same source prompt.

    Raises ValueError when a target prompt has no word, or means the same as the source prompt.
    """
    source, _ = encode_prompt(clip, edits[0], "source")
    targets = []
    for one in edits:
        target, words = encode_prompt(clip, one, "target")
        if not words.tokens.words:
            raise ValueError(
                f'{NODE}: the target prompt ("{words.text}") has no word. Write what the image is '
                "to show."
            )
        if is_same(source[0][0], target[0][0]):
            raise ValueError(f"{_describe_same(one)} {CURE_OF_SAME}")
        targets.append(target)
    nothing = encode_text(clip, "")
    found = measure_disagreement(model, source, targets, nothing, latent, settings, seed)
    shares = []
    for k, one in enumerate(edits):
        try:
            shares.append(clamp_disagreement(found[:, k], settings.clamp))
        except ValueError as error:
            raise ValueError(f"{_describe_same(one)} {CURE_OF_SAME}") from error
    return torch.stack(shares, 1)


def _describe_same(edits: Edits) -> str:
    return (
        f'{NODE}: the source prompt ("{edits.prompt("source")}") and the target prompt '
        f'("{edits.prompt("target")}") are the same to this model, so that no place differs.'
    )


def map_edits(
    model: ModelPatcher, clip: CLIP, edits: Edits, latent: Tensor, settings: MaskSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """The mask (B, K, h, w) bool of each edit, and the clamped disagreement in [0, 1] that it is
    cut from, on the latent's cells. An edit is compared while the others change nothing.

    Raises ValueError as `compare_prompts`, for an edit that adds an object, and when a mask is
    empty.
    """
    require_visible(edits.items, NODE)
    with name_node(NODE):
        alone = [edit_alone(edits, k) for k in range(len(edits.items))]
    with speak_as(NODE):
        shares = compare_prompts(model, clip, alone, latent, settings, seed)
    masks = []
    for k, edit in enumerate(edits.items):
        with name_node(f'{NODE}: "{edit.text}"', "Lower threshold or clamp."):
            masks.append(cut_mask(shares[:, k], settings.threshold))
    return torch.stack(masks, 1), shares


def find_place(
    model: ModelPatcher,
    clip: CLIP,
    edits: Edits,
    latent: Tensor,
    settings: MaskSettings,
    seed: int,
    size: tuple[int, int],
) -> Regions:
    """The region of each image in which its source and target prompt disagree. size: (height,
    width) of the images.

    Raises ValueError as `map_edits`.
    """
    shares = compare_prompts(model, clip, [edits], latent, settings, seed)[:, 0]
    with name_node(NODE, "Lower mask_threshold or mask_clamp."):
        masks = cut_mask(shares, settings.threshold)
    pixels = paint_cells(masks, size, pixels_per_cell(model))
    made = [make_regions([mask], (REGION,), 0.0) for mask in pixels]
    return made[0] if len(made) == 1 else RegionsBatch(tuple(made))
