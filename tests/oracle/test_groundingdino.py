"""The key map against groundingdino-py 0.4.0 itself: random weights saved as the original saves
them, loaded by us, the same outputs. In float64, because a rounding error in the choice of the 900
best cells exchanges two queries."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.devtools.folders import cache_folder
from ale_edit.regions import bert_tokens
from ale_edit.regions import grounding_dino as gd
from ale_edit.tests.oracle.groundingdino_reference import CAPTION

SOURCE = "groundingdino-py==0.4.0"
REQUIRED = (
    *("torch==2.11.0", "torchvision==0.26.0", "transformers==4.50.3", "timm", "addict", "yapf"),
    *("opencv-python-headless", "supervision==0.6.0", "pycocotools"),
)
SCRIPT = Path(__file__).with_name("groundingdino_reference.py")
GIVEN = os.environ.get("ALE_EDIT_GROUNDINGDINO")

pytestmark = [pytest.mark.reference, pytest.mark.slow]


@pytest.fixture(scope="session")
def reference() -> tuple[Path, Path]:
    """(Python, source folder) of an environment of its own, made once; ALE_EDIT_GROUNDINGDINO names
    a folder that has one."""
    folder = Path(GIVEN) if GIVEN else cache_folder() / "groundingdino-0.4.0"
    python, source = folder / "env" / "bin" / "python", folder / "groundingdino-py-0.4.0"
    done = folder / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "env"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *REQUIRED], check=True)
        get = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*get, "-d", folder, SOURCE], check=True)
        with tarfile.open(next(folder.glob("groundingdino*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        done.touch()
    return python, source


def answers(model: Any, expected: dict[str, Tensor]) -> Any:
    """What the model says in float64, also in the tensors that it makes by itself."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            return model(pixel_values=expected["pixels"], input_ids=expected["ids"])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def made(
    reference: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a kind's checkpoint.pth and answers.pt, made once."""
    python, source = reference

    @cache
    def make(kind: str) -> Path:
        out = tmp_path_factory.mktemp(kind)
        subprocess.run([python, SCRIPT, source, kind, bert_tokens.VOCABULARY, out], check=True)
        return out

    return make


def largest_difference(folder: Path) -> tuple[float, float]:
    """Of logits, and of boxes, between ours and the original's."""
    weights = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    expected = torch.load(folder / "answers.pt", weights_only=True)
    assert bert_tokens.load_tokenizer().encode(CAPTION).ids == expected["ids"][0].tolist()
    out = answers(gd.load_original(weights, "checkpoint.pth").double(), expected)
    words = expected["ids"].shape[1]
    assert float(expected["logits"][..., :words].std()) > 0.1
    logits = (out.logits - expected["logits"])[..., :words]
    return float(logits.abs().max()), float((out.pred_boxes - expected["boxes"]).abs().max())


@pytest.mark.parametrize("kind", ["GroundingDINO_SwinT_OGC", "GroundingDINO_SwinB_cfg"])
def test_a_published_checkpoint_computes_what_the_original_code_computes(
    kind: str, made: Callable[[str], Path]
) -> None:
    logits, boxes = largest_difference(made(kind))
    assert logits < 1e-4 and boxes < 1e-4


def test_a_planted_mistake_in_the_key_map_is_seen(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two norms of the decoder exchanged: every shape fits."""
    swap = {"self_attn_layer_norm": "final_layer_norm", "final_layer_norm": "self_attn_layer_norm"}
    rules = tuple(
        (old, new.replace(name, swap[name]))
        if "decoder" in old and (name := next((n for n in swap if f".{n}." in new), ""))
        else (old, new)
        for old, new in gd.RULES
    )
    assert rules != gd.RULES
    monkeypatch.setattr(gd, "RULES", rules)
    assert largest_difference(made("GroundingDINO_SwinT_OGC"))[0] > 0.01
