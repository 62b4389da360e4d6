"""A CLIP model of transformers from a folder on this machine, for TE and TI. Nothing is downloaded.

As torchmetrics' CLIPScore: the image at 8 bits through the model's own processor, the cosine of its
features and the text's.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCH = 16


@dataclass(frozen=True)
class ClipNetwork:
    """`cosines` is what scoring/leakage.py takes; `version` changes with the weights."""

    model: Any
    processor: Any
    version: str

    @classmethod
    def load(cls, folder: Path) -> "ClipNetwork":
        """Read a folder as transformers saves it; ValueError with the cure otherwise."""
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise ValueError(
                f"--clip needs transformers ({error}). Install it, or leave --clip out."
            ) from error
        try:
            loaded: Any = CLIPModel.from_pretrained(
                str(folder), local_files_only=True, output_loading_info=True
            )
            processor = CLIPProcessor.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers raises a dozen kinds for a foreign folder
            raise ValueError(
                f"--clip {folder} cannot be read as a CLIP model of transformers "
                f"({type(error).__name__}: {str(error).splitlines()[0]}). Give a folder such as "
                "one of openai/clip-vit-large-patch14, with its preprocessor and tokenizer."
            ) from error
        model, report = loaded
        if lost := sorted(report["missing_keys"]):
            raise ValueError(
                f"--clip {folder} has no weights {lost[0]} and {len(lost) - 1} more. Give a whole "
                "CLIP model."
            )
        return cls(model.eval().requires_grad_(False), processor, _version(folder))

    @torch.no_grad()
    def cosines(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (B, T) of images (B, H, W, 3) in [0, 1] and T texts, cut to CLIP's 77 tokens."""
        pixels = (images * 255).round().to(torch.uint8).permute(0, 3, 1, 2)
        seen = torch.cat([self._seen(part) for part in pixels.split(BATCH)])
        words = self.processor.tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=77
        )
        read = self.model.text_projection(self.model.text_model(**words).pooler_output)
        return _unit(seen) @ _unit(read).T

    def _seen(self, pixels: Tensor) -> Tensor:
        inputs = self.processor.image_processor(list(pixels), return_tensors="pt")
        return self.model.visual_projection(self.model.vision_model(**inputs).pooler_output)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _version(folder: Path) -> str:
    """Of the files in the folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]
