"""Bad input of the nodes of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ale_edit.tests.nodes.graph import nodes, one, picture
from ale_edit.tests.nodes.scores import compare, keep, leak
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.tiny_scores import squeezenet

pytestmark = pytest.mark.usefixtures("models_dir")


def _damaged(folder: str, name: str, content: Any) -> Any:
    def cause(models: Path) -> None:
        squeezenet(models / "lpips" / "squeezenet1_1-test.pth")
        torch.save(content, models / folder / name)
        keep()

    return cause


NOT_FINITE = torch.full((1, 64, 64, 3), float("nan"))
SAID: dict[str, tuple[Any, str]] = {
    "not (images, height, width, channels)": (
        lambda _: leak(image=torch.zeros(64, 64, 3)),
        "ALELeakageScore",
    ),
    "holds numbers that are not finite": (lambda _: leak(image=NOT_FINITE), "ALELeakageScore"),
    "their shapes differ": (lambda _: leak(image=picture(width=128)), "ALELeakageScore"),
    "Connect the image that was encoded for this edit, at its size": (
        lambda _: keep(source=picture(height=32)),
        "ALEPreservationScore",
    ),
    "or as many as edited ones": (lambda _: keep(source=picture(3)), "ALEPreservationScore"),
    "Connect the same edits to Regions and to Leakage Score": (
        lambda _: leak(edits=one("ALEEditList", text="fox -> cat")),
        "ALELeakageScore",
    ),
    "removes every object": (
        lambda _: leak(
            edits=one("ALEEditList", text="wolf ->"),
            regions=one(
                "ALERegions", edits=one("ALEEditList", text="wolf ->"), masks=torch.ones(64, 64)
            ),
        ),
        "ALELeakageScore",
    ),
    "the similarity input is not connected": (lambda _: leak(similarity=None), "ALELeakageScore"),
    "the structure_input input is": (
        lambda _: keep(structure_input="guess"),
        "ALEPreservationScore",
    ),
    "are not the weights of LPIPS": (
        _damaged("lpips", "squeeze.pth", {"a": torch.zeros(1)}),
        "ALEPreservationScore",
    ),
    "is not the ViT of DINO": (
        _damaged("dino", "dino_vitbase8_pretrain.pth", {"a": torch.zeros(1)}),
        "ALEPreservationScore",
    ),
    "lines, the images input": (lambda _: compare([picture()], "a\nb"), "ALECompare"),
    "it is not the JSON of a score": (
        lambda _: compare([picture()], scores=["TE 16"]),
        "ALECompare",
    ),
    "the scores input covers": (
        lambda _: compare([picture(2)], scores=[leak()[5]]),
        "ALECompare",
    ),
    "Set columns or cell_height to smaller numbers": (
        lambda _: compare([picture(5)], cell_height=[4096], columns=[5]),
        "ALECompare",
    ),
}
"""What is said, as the help pages quote it: what makes it be said, and the node of the page."""
LOADERS_SAY = (
    "no file was found in",
    "cannot be read as a file of tensors",
    "does not hold the tensors of its model",
    "is a single file, which holds one half of CLIP",
    "is missing (as in every SD 1.5 checkpoint) or the identity",
    "they belong to different CLIPs",
    "carries a LoRA",
    "is not an image encoder of CLIP",
    "These two hardly belong together",
)
"""Proved in tests/host/test_similarity.py."""


@pytest.mark.parametrize("quote", SAID)
def test_bad_input_is_answered_in_a_sentence_that_the_help_page_explains(
    quote: str, models_dir: Path
) -> None:
    cause, node_id = SAID[quote]
    with pytest.raises(ValueError) as error:
        cause(models_dir)
    sentence = str(error.value)
    name = nodes()[node_id].GET_SCHEMA().display_name
    assert quote in sentence and sentence.startswith(f"{name}: ")
    assert sentence.endswith(".") and "\n" not in sentence
    assert f"`{quote}" in page(node_id) or quote in UNQUOTED


UNQUOTED = ("not (images, height, width, channels)", "the structure_input input is")
"""Said only when no widget or Load Image is behind the input."""


def test_a_picture_that_is_not_finite_is_refused_by_every_node() -> None:
    for ask in (
        lambda: leak(source=NOT_FINITE),
        lambda: keep(image=NOT_FINITE),
        lambda: compare([NOT_FINITE]),
    ):
        with pytest.raises(ValueError, match="holds numbers that are not finite"):
            ask()
