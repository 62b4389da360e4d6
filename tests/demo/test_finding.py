"""Patches of an image: what touches is one patch, named by its largest pixel number."""

import torch

from ale_edit.demo.finding import label_patches


def test_pixels_that_touch_at_a_corner_are_one_patch_named_by_its_largest_pixel():
    inside = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]) > 0
    expected = [[6, 0, 0, 8], [0, 6, 0, 8], [0, 0, 0, 0], [14, 14, 0, 0]]
    assert label_patches(inside).tolist() == expected


def test_without_a_pixel_there_is_no_patch():
    assert not label_patches(torch.zeros(3, 4) > 0).any()


def test_every_pixel_has_the_label_of_all_its_neighbours_inside():
    """And a label is the number of a pixel that has it: so a patch is neither cut nor joined."""
    inside = torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    labels = label_patches(inside)
    assert torch.equal(labels > 0, inside)
    numbers = torch.arange(1, labels.numel() + 1).view_as(labels)
    for label in labels[inside].unique().tolist():
        own = labels == label
        assert numbers[own].max() == label
        grown = torch.nn.functional.max_pool2d(own[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert torch.equal(grown & inside, own)
