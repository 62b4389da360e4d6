"""The text of each object in its own place, for editors that have one prompt for all objects.

Object-Restricted Embeddings and RGB-CAM of ALE-Edit (prompts/ore.py, attention/rgb_cam.py) in the
places that such an editor gives to the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..attention.control import Call, Layer
from ..attention.rgb_cam import RegionText, layer_text, region_cross_attention, region_text
from ..prompts.ore import ObjectRestrictedEmbeddings
from ..regions.grid import CellGroup, cell_groups, coverage, find_nearest
from ..regions.regions import fit_masks
from .editor import setting

ObjectTexts: TypeAlias = Literal["whole prompt", "each its own"]


def object_texts_setting(tooltip: str) -> ObjectTexts:
    return setting("whole prompt", tooltip, choices=get_args(ObjectTexts), later=True)


class OwnTexts:
    """Cross-attention in which each place of the prompt reads the text of its own object.

    images: the masks (K, H, W) of the objects in each image, or in one for all. cell: pixels along
        each side of a latent cell.
    """

    def __init__(self, images: Sequence[Tensor], cell: int) -> None:
        self._images, self._cell = images, cell
        self._owned: dict[object, list[Tensor]] = {}
        self._groups: dict[object, tuple[Tensor, tuple[CellGroup, ...]]] = {}

    def attend(self, call: Call, places: Sequence[Tensor]) -> Tensor:
        """The target's output (B, L, C).

        places: (L,) bool of each image, or of one for all: those of the prompt. The others read the
            text of the source.
        """
        ore = call.texts["target"]
        assert isinstance(ore, ObjectRestrictedEmbeddings)
        q, keys = call.q["target"], call.k["target"][0]
        values = call.project_values(ore.values.to(q))  # (K+1, N, C)
        owned = self._cells_of_objects(call.layer, ore)
        is_one = len(places) == len(owned) == 1
        outputs = []
        for j, own in enumerate([q] if is_one else q.split(1)):
            place, objects = (each[j if len(each) > 1 else 0] for each in (places, owned))
            texts = [
                region_text(keys, values, ore.owner, group.cells, group.value, group.visible)
                for group in self._group_cells((call.layer.grid, j), place, objects, ore)
                if group.visible
            ]
            if not place.all():
                rest = (~place).nonzero().flatten().to(q.device)
                texts.append(RegionText(rest, *(t["source"][:1] for t in (call.k, call.v))))
            attend = call.attend_parts if len(texts) > 1 else call.attend
            outputs.append(region_cross_attention(own, layer_text(texts), attend))
        return torch.cat(outputs)

    def _group_cells(
        self, key: object, place: Tensor, objects: Tensor, ore: ObjectRestrictedEmbeddings
    ) -> tuple[CellGroup, ...]:
        """Those of a layer's grid in one image, until its places are others."""
        if key not in self._groups or self._groups[key][0] is not place:
            groups = cell_groups(objects & place, ore.settings.overlap == "last object")
            self._groups[key] = place, groups
        return self._groups[key][1]

    def _cells_of_objects(self, layer: Layer, ore: ObjectRestrictedEmbeddings) -> list[Tensor]:
        """(K, L) bool of each image, on a layer's grid."""
        key = layer.grid, layer.latent
        if key not in self._owned:
            height, width = (self._cell * n for n in layer.latent)
            self._owned[key] = [
                find_owners(fit_masks(masks, height, width, self._cell), layer.grid, ore)
                for masks in self._images
            ]
        return self._owned[key]


def find_owners(masks: Tensor, grid: tuple[int, int], ore: ObjectRestrictedEmbeddings) -> Tensor:
    """(K, L) bool: the cells of a grid that each mask (K, H, W) covers or is the nearest to."""
    covered = coverage(masks, *grid, ore.settings.variant)
    nearest = find_nearest(masks, *grid)
    objects = torch.arange(len(masks))[:, None, None]
    return (covered | ((nearest == objects) & ~covered.any(0))).flatten(1)
