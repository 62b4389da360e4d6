"""The files of detectors and segmenters in ComfyUI's model folders; nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

NOTHING = "(no file found: see this node's help)"
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class ModelKind:
    """One kind of model. folders: names of ComfyUI's model folders. model_types: those of the
    config.json of a folder in the form of Hugging Face. published: files, and where they are.
    folders_only: whether weight files outside such a folder are none of this kind."""

    node: str
    folders: tuple[str, ...]
    model_types: tuple[str, ...]
    published: str
    folders_only: bool = False


DETECTOR = ModelKind(
    "GroundingDINO Loader",
    ("grounding-dino",),
    ("grounding-dino",),
    "groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth, from the releases of "
    "github.com/IDEA-Research/GroundingDINO, or the folder of "
    "huggingface.co/IDEA-Research/grounding-dino-base",
)
SEGMENTER = ModelKind(
    "SAM Loader",
    ("sams", "sam2"),
    ("sam", "sam2", "sam2_video"),
    "sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth, from "
    "github.com/facebookresearch/segment-anything, or the folder of "
    "huggingface.co/facebook/sam2.1-hiera-large",
)
SIMILARITY = ModelKind(
    "CLIP Similarity Loader",
    ("text_encoders", "clip_vision"),
    ("clip",),
    "the folder of huggingface.co/openai/clip-vit-large-patch14 (config.json and "
    "model.safetensors)",
    folders_only=True,
)
LPIPS = ModelKind(
    "Preservation Score",
    ("lpips",),
    (),
    "squeezenet1_1-b8a52dc0.pth, from download.pytorch.org/models, and squeeze.pth, from "
    "github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1)",
)
DINO = ModelKind(
    "Preservation Score",
    ("dino",),
    ("vit",),
    "dino_vitbase8_pretrain.pth, from github.com/facebookresearch/dino, or the folder of "
    "huggingface.co/facebook/dino-vitb8",
)


def register(kind: ModelKind) -> None:
    """Makes the kind's folders known to ComfyUI, beside those of extra_model_paths.yaml."""
    for name in kind.folders:
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def list_files(kind: ModelKind) -> list[str]:
    """What the loader's list offers: weight files, and folders that hold a config.json; one entry
    that says so when there is nothing."""
    register(kind)
    names: list[str] = []
    for folder in kind.folders:
        files = [Path(name).as_posix() for name in folder_paths.get_filename_list(folder)]
        weights = [name for name in files if name.lower().endswith(WEIGHTS)]
        entries = {_folder_of(kind, name) or name for name in weights}
        names += sorted(
            name
            for name in entries
            if (
                _model_type(kind, name) in kind.model_types
                if name.endswith("/")
                else not kind.folders_only
            )
        )
    return list(dict.fromkeys(names)) or [NOTHING]


def _folder_of(kind: ModelKind, name: str) -> str | None:
    """The folder, with "/" at its end, of a weight file beside a config.json; None where there is
    none. (The config.json itself is not always listed: another pack may have made the list of
    weight files alone.)"""
    folder = f"{os.path.dirname(name)}/"
    return folder if folder != "/" and _config_of(kind, folder) else None


def _config_of(kind: ModelKind, name: str) -> str | None:
    """The path of a listed folder's config.json, if there is one."""
    paths = (folder_paths.get_full_path(folder, f"{name}config.json") for folder in kind.folders)
    return next((path for path in paths if path), None)


def path_of(kind: ModelKind, name: str) -> Path:
    """The file or folder behind an entry of the list.

    Raises ValueError when it is not there: with the files, their folders and where they are
    published.
    """
    register(kind)
    if name != NOTHING:
        target = f"{name}config.json" if name.endswith("/") else name
        for folder in kind.folders:
            if found := folder_paths.get_full_path(folder, target):
                return Path(found).parent if name.endswith("/") else Path(found)
    what = "no file was found" if name == NOTHING else f'"{name}" was not found'
    raise ValueError(
        f"{kind.node}: {what} in {' or '.join(places(kind))}. Add "
        f"{kind.published}, then press R in ComfyUI to reload the lists, and choose it. Nothing is "
        "downloaded for you."
    )


def places(kind: ModelKind) -> list[str]:
    """The folders in which files of this kind are looked for."""
    register(kind)
    return [path for folder in kind.folders for path in folder_paths.get_folder_paths(folder)]


def _model_type(kind: ModelKind, name: str) -> str | None:
    """What the config.json of a listed folder says its model is; None where it cannot be read."""
    path = _config_of(kind, name)
    return read_config(Path(path).parent).get("model_type") if path else None


def read_config(folder: Path) -> dict:
    """A folder's config.json; {} where it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def read_weights(kind: ModelKind, path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of all weight files of a folder. Code in a pickle is never run.

    Raises ValueError that names file and cure when they cannot be read.
    """
    files = [path] if path.is_file() else _weight_files(path)
    if not files:
        raise ValueError(
            f"{kind.node}: the folder {path} holds no model.safetensors. Take all files of the "
            f"published folder: {kind.published}."
        )
    out: dict[str, Tensor] = {}
    for file in files:
        out |= _read(kind, file)
    return out


def _weight_files(folder: Path) -> list[Path]:
    """A folder's safetensors files, else its .bin files; several when it is split."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _read(kind: ModelKind, file: Path) -> dict[str, Tensor]:
    try:
        loaded = comfy.utils.load_torch_file(str(file), safe_load=True)
    except Exception as error:  # whatever a damaged or foreign file makes of the reader
        reason = re.split(r"\n|\. ", str(error).strip())[0][:160] or "it ends too early"
        raise ValueError(
            f"{kind.node}: the file {file} cannot be read as a file of tensors ({reason}). It is "
            "damaged, cut off, or holds code, which is never run. Compare its size with the "
            f"published one and copy it again: {kind.published}."
        ) from error
    if isinstance(loaded, dict) and set(loaded) == {"model"}:
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{kind.node}: the file {file} holds no table of tensors. {_take(kind)}")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    if len(tensors) < len(loaded) or not all(isinstance(name, str) for name in tensors):
        raise ValueError(
            f"{kind.node}: the file {file} holds {len(loaded) - len(tensors)} entries that are no "
            f"tensors. {_take(kind)}"
        )
    return tensors


def _take(kind: ModelKind) -> str:
    return f"Take {kind.published}."


def explain_wrong_kind(kind: ModelKind, file: str, weights: dict[str, Tensor]) -> ValueError:
    """The error for a file of some other model, with what it seems to be."""
    return ValueError(
        f"{kind.node}: {file} is {guess_kind(weights)}, not a model for this loader. {_take(kind)}"
    )


def guess_kind(weights: dict[str, Tensor]) -> str:
    """What a checkpoint seems to be, by the names of its tensors."""
    kinds = {
        "model.diffusion_model.": "a Stable Diffusion checkpoint",
        "image_encoder.patch_embed.seq.": "a MobileSAM checkpoint, whose image encoder (TinyViT) "
        "is not supported",
        "image_encoder.trunk.": "an original SAM 2 checkpoint; SAM 2 is loaded from its "
        "transformers folder (config.json and model.safetensors)",
        "image_encoder.blocks.": "a Segment Anything checkpoint",
        "vision_encoder.": "a Segment Anything checkpoint of transformers, to be loaded as a whole "
        "folder with its config.json",
        "transformer.encoder.fusion_layers.": "a GroundingDINO checkpoint",
        "module.transformer.encoder.fusion_layers.": "a GroundingDINO checkpoint",
        "model.text_backbone.": "a GroundingDINO checkpoint of transformers, to be loaded as a "
        "whole folder with its config.json",
        "lora_": "a LoRA",
    }
    for prefix, meaning in kinds.items():
        if any(name.startswith(prefix) for name in weights):
            return meaning
    some = ", ".join(sorted(weights)[:3])
    return f"of an unknown kind (tensors {some}, ...)"
