"""Both scores: batches whose images have their own regions, what the page and the history show."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from torch import Tensor

from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, nodes, one, picture
from ale_edit.tests.nodes.scores import MODEL, keep, leak, regions
from ale_edit.tests.tiny import two_boxes

pytestmark = pytest.mark.usefixtures("models_dir")


def of_batch(masks: Tensor, images: int) -> Any:
    return one("ALERegions", edits=listed(), masks=masks, image=picture(images))


def listed() -> Any:
    return one("ALEEditList", text=TEXT)


def test_each_image_of_a_batch_is_scored_with_its_own_regions() -> None:
    boxes = torch.stack(two_boxes())
    each = [boxes, boxes.roll(9, dims=2), boxes.flip(1)]
    image, source = picture(3, seed=2), picture(3, seed=7)
    together = of_batch(torch.cat(each), 3)
    leaked = json.loads(leak(image=image, source=source, regions=together, edits=listed())[5])
    kept = json.loads(keep(image=image, source=source, regions=together)[6])
    for j, masks in enumerate(each):
        one_image = {"image": image[j : j + 1], "source": source[j : j + 1]}
        own = one("ALERegions", edits=listed(), masks=masks)
        alone = json.loads(leak(**one_image, regions=own, edits=listed())[5])
        assert leaked["images"][j] == alone["images"][0]
        assert leaked["source"][j] == alone["source"][0]
        assert kept["images"][j] == json.loads(keep(**one_image, regions=own)[6])["images"][0]


def test_a_source_for_all_images_is_scored_with_the_regions_of_each() -> None:
    boxes = torch.stack(two_boxes())
    together = of_batch(torch.cat([boxes, boxes.roll(9, dims=2)]), 2)
    made = leak(image=picture(2), source=picture(), regions=together, edits=listed())[5]
    first, second = json.loads(made)["source"]
    assert first != second


@pytest.mark.parametrize("score", ["leakage", "preservation"])
def test_regions_of_another_number_of_images_are_refused(score: str) -> None:
    regions = of_batch(torch.stack(two_boxes()).repeat(2, 1, 1), 2)
    name = {"leakage": "Leakage Score", "preservation": "Preservation Score"}[score]
    with pytest.raises(
        ValueError,
        match=f"^{name}: the regions were made from 2 images, but there are 3 images here",
    ):
        if score == "leakage":
            leak(image=picture(3), regions=regions, edits=listed())
        else:
            keep(image=picture(3), source=picture(3), regions=regions)


def test_the_numbers_are_shown_on_the_node_and_kept_in_the_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    server = SimpleNamespace(
        PromptServer=SimpleNamespace(
            instance=SimpleNamespace(
                send_progress_text=lambda text, node: told.append((node, text))
            )
        )
    )
    monkeypatch.setitem(sys.modules, "server", server)
    edits = edits_with_masks()
    with CurrentNodeContext("job", "7"):
        scored = nodes()["ALELeakageScore"].execute(picture(), regions(), edits, None, MODEL)
        kept = nodes()["ALEPreservationScore"].execute(picture(), picture(), regions(), "corrected")
    assert [node for node, _ in told] == ["7", "7"]
    for made, text, position in ((scored, told[0][1], 4), (kept, told[1][1], 5)):
        assert made.ui == {"text": (text,), "json": (made.args[position + 1],)}
        assert made.args[position] == text


@pytest.mark.parametrize("node_id", ["ALELeakageScore", "ALEPreservationScore", "ALECompare"])
def test_it_is_an_output_node(node_id: str) -> None:
    assert nodes()[node_id].GET_SCHEMA().is_output_node
