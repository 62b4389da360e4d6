"""DINO's ViT-B/8 for the structure distance (scoring/structure.py), where its weights are on this
machine. Nothing is downloaded."""

from pathlib import Path

from ..scoring import structure
from .weight_files import read_tensors

PUBLISHED = (
    "dino_vitbase8_pretrain.pth of github.com/facebookresearch/dino, or model.safetensors of "
    "huggingface.co/facebook/dino-vitb8"
)


def load_dino(path: Path) -> structure.DinoKeys:
    """Read a file of DINO's weights; ValueError with the cure for any other."""
    try:
        network = structure.load_dino(read_tensors(path))
    except Exception as error:  # torch and safetensors raise half a dozen kinds
        raise ValueError(
            f"--dino {path} does not hold the weights of DINO's ViT-B/8 ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Give {PUBLISHED}."
        ) from error
    if network.sizes != structure.VIT_B8:
        raise ValueError(
            f"--dino {path} holds a ViT of (patch, width, blocks) {network.sizes}, the structure "
            f"distance is defined by {structure.VIT_B8}. Give {PUBLISHED}."
        )
    return network
