"""A CLIP from a folder on this machine, as Hugging Face has it (scoring/clip.py). Nothing is
downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..scoring import clip
from .weight_files import read_tensors, version_of

BATCH = 16


@dataclass(frozen=True)
class ClipNetwork:
    """`cosines` is what scoring/leakage.py takes; `version` changes with the files."""

    model: Any
    tokenizer: Any
    version: str

    @classmethod
    def load(cls, folder: Path) -> "ClipNetwork":
        """Read a folder with config.json, weights and the words; ValueError with the cure
        otherwise."""
        try:
            from transformers import CLIPTokenizer
        except ImportError as error:
            raise ValueError(
                f"--clip needs transformers ({error}). Install it, or leave --clip out."
            ) from error
        try:
            model = clip.load_clip(str(folder), _weights(folder))
            tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            if len(tokenizer) != clip.VOCABULARY:  # what it is without its files
                raise ValueError("it has no vocab.json and merges.txt, or others than CLIP's")
        except Exception as error:  # a foreign folder raises a dozen kinds
            raise ValueError(
                f"--clip {folder} cannot be read as a CLIP model of transformers "
                f"({type(error).__name__}: {str(error).splitlines()[0]}). Give a folder such as "
                "one of openai/clip-vit-large-patch14, with its weights and its tokenizer."
            ) from error
        return cls(model, tokenizer, version_of(p for p in folder.iterdir() if p.is_file()))

    def cosines(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (B, T) of images (B, H, W, 3) in [0, 1] and T texts, cut to CLIP's 77 tokens."""
        parts = clip.crop(images, clip.side_of(self.model)).split(BATCH)
        seen = torch.cat([clip.image_vectors(self.model, part) for part in parts])
        tokens = [clip.cut_short(self.tokenizer(text)["input_ids"]) for text in texts]
        return clip.cosines(seen, clip.text_vectors(self.model, tokens))


def _weights(folder: Path) -> dict[str, Tensor]:
    """Of all weight files of a folder; several where it is split."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError("it has no model.safetensors")
    return {name: tensor for file in files for name, tensor in read_tensors(file).items()}
