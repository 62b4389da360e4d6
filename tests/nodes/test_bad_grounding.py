"""What Grounded-SAM Masks and its loaders say of bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from ale_edit.host.model_files import DETECTOR, NOTHING, SEGMENTER
from ale_edit.host.segmenting import grounding
from ale_edit.regions import sam
from ale_edit.tests.nodes.graph import one
from ale_edit.tests.nodes.grounding import TABLE, WOLF, find
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.nodes.test_schemas import NODE_IDS

Cause: TypeAlias = Callable[[Path], Any]


def _read(name: str, write: Callable[[Path], Any], load: Callable[[str], Any]) -> Cause:
    def cause(folder: Path) -> None:
        write(folder / name)
        load(name)

    return cause


def _segmenter(name: str) -> Any:
    return grounding.load_segmenter(name, "auto")


def _too_old(folder: Path) -> None:
    def load_folder(*_: Any) -> Any:
        raise ImportError("cannot import name 'Sam2Config' from 'transformers'")

    (folder / "config.json").write_text('{"model_type": "sam2"}')
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam, "load_folder", load_folder)
        _segmenter(f"{folder.name}/")


def _no_memory(folder: Path) -> None:
    def loaded(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounding, "load_whole", loaded)
        grounding.run_with_room(lambda model: model, cast(Any, None), 0, "GroundingDINO")


PART = {"transformer.level_embed": torch.zeros(4, 8), "feat_map.weight": torch.zeros(8, 8)}
SAID: dict[str, Cause] = {
    "was not found: its best score is": lambda _: find({"wolf": TABLE["wolf"]}),
    "nothing was found.": lambda _: find({}),
    "has no region of its own": lambda _: find(
        {"wolf": {WOLF: 0.5}, "dog": {WOLF: 0.9}}, "wolf -> goat\ndog -> cat"
    ),
    "occurs in several edits": lambda _: find(TABLE, "wolf -> goat\nwolf -> cat"),
    "is not all, best, or a number": lambda _: find(instances="some"),
    "asks for number 3": lambda _: find(instances="3, 1"),
    "adds an object, which cannot be found": lambda _: find(text="wolf -> goat\n-> moon"),
    "contains no word to look for": lambda _: find(text="?! -> goat"),
    "It must be from 0 to 1": lambda _: find(box_threshold=2.0),
    "cannot be left out": lambda _: find(
        {"wolf": TABLE["wolf"]},
        edits=one(
            "ALEFullPrompts",
            edits=one("ALEEditList", text="wolf -> goat\nmoon -> ball"),
            source_prompt="a wolf under a moon",
        ),
        missing="leave out",
    ),
    "not (images, height, width, channels)": lambda _: find(image=torch.zeros(64, 64, 3)),
    "out of memory": _no_memory,
    "no file was found in": lambda _: _segmenter(NOTHING),
    "cannot be read as a file of tensors": _read(
        "cut.pth", lambda file: file.write_bytes(b"<html>"), _segmenter
    ),
    "does not hold the tensors of its model": _read(
        "part.pth", lambda file: torch.save({"model": PART}, file), grounding.load_detector
    ),
    "not a model for this loader": _read(
        "a.safetensors", lambda file: save_file({"lora_a": torch.zeros(1)}, file), _segmenter
    ),
    "the installed transformers cannot load this model": _too_old,
}
"""What is said, as the help pages quote it, and what makes it be said."""


@pytest.mark.parametrize("quote", SAID)
def test_what_the_help_pages_quote_is_said_in_a_sentence_of_one_line(
    quote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a-model"
    home.mkdir()
    for name in (*DETECTOR.folders, *SEGMENTER.folders):
        places = ([str(home), str(tmp_path)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, places)
    with pytest.raises(ValueError) as error:
        SAID[quote](home)
    sentence = str(error.value)
    assert quote in sentence and sentence.endswith(".") and "\n" not in sentence
    assert sentence.startswith(("Grounded-SAM Masks: ", "SAM Loader: ", "GroundingDINO Loader: "))
    assert any(f"`{quote}" in page(node_id) for node_id in NODE_IDS) or quote in UNQUOTED


UNQUOTED = ("It must be from 0 to 1", "not (images, height, width, channels)")
"""Said only when no widget or Load Image is behind the input."""
