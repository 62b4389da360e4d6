"""One whole edit, by the pack inside ComfyUI and by the oracle on diffusers, step by step.

Run it for the figures: `python dev.py _run ale_edit.tests.oracle.whole_edit` (COMFYUI_PATH set).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ale_edit.tests.families import family_model, pooled
from ale_edit.tests.tiny import box_mask, randn

from . import ale_diffusers as oracle
from .ale_diffusers import Network, Settings, Step
from .bridge import comfy_clip, comfy_model, diffusers_unet
from .bridge import transformers_text_encoder as twin_text_encoder

SEED = 7
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels


@dataclass(frozen=True)
class Scene:
    """pairs and boxes: K objects. size: latent cells."""

    pairs: tuple[tuple[str, str], ...]
    boxes: tuple[Box, ...]
    size: tuple[int, int]
    batch: int = 2

    @property
    def masks(self) -> list[Tensor]:
        """K of (8h, 8w)."""
        height, width = (8 * n for n in self.size)
        return [
            box_mask(height, width, top=t, left=left, bottom=b, right=r)
            for t, left, b, r in self.boxes
        ]

    @property
    def latents(self) -> Tensor:
        """(B, 4, h, w), scaled as the UNet sees them."""
        return randn(self.batch, 4, *self.size, seed=11)

    def hidden(self, item: int) -> tuple[Tensor, Tensor]:
        """For inpainting UNets: (1, h, w), 1 on the lower part of image `item`, and (4, h, w), the
        scaled latent of the image with that part hidden."""
        mask = torch.zeros(1, *self.size)
        mask[:, self.size[0] // 2 - item :] = 1
        return mask, randn(4, *self.size, seed=13 + item)

    def inpainting(self, pack: Twins) -> dict[str, Tensor]:
        """What InpaintModelConditioning adds to a conditioning."""
        if not pack.is_inpainting:
            return {}
        masks, latents = zip(*(self.hidden(j) for j in range(self.batch)), strict=True)
        pixels = torch.cat(masks).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        latent = torch.stack(latents) / pack.latent_scale
        return {"concat_mask": pixels[:, None], "concat_latent_image": latent}


WOLF = ("wolf", "brown-colored goat")
MOON = ("yellow moon", "soccer ball")
CUP = ("cup", "small bottle made of glass")
# Wolf and moon overlap once dilated. The cup is so small that it vanishes on the coarsest grid, and
# with nearest sampling on the finer one too; in front of the wolf it takes its cell from it there.
# The odd latent cannot be halved evenly; the small scene serves settings and planted mistakes.
SCENES = {
    "two objects": Scene((WOLF, MOON), ((16, 4, 62, 44), (68, 10, 118, 60)), (16, 8)),
    "three objects": Scene(
        (WOLF, CUP, MOON),
        ((8, 8, 48, 65), (23, 167, 26, 170), (16, 66, 58, 140)),
        (8, 24),
    ),
    "odd size": Scene((WOLF, MOON), ((20, 6, 70, 54), (10, 57, 60, 100)), (10, 14), batch=1),
    "small": Scene(
        (WOLF, CUP, MOON),
        ((8, 4, 42, 65), (19, 99, 28, 108), (30, 66, 64, 92)),
        (8, 16),
        batch=1,
    ),
    "one in front of another": Scene(
        (WOLF, CUP), ((4, 4, 62, 92), (40, 84, 45, 102)), (8, 16), batch=1
    ),
}


FAMILIES = (
    "SD 1.5 inpainting",
    "SD 2",
    "SD 2, v",
    "SDXL",
    "SDXL, LCM",
    "SDXL, v, zero SNR",
    "SDXL inpainting",
)
POOLED_SEEDS = (61, 62, 63)  # of the negative, the source and the target prompt


@dataclass(frozen=True)
class Twins:
    """The same networks twice."""

    model: Any
    clip: Any
    network: Network
    encoder: Any

    @property
    def latent_scale(self) -> float:
        return self.model.get_model_object("latent_format").scale_factor

    @property
    def is_inpainting(self) -> bool:
        return bool(self.model.model.concat_keys)


@cache
def twins(family: str | None = None) -> Twins:
    """Of a family of families.py, or of SD 1.5 with three levels."""
    clip = _clip()
    model = comfy_model() if family is None else family_model(family)
    config = model.model.model_config.unet_config
    network = Network(
        diffusers_unet(model),
        {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}[model.model.model_type.name],
        model.get_model_object("model_sampling").zsnr,
        torch.cat([pooled(seed) for seed in POOLED_SEEDS]) if config["adm_in_channels"] else None,
    )
    return Twins(model, clip, network, twin_text_encoder(clip))


@cache
def _clip() -> Any:
    return comfy_clip()


def run_pack(
    scene: Scene,
    settings: Settings,
    family: str | Twins | None = None,
    has_every_row: bool = False,
    **method: Any,
) -> list[Step]:
    """The edit by the pack's nodes' functions in ComfyUI; z and p (B, C, h, w) of every step.

    family: of families.py, or networks of the caller's. has_every_row: run the rows that guidance 1
    does not need, as on a GPU. method: what MethodSettings has in place of `settings`.
    """
    from ale_edit.host.attention import rgb_cam, self_injection
    from ale_edit.host.sampling import blending, branch_guider, schedule, virtual_inversion
    from ale_edit.host.text import embedding as text
    from ale_edit.prompts.edits import Edits, MethodSettings, make_edit
    from ale_edit.regions.regions import make_regions

    pack = family if isinstance(family, Twins) else twins(family)
    chosen = MethodSettings(**{"variant": settings.variant, "overlap": settings.overlap, **method})
    edits = Edits(tuple(make_edit(*pair) for pair in scene.pairs), settings=chosen)
    regions = make_regions(scene.masks, [source for source, _ in scene.pairs], settings.dilation)
    source, target = (text.embed_side(pack.clip, edits, side) for side in ("source", "target"))
    negative = [[pack.clip.encode_from_tokens(pack.clip.tokenize("")), {}]]
    for cond, seed in zip((negative, source, target), POOLED_SEEDS, strict=True):
        cond[0][1].update({"pooled_output": pooled(seed)} | scene.inpainting(pack))
    model = rgb_cam.apply_rgb_cam(pack.model, regions)
    model = self_injection.apply_self_injection(model, settings.schedule)
    model = blending.apply_background_blending(model, regions)
    options: dict[str, Any] = model.model_options
    options["disable_cfg1_optimization"] = has_every_row
    branches = (
        branch_guider.Branch("source", source, settings.source_guidance),
        branch_guider.Branch("target", target, settings.target_guidance),
    )
    guider = branch_guider.BranchGuider(model, branches, negative, reuses_source=False)

    sigmas = schedule.lcm_sigmas(pack.model, settings.steps, 1.0)
    sampler = virtual_inversion.virtual_inversion_sampler(settings.eta)
    latents = scene.latents / pack.latent_scale
    record: list[Step] = []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        z = x / (1 + sigmas[step] ** 2) ** 0.5
        record.append(Step(z[-scene.batch :].clone(), denoised[-scene.batch :].clone()))

    with torch.inference_mode():
        result = guider.sample(
            torch.zeros_like(latents), latents, sampler, sigmas, callback=callback, seed=SEED
        )
    record.append(Step(record[-1].z, result * pack.latent_scale))
    return record


@cache
def run_oracle(scene: Scene, settings: Settings, family: str | None = None) -> list[Step]:
    """The same by the oracle, image by image; item j has seed SEED + j."""
    return oracles_steps(scene, settings, twins(family))


def oracles_steps(scene: Scene, settings: Settings, both: Twins) -> list[Step]:
    masks = np.stack([mask.numpy() > 0.5 for mask in scene.masks])
    items = []
    for j, x0 in enumerate(scene.latents):
        concat = torch.cat(scene.hidden(j)) if both.is_inpainting else None
        network = replace(both.network, concat=concat)
        seed = SEED + j
        items.append(oracle.edit(network, both.encoder, scene.pairs, masks, x0, seed, settings))
    record = [
        Step(torch.stack([s.z for s in steps]), torch.stack([s.p for s in steps]))
        for steps in zip(*items, strict=True)
    ]
    return [*record, record[-1]]


def errors(ours: Sequence[Step], theirs: Sequence[Step], scene: Scene) -> list[float]:
    """Per step, and last for the result: the largest difference of z and p, in standard deviations
    of the source latent."""
    assert len(ours) == len(theirs)
    unit = float(scene.latents.std())
    pairs = zip(ours, theirs, strict=True)
    return [float(max((a.z - b.z).abs().max(), (a.p - b.p).abs().max())) / unit for a, b in pairs]


def worst_error(scene: Scene, settings: Settings, family: str | None = None, **pack: Any) -> float:
    """The largest error of any step of the pack's edit against the oracle's."""
    ours = run_pack(scene, settings, family, **pack)
    return max(errors(ours, run_oracle(scene, settings, family), scene))


def main(_argv: Sequence[str] = ()) -> int:
    for name, scene in SCENES.items():
        for variant in ("paper", "published code"):
            if variant == "published code" and scene.size[0] % 8:
                continue  # its union over four scales is defined for multiples of 8 only
            start = time.perf_counter()
            worst = worst_error(scene, Settings(variant=variant))
            seconds = time.perf_counter() - start
            print(f"{name}, {variant}: {worst:.1e} of the latent's std ({seconds:.1f} s)")
    for family in FAMILIES:
        worst = worst_error(SCENES["two objects"], Settings(), family)
        print(f"two objects, paper, {family}: {worst:.1e} of the latent's std")
    return 0
