"""Each object of an editor with one prompt reads its own text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import cpam
from ale_edit.host.editing import open_edit
from ale_edit.regions.regions import ImageRegions, RegionsBatch
from ale_edit.tests.host.runs import relative_error
from ale_edit.tests.tiny import PAIRS, edits_of, source_latent, two_regions

pytestmark = pytest.mark.comfy

WHOLE = cpam.CPAMSettings(steps=4, plain_share=0.0)
OWN = replace(WHOLE, object_texts="each its own")


def edit(
    model: Any,
    clip: Any,
    settings: Any = OWN,
    regions: Any = None,
    pairs: Any = PAIRS,
    latent: Tensor | None = None,
    seed: int = 5,
    **options: Any,
) -> Tensor:
    edits = edits_of(pairs, **options)
    regions = regions or two_regions()
    opened = open_edit(
        cpam.EDITOR, settings, model, clip, edits, regions=regions, reuses_source=False
    )
    return opened.sample(source_latent() if latent is None else latent, seed, lambda *_: None)


def first_region() -> ImageRegions:
    both = two_regions()
    return ImageRegions(both.raw[:1], both.dilated[:1], both.names[:1])


@pytest.mark.parametrize("strategy", ["add", "replace", "replace (refined)", "pose / view"])
def test_an_object_that_is_the_whole_prompt_reads_the_whole_prompt(model, clip, strategy):
    own, whole = (replace(s, strategy=strategy) for s in (OWN, WHOLE))
    one = {"regions": first_region(), "pairs": PAIRS[:1]}
    assert relative_error(edit(model, clip, own, **one), edit(model, clip, whole, **one)) < 1e-4
    assert relative_error(edit(model, clip, own), edit(model, clip, whole)) > 0.01


@pytest.mark.parametrize("strategy", ["background", "remove"])
def test_without_new_objects_the_prompt_is_as_it_was_bit_for_bit(model, clip, strategy):
    own, whole = (replace(s, strategy=strategy) for s in (OWN, WHOLE))
    assert torch.equal(edit(model, clip, own), edit(model, clip, whole))


def test_an_object_that_is_removed_has_no_text(model, clip):
    """Nor does an edit in which all are removed."""
    first, second = PAIRS
    made = edit(model, clip, pairs=(first, (second[0], "")))
    assert relative_error(made, edit(model, clip, WHOLE, pairs=(first, (second[0], "")))) < 1e-4
    emptied = [(source, "") for source, _ in PAIRS]
    assert torch.equal(edit(model, clip, pairs=emptied), edit(model, clip, WHOLE, pairs=emptied))


def test_object_restricted_embeddings_off_leave_the_words_apart(model, clip):
    """Their switch acts on the values; the keys stay each object's own."""
    without = edit(model, clip, ore=False)
    assert relative_error(without, edit(model, clip)) > 1e-3
    assert relative_error(without, edit(model, clip, WHOLE)) > 1e-3


def test_each_image_of_a_batch_has_its_own_places(model, clip):
    one = two_regions()
    other = ImageRegions(one.raw.roll(16, 1), one.dilated.roll(16, 1), one.names)
    latents = source_latent(2)
    made = edit(model, clip, regions=RegionsBatch((one, other)), latent=latents)
    for j, regions in enumerate((one, other)):
        alone = edit(model, clip, regions=regions, latent=latents[j : j + 1], seed=5 + j)
        assert relative_error(made[j : j + 1], alone) < 1e-4


def test_a_node_that_changes_the_text_in_the_layers_is_refused(model, clip):
    """As a hypernetwork does: its text would be lost."""
    changed = model.clone()
    changed.set_model_attn2_patch(lambda n, context, value, _: (n, 2 * context, value))
    with pytest.raises(ValueError, match=r"^CPAM: another node on the model changes the text"):
        edit(changed, clip)
    assert bool(edit(changed, clip, WHOLE).isfinite().all())
