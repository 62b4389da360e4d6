"""ALE-Edit: attribute-leakage-free editing of several objects at once.

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing, ICCV 2025
(arXiv 2412.04715). Object-Restricted Embeddings (prompts/ore.py) + RGB-CAM (attention/rgb_cam.py) +
Background Blending (inversion/blending.py), with self-attention injection, over the virtual
inversion of InfEdit (inversion/update_rule.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.control import Call, Control, Layer, Route, Step
from ..attention.rgb_cam import (
    JoinedText,
    LayerText,
    RegionText,
    attend_joined,
    join_text,
    layer_text,
    region_cross_attention,
    region_text,
)
from ..inversion.blending import blend
from ..prompts.edits import Variant
from ..prompts.ore import ObjectRestrictedEmbeddings
from ..regions.grid import CellGroup, cell_groups, coverage, latent_background
from ..regions.regions import ImageRegions, Regions, fit_background, fit_masks
from .editor import (
    BackgroundBlending,
    Editor,
    RegionCrossAttention,
    SelfAttentionInjection,
    Settings,
    guidance_setting,
    plan_virtual_inversion,
    setting,
    share_setting,
    steps_setting,
    strength_setting,
    target_guidance_setting,
)

JOINED_POSITIONS = 64
"""Where calls are slow to start, layers of at most so many cells take one masked call
(docs/performance.md)."""
SCHEDULES: dict[str, float] = {
    "color": 1.0,
    "material": 0.6,
    "object": 0.5,
    "color and object": 0.5,
    "object and material": 0.5,
}
"""Share of the steps with self-attention injection, by edit type (appendix D)."""


@dataclass(frozen=True)
class ALESettings(Settings):
    """Numbers of appendix D; the guidance scales are the published code's, the paper does not name
    them. ALE Edit and the single nodes make their inputs of these fields."""

    steps: int = steps_setting("Number of LCM steps, 1 to 50. The paper uses 15.")
    strength: float = strength_setting()
    source_guidance: float = guidance_setting(
        1.0,
        "CFG scale of the source branch. 1 turns guidance off, which preserves the image best.",
    )
    target_guidance: float = target_guidance_setting()
    schedule: float = share_setting(
        SCHEDULES["object"],
        "Only for edit_type custom: the share of the steps that keep the source's structure. 0: "
        "none, 1: all.",
    )
    dilation: float = setting(
        0.01,
        "How far to grow each mask, as a fraction of the image height, so that it includes the "
        "object's edges. Paper: 0.01 (7 pixels at 768), published code: 0.04. 0 leaves the masks "
        "unchanged.",
        min=0.0,
        max=0.25,
        step=0.005,
    )
    eta: float = share_setting(
        1.0,
        "Share of fresh noise in each step. 1 (default) is DDCM; lower values reuse the predicted "
        "noise.",
    )


def is_injection_step(step: int, steps: int, schedule: float, variant: Variant) -> bool:
    """Whether step `step` (0-based) of `steps` injects self-attention under a schedule in [0, 1].

    "paper": the first `schedule` share of the steps (figure 11). "published code": (step + 1) /
    steps < schedule, so that even a schedule of 1 leaves out the last step.
    """
    if variant == "paper":
        return step / steps < schedule
    return (step + 1) / steps < schedule


def is_blending_step(step: int, steps: int, variant: Variant) -> bool:
    """Whether step `step` (0-based) of `steps` blends the background.

    "paper": every step (Eq. 4), the last included, so that the background of the result is the
    source latent itself.
    "published code": not the first, and not the prediction that the last step returns.
    """
    return variant == "paper" or 0 < step < steps - 1


def background_weights(
    regions: ImageRegions, height: int, width: int, variant: Variant, is_soft: bool, cell: int
) -> Tensor:
    """(height, width) on the latent grid: bool, or in [0, 1] with a soft edge; 1 is background.

    cell: pixels along each side of a latent cell.
    """
    size = cell * height, cell * width
    if is_soft:
        soft = fit_background(regions.soft_background, *size, cell)[None]
        return soft.unflatten(2, (width, cell)).unflatten(1, (height, cell)).mean(dim=(2, 4))[0]
    return latent_background(fit_masks(regions.dilated, *size, cell), height, width, variant)


class RegionControl(Control):
    """RGB-CAM: the target's cross-attention follows the regions (section 3.2, Algorithm 2).

    masks: (K, H, W), dilated, of the pixels that the latent stands for; one for all images of a
        batch, or each image's own. strength: 0 is plain attention, 1 RGB-CAM. background: (N, D), a
        text of its own for the cells of no region, or None.
    """

    reads = {"target": frozenset()}
    kinds = frozenset({"cross"})
    replaces_text = True

    def __init__(
        self, masks: Sequence[Tensor], strength: float = 1.0, background: Tensor | None = None
    ):
        self._masks = masks
        self._strength = strength
        self._background = background
        self._groups: dict[tuple[int, int, int], tuple[CellGroup, ...]] = {}
        self._texts: dict[tuple[object, ...], LayerText | JoinedText] = {}

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        ore = call.texts.get("target")
        if not isinstance(ore, ObjectRestrictedEmbeddings):
            return {}
        q = call.q["target"]
        if len(self._masks) == 1:
            out = self._attend(q, ore, call, 0)
        else:
            each = enumerate(q.split(1))
            out = torch.cat([self._attend(row, ore, call, image) for image, row in each])
        if self._strength != 1.0:
            out = torch.lerp(call.plain("target"), out, self._strength)
        return {"target": out}

    def _attend(self, q: Tensor, ore: ObjectRestrictedEmbeddings, call: Call, image: int) -> Tensor:
        text = self._layer_text(q, ore, call, image)
        if isinstance(text, JoinedText):
            return attend_joined(q, text, call.attend_parts)
        # a single region saves nothing, and so stays rounded as plain attention is
        is_parted = len(text.regions) > 1
        return region_cross_attention(q, text, call.attend_parts if is_parted else call.attend)

    def _layer_text(
        self, q: Tensor, ore: ObjectRestrictedEmbeddings, call: Call, image: int
    ) -> LayerText | JoinedText:
        """Keys and values of every group of cells of one layer, projected once a run."""
        height, width = call.layer.grid
        cache_key = (call.layer.block, id(ore), height, width, image, q.device, q.dtype)
        text = self._texts.get(cache_key)
        if text is None:
            keys = call.project_keys(ore.keys.to(q))  # (N, C)
            values = call.project_values(ore.values.to(q))  # (K+1, N, C)
            groups = self._cell_groups(ore, height, width, image)
            text = layer_text(
                [
                    region_text(keys, values, ore.owner, g.cells, g.value, g.visible)
                    for g in groups
                    if g.visible or self._background is None
                ]
                + self._texts_outside(q, call, groups)
            )
            is_parted = len(text.regions) > 1
            if height * width <= JOINED_POSITIONS and call.is_slow_to_start and is_parted:
                text = join_text(text)
            if call.keeps_projections:
                self._texts[cache_key] = text
        return text

    def _texts_outside(
        self, q: Tensor, call: Call, groups: tuple[CellGroup, ...]
    ) -> list[RegionText]:
        """The cells of no region, with the keys and values of the background's own text."""
        if self._background is None:
            return []
        text = self._background.to(q)[None]
        keys, values = call.project_keys(text), call.project_values(text)  # (1, N, C)
        return [RegionText(g.cells.to(q.device), keys, values) for g in groups if not g.visible]

    def _cell_groups(
        self, ore: ObjectRestrictedEmbeddings, height: int, width: int, image: int
    ) -> tuple[CellGroup, ...]:
        if (height, width, image) not in self._groups:
            covered = coverage(self._masks[image], height, width, ore.settings.variant)
            groups = cell_groups(covered, ore.settings.overlap == "last object")
            self._groups[height, width, image] = groups
        return self._groups[height, width, image]


class BlendingControl(Control):
    """Background Blending: outside the regions the target's prediction is the source's (section
    3.3, Eq. 4).

    cell: pixels along each side of a latent cell. is_soft: mix both along the edge, over the
    feather of the regions.
    """

    def __init__(self, regions: Regions, variant: Variant, cell: int, is_soft: bool = False):
        self._cell = cell
        self._regions = regions
        self._variant: Variant = variant
        self._is_soft = is_soft
        self._weights: dict[tuple[object, ...], Tensor] = {}

    def blend(self, denoised: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        if not is_blending_step(step.number, step.count, self._variant):
            return denoised
        source, target = denoised["source"], denoised["target"]
        return {**denoised, "target": blend(source, target, self._background(target))}

    def _background(self, latent: Tensor) -> Tensor:
        """(1 or B, 1, h, w), with the latent's further dimensions: 1 where the source stays."""
        key = (latent.ndim, *latent.shape[-2:], latent.device)
        if key not in self._weights:
            height, width = latent.shape[-2:]
            each = [
                background_weights(one, height, width, self._variant, self._is_soft, self._cell)
                for one in self._regions.images
            ]
            weights = torch.stack(each).to(latent.device)
            self._weights[key] = weights.reshape(len(each), *[1] * (latent.ndim - 3), height, width)
        return self._weights[key]


@dataclass(frozen=True)
class InjectionControl(Control):
    """Self-attention injection: during the first `schedule` share of the steps, in [0, 1], the
    target attends with the source's queries and keys (appendix D)."""

    schedule: float
    variant: Variant = "paper"
    reads = {"target": frozenset({"source"})}

    def is_active(self, step: Step) -> bool:
        return is_injection_step(step.number, step.count, self.schedule, self.variant)

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        return {"target": Route("source", "source", "target")} if self.is_active(step) else {}


EDITOR = Editor(
    name="ale",
    title="ALE Edit",
    node_id="ALEEdit",
    description=(
        "Edits several objects of an image at once, each with its own attributes, and keeps the "
        "background. The complete ALE-Edit method in one node, with the paper's defaults (arXiv "
        "2412.04715)."
    ),
    settings=ALESettings,
    parts=lambda settings: (
        RegionCrossAttention(),
        SelfAttentionInjection(settings.schedule),
        BackgroundBlending(),
    ),
    plan=lambda settings: plan_virtual_inversion(settings, settings.eta),
    texts="objects",
    grow_regions=lambda settings: settings.dilation,
)
