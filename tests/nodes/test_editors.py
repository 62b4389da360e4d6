"""ALE Edit from end to end on tiny real models: MODEL, CLIP, VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.tests.nodes.graph import (
    TEXT,
    edit_by_single_nodes,
    edits_with_masks,
    one,
    picture,
    run,
)
from ale_edit.tests.tiny import PAIRS, two_boxes

Edit = Callable[..., tuple[Any, ...]]


@pytest.fixture
def edit(model: Any, clip: Any, vae: Any) -> Edit:
    """ALE Edit with two steps; what is not given is the tiny world's."""

    def run_node(**inputs: Any) -> tuple[Any, ...]:
        usual = {"model": model, "clip": clip, "vae": vae, "steps": 2}
        image = inputs.pop("image", None)
        edits = inputs.pop("edits", None)
        usual["image"] = picture() if image is None else image
        usual["edits"] = edits_with_masks(*usual["image"].shape[1:3]) if edits is None else edits
        return run("ALEEdit", **{**usual, **inputs})

    return run_node


@pytest.mark.parametrize("size", [(67, 93), (64, 64), (71, 64)])
def test_the_image_and_the_preview_come_back_at_the_sources_size(
    edit: Edit, size: tuple[int, int]
) -> None:
    source = picture(height=size[0], width=size[1])
    image, preview = edit(image=source)
    assert image.shape == preview.shape == (1, *size, 3)
    assert bool(torch.isfinite(image).all())
    assert not torch.equal(image, source)


def test_with_a_checkpoints_autoencoder(edit: Edit, kl_vae: Any) -> None:
    image, _ = edit(vae=kl_vae, image=picture(height=67, width=75))
    assert image.shape == (1, 67, 75, 3)
    assert bool(torch.isfinite(image).all())


def test_item_j_of_a_batch_is_the_single_run_at_seed_plus_j(edit: Edit) -> None:
    batch, preview = edit(image=picture(2), seed=7)
    assert batch.shape == (2, 64, 64, 3)
    assert preview.shape == (1, 64, 64, 3)
    for j in range(2):
        single, _ = edit(image=picture(seed=11 + j), seed=7 + j)
        torch.testing.assert_close(batch[j], single[0], rtol=0, atol=1e-4)


def moving(count: int) -> list[Tensor]:
    """The masks (count, 64, 64) of two objects, a latent cell further right in each image."""
    return [torch.stack([m.roll(8 * j, dims=1) for j in range(count)]) for m in two_boxes(64, 64)]


def edits_with(masks: list[Tensor]) -> Any:
    edits = None
    for (source, target), mask in zip(PAIRS, masks, strict=True):
        edits = one("ALEEditObject", source=source, target=target, previous=edits, mask=mask)
    return edits


@pytest.mark.parametrize("variant", ["paper", "published code"])
@pytest.mark.parametrize("paste_background", [False, True])
def test_item_j_of_a_batch_with_masks_of_its_own_is_the_single_run_with_them(
    edit: Edit, variant: str, paste_background: bool
) -> None:
    masks = moving(3)
    masks[1] = masks[1][0]  # one mask serves all images
    inputs = {"variant": variant, "paste_background": paste_background, "dilation": 0.05}
    inputs |= {"target_guidance": 3.0, "source_guidance": 1.5}
    batch, preview = edit(image=picture(3), edits=edits_with(masks), seed=7, **inputs)
    assert preview.shape == batch.shape == (3, 64, 64, 3)
    for j in range(3):
        own = edits_with([masks[0][j], masks[1]])
        single, shown = edit(image=picture(seed=11 + j), edits=own, seed=7 + j, **inputs)
        torch.testing.assert_close(batch[j], single[0], rtol=0, atol=1e-4)
        assert torch.equal(preview[j], shown[0])
    other, _ = edit(image=picture(3), edits=edits_with([m[:1] for m in moving(1)]), **inputs)
    assert largest_change(other[2], batch[2]) > 1e-3


def test_a_batch_with_its_own_regions_reuses_its_source_branch(edit: Edit) -> None:
    first, _ = edit(image=picture(2), edits=edits_with(moving(2)), reuse_source=True)
    second, _ = edit(image=picture(2), edits=edits_with(moving(2)), reuse_source=True)
    torch.testing.assert_close(second, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("node", ["graph", "regions"])
def test_a_batch_of_edits_is_the_graph_of_single_nodes(
    edit: Edit, model: Any, clip: Any, vae: Any, node: str
) -> None:
    edits, image = edits_with(moving(2)), picture(2)
    whole, _ = edit(edits=edits, image=image, seed=3)
    if node == "graph":
        other = edit_by_single_nodes(model, clip, vae, image, edits, seed=3, steps=2)
    else:
        regions = one("ALERegions", edits=edits, image=image)
        other, _ = edit(edits=edits, image=image, seed=3, regions=regions)
    assert torch.equal(whole, other)


def test_it_is_the_graph_of_single_nodes(edit: Edit, model: Any, clip: Any, vae: Any) -> None:
    edits = edits_with_masks()
    image, _ = edit(edits=edits, seed=3)
    wired = edit_by_single_nodes(model, clip, vae, picture(), edits, seed=3, steps=2)
    assert torch.equal(image, wired)


def test_the_same_inputs_give_the_same_image_and_leave_the_model_as_it_was(
    edit: Edit, model: Any
) -> None:
    before = str(model.model_options)
    first, _ = edit()
    second, _ = edit()
    assert torch.equal(first, second)
    assert str(model.model_options) == before
    assert not model.wrappers and not model.patches


def test_the_preview_is_that_of_regions(edit: Edit) -> None:
    edits, image = edits_with_masks(), picture()
    regions, _, _, shown = run("ALERegions", edits=edits, image=image)
    _, own = edit(edits=edits, image=image)
    _, given = edit(edits=edits, image=image, regions=regions)
    assert torch.equal(own, shown) and torch.equal(given, shown)


def test_connected_regions_replace_the_edits_masks_and_the_dilation(edit: Edit) -> None:
    plain = one("ALEEditList", text=TEXT)
    masks = torch.stack(two_boxes(64, 64))
    regions = one("ALERegions", edits=plain, masks=masks, dilation=0.1)
    given, _ = edit(edits=plain, regions=regions, dilation=0.0)
    own, _ = edit(edits=edits_with_masks(), dilation=0.1)
    assert torch.equal(given, own)


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("seed", {}, {"seed": 1}),
    ("steps", {}, {"steps": 3}),
    ("source_guidance", {}, {"source_guidance": 3.0}),
    ("target_guidance", {}, {"target_guidance": 5.0}),
    ("edit_type", {}, {"edit_type": "color"}),
    ("schedule", {"edit_type": "custom"}, {"schedule": 0.0}),
    ("strength", {}, {"strength": 0.5}),
    ("dilation", {}, {"dilation": 0.2}),
    ("paste_background", {}, {"paste_background": True}),
    ("variant", {}, {"variant": "published code"}),
]


def test_every_widget_is_tried() -> None:
    from ale_edit.tests.nodes.graph import schema

    widgets = {i.id for i in schema("ALEEdit").inputs if getattr(i, "default", None) is not None}
    assert {name for name, _, _ in CHANGES} | {"reuse_source"} == widgets


@pytest.mark.parametrize("node", ["ALEEdit", "graph"])
def test_a_second_edit_reuses_the_source_branch_only_where_it_is_asked_for(
    edit: Edit, model: Any, clip: Any, vae: Any, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    rows, apply_model = [], model.model.apply_model

    def count(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(x.shape[0])
        return apply_model(x, *args, **kwargs)

    monkeypatch.setattr(model.model, "apply_model", count)
    edits = edits_with_masks()

    def run(reuse_source: bool) -> Tensor:
        rows.clear()
        if node == "ALEEdit":
            return edit(edits=edits, reuse_source=reuse_source)[0]
        return edit_by_single_nodes(
            model, clip, vae, picture(), edits, seed=0, steps=2, reuse_source=reuse_source
        )

    first = run(True)
    assert sum(rows) == 2 * 4
    second = run(True)
    assert sum(rows) == 2 * 2
    torch.testing.assert_close(second, first, rtol=0, atol=1e-4)
    assert torch.equal(run(False), first)
    assert sum(rows) == 2 * 4


@pytest.mark.parametrize(("name", "before", "after"), CHANGES, ids=[name for name, _, _ in CHANGES])
def test_every_widget_changes_the_image(
    edit: Edit, name: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert set(after) == {name}
    assert largest_change(edit(**before)[0], edit(**{**before, **after})[0]) > 1e-4


def test_the_schedule_is_used_with_custom_only(edit: Edit) -> None:
    assert torch.equal(edit(schedule=0.0)[0], edit(schedule=1.0)[0])


def overlapping() -> Any:
    masks = torch.stack(two_boxes(64, 64))
    masks[1, 16:32] = torch.maximum(masks[0], masks[1])[16:32]  # two thirds of the first
    return masks


@pytest.mark.parametrize(
    ("name", "value"),
    [("ore", False), ("rgb_cam", False), ("blending", False), ("overlap", "last object")],
)
def test_the_methods_settings_reach_the_image(edit: Edit, name: str, value: Any) -> None:
    plain = one("ALEEditList", text=TEXT)
    regions = one("ALERegions", edits=plain, masks=overlapping())
    changed = one("ALEMethodSettings", edits=plain, **{name: value})
    usual, _ = edit(edits=plain, regions=regions)
    assert largest_change(usual, edit(edits=changed, regions=regions)[0]) > 1e-4


def test_the_variant_of_the_widget_wins_over_the_edits(edit: Edit) -> None:
    code = one("ALEMethodSettings", edits=edits_with_masks(), variant="published code")
    as_code, _ = edit(variant="published code")
    assert torch.equal(edit(edits=code)[0], as_code)
    assert torch.equal(edit(edits=code, variant="paper")[0], edit()[0])
    assert not torch.equal(as_code, edit()[0])


def test_paste_background_gives_the_sources_own_pixels(edit: Edit) -> None:
    source = picture(height=67, width=69)
    regions = one("ALERegions", edits=edits_with_masks(67, 69), image=source)
    image, _ = edit(image=source, regions=regions, paste_background=True)
    outside = regions.background > 0
    assert torch.equal(image[:, outside], source[:, outside])
    assert not torch.equal(image[:, ~outside], source[:, ~outside])


def test_one_object_and_sixteen_objects(edit: Edit) -> None:
    for count in (1, 16):
        text = "\n".join(f"thing {i} -> red-colored thing {i}" for i in range(count))
        edits = one("ALEEditList", text=text)
        masks = torch.zeros(count, 64, 64)
        for i in range(count):
            row, column = 16 * (i // 4), 16 * (i % 4)
            masks[i, row : row + 12, column : column + 12] = 1
        image, preview = edit(edits=edits, regions=one("ALERegions", edits=edits, masks=masks))
        assert bool(torch.isfinite(image).all()) and preview.shape == (1, 64, 64, 3)


def largest_change(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
