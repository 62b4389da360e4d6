"""The installed networks of Preservation Score: found, loaded, and run on their device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...scoring import structure
from ...scoring.lpips_network import LpipsNetwork
from .. import model_files
from ..model_files import DINO, LPIPS, ModelKind
from ..segmenting.grounding import GroundedSAMPart, Network, Result, manage, run_with_room
from .inputs import PRESERVATION

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)

HEADS = "squeeze.pth"
CURE_OF_MEMORY = "Scale the pictures down, or start ComfyUI with --cpu."


class ScoreNetwork(GroundedSAMPart):
    """Named in ComfyUI's log when it is loaded."""


class LpipsModule(nn.Module):
    """LPIPS with its heads, so that they move together."""

    def __init__(self, network: LpipsNetwork) -> None:
        super().__init__()
        self.network, self.slices = network, network.slices
        for k, head in enumerate(network.heads):
            self.register_buffer(f"head{k}", head)

    @property
    def heads(self) -> list[Tensor]:
        return [getattr(self, f"head{k}") for k in range(len(self.network.heads))]


def run_on_device(
    patcher: ModelPatcher, need: int, run: Callable[[Network, torch.device], Result]
) -> Result:
    """What `run` makes of the loaded network and its device."""
    what = type(patcher.model.network).__name__
    return run_with_room(
        lambda net: run(net, next(net.parameters()).device),
        *(patcher, need, what, PRESERVATION, CURE_OF_MEMORY),
    )


def load_installed(kind: ModelKind) -> ModelPatcher | None:
    """The network of the first fitting file, under ComfyUI's memory management; None without one.
    It is read again for each report, so that nothing of it stays behind.

    Raises ValueError for a file that is damaged.
    """
    for path, _ in _weight_files(kind):
        network = (_load_lpips if kind is LPIPS else _load_dino)(path)
        if network is not None:
            return network
    return None


def stamp_weights() -> str:
    """Another one when a weight file of Preservation Score came, went or changed."""
    return str([stamp for kind in (LPIPS, DINO) for _, stamp in _weight_files(kind)])


def _weight_files(kind: ModelKind) -> list[tuple[Path, tuple]]:
    """Each fitting file or folder, and a stamp that changes with whatever is read for it."""
    names = [name for name in model_files.list_files(kind) if name != model_files.NOTHING]
    if kind is LPIPS:
        names = [name for name in names if Path(name).name.startswith("squeezenet1_1")]
    found = []
    for path in (model_files.path_of(kind, name) for name in names):
        files = [path] if path.is_file() else sorted(path.iterdir())
        heads = heads_file(path) if kind is LPIPS else None
        stats = [(str(f), f.stat()) for f in (*files, *([heads] if heads else []))]
        found.append((path, tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats)))
    return found


def _load_lpips(path: Path) -> ModelPatcher | None:
    heads = heads_file(path)
    if heads is None:
        return None
    weights = [model_files.read_weights(LPIPS, file) for file in (path, heads)]
    try:
        network = LpipsNetwork.build(*weights)
    except ValueError as error:
        raise ValueError(
            f"{PRESERVATION}: {path} and {heads} are not the weights of LPIPS: {error}. "
            f"Replace them with {LPIPS.published}."
        ) from error
    return manage(LpipsModule(network), ScoreNetwork)


def heads_file(backbone: Path) -> Path | None:
    """The linear heads beside the backbone, else those of an installed package that has them."""
    places = [backbone.with_name(HEADS)]
    for package, inner in (
        ("torchmetrics", ("functional", "image", "lpips_models")),
        ("lpips", ("weights", "v0.1")),
    ):
        spec = find_spec(package)
        if spec is not None and spec.origin:
            places.append(Path(spec.origin).parent.joinpath(*inner, HEADS))
    return next((place for place in places if place.is_file()), None)


def _load_dino(path: Path) -> ModelPatcher | None:
    """None for a ViT that is not the metric's."""
    weights = model_files.read_weights(DINO, path)
    try:
        network = structure.load_dino(weights)
    except ValueError as error:
        raise ValueError(
            f"{PRESERVATION}: {path} is not the ViT of DINO: {error}. Replace it with "
            f"{DINO.published}."
        ) from error
    if network.sizes != structure.VIT_B8:
        logger.warning("%s: %s is not DINO's ViT-B/8 and is left out.", PRESERVATION, path)
        return None
    return manage(network, ScoreNetwork)
