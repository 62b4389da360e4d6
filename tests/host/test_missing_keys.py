"""An entry of a conditioning that says what its absence means is no difference between source and
target. What an absence means is asked of ComfyUI itself, by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ale_edit.tests.families import conditioning, family_model, plain_conditioning
from ale_edit.tests.host.runs import edit, generate, plain, two_branch_guider
from ale_edit.tests.tiny import tiny_controlnet

pytestmark = pytest.mark.comfy

MASK = torch.linspace(0, 1, 64).view(1, 8, 8)
SIZE = {"width": 768, "height": 512}
CROPS = [("crop_w", 0, 64), ("crop_h", 0, 64)]
OF_SAMPLERS = [
    ("start_percent", 0.0, 0.5),
    ("end_percent", 1.0, 0.5),
    ("clip_start_percent", 0.0, 0.5),
    ("clip_end_percent", 1.0, 0.5),
    ("strength", 1.0, 0.5),
    ("mask_strength", 1.0, 0.5),
    ("set_area_to_bounds", False, True),
]
CASES = [
    *(("SD 1.5", *case) for case in OF_SAMPLERS),
    *(("SDXL", *case) for case in CROPS),
    *(("SDXL", f"target_{side}", size, 64) for side, size in SIZE.items()),
    *(("SDXL refiner", *case) for case in [*CROPS, ("aesthetic_score", 6, 2)]),
    ("SDXL refiner", "prompt_type", "positive", "negative"),
]
BESIDE_OTHERS = [  # read where a ControlNet or an image of unCLIP is
    ("SD 1.5", "control_apply_to_uncond", False, True),
    ("SD 2 unCLIP", "unclip_noise_augment_merge", 0.05, 0.5),
]


CLIP_RANGE = {"clip_start_percent": 0.0, "clip_end_percent": 1.0}
CONTROL = tiny_controlnet()
ALONE = [  # without what they are read beside
    ("control_apply_to_uncond", True),
    ("mask_strength", 0.5),
    ("set_area_to_bounds", True),
    ("clip_end_percent", 0.5),
    *(("default", value) for value in (False, True)),
]


def with_entries(cond: Any, entries: dict[str, Any]) -> Any:
    return [[cond[0][0], {**cond[0][1], **entries}]]


def texts(key: str, value: Any = None) -> Any:
    """A conditioning with all that makes the key count, and with the key if it has a value."""
    beside: dict[str, Any] = {}
    if key in ("mask_strength", "set_area_to_bounds"):
        beside["mask"] = MASK
    if key.startswith("target_"):
        beside |= SIZE
    if key == "control_apply_to_uncond":
        beside["control"] = CONTROL
    if key == "unclip_noise_augment_merge":
        beside["unclip_conditioning"] = []
    if value is not None:
        beside |= CLIP_RANGE if key in CLIP_RANGE else {}  # ComfyUI reads both or none
        beside[key] = value
    return with_entries(conditioning(30), beside)


@pytest.mark.parametrize(("family", "key", "default", "other"), CASES)
def test_comfyui_itself_reads_the_default_for_a_missing_key(family, key, default, other):
    def made(value: Any = None) -> torch.Tensor:
        """Of two texts, since the weight of a single one cancels out."""
        cond = [*texts(key, value), *conditioning(50)]
        return generate(family_model(family), cond, plain_conditioning(40))

    assert torch.equal(made(default), made())
    assert not torch.equal(made(other), made())


@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.parametrize(("family", "key", "default", "other"), [*CASES, *BESIDE_OTHERS])
def test_the_default_beside_a_missing_key_is_no_difference(family, key, default, other, is_source):
    model, negative = family_model(family), plain_conditioning(40)
    missing, given = texts(key), texts(key, default)
    pair = (given, missing) if is_source else (missing, given)
    two_branch_guider(model, *pair, negative)
    changed = texts(key, other)
    pair = (changed, missing) if is_source else (missing, changed)
    with pytest.raises(ValueError, match=f"source and target inputs differ in {key}"):
        two_branch_guider(model, *pair, negative)


@pytest.mark.parametrize(("key", "value"), ALONE)
def test_comfyui_does_not_read_a_key_without_what_it_belongs_to(key, value):
    model = family_model("SD 1.5")
    plainly = generate(model, conditioning(30), plain_conditioning(40))
    given = with_entries(conditioning(30), {key: value})
    assert torch.equal(generate(model, given, plain_conditioning(40)), plainly)


@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.parametrize(("key", "value"), [*ALONE, ("unclip_noise_augment_merge", 0.5)])
def test_a_key_without_what_it_belongs_to_is_no_difference(key, value, is_source):
    missing, given = conditioning(30), with_entries(conditioning(30), {key: value})
    pair = (given, missing) if is_source else (missing, given)
    two_branch_guider(family_model("SD 1.5"), *pair, plain_conditioning(40))


def test_a_default_entry_is_one_by_its_key_and_another_one_where_a_mask_limits_it():
    """As Cond Set Default Combine writes it; ComfyUI asks for the key alone, and ignores the mask
    of such an entry."""
    model, negative = family_model("SD 1.5"), plain_conditioning(40)
    masked = with_entries(conditioning(30), {"mask": MASK})
    yes, no = (with_entries(masked, {"default": value}) for value in (True, False))
    made = [generate(model, [*c, *conditioning(50)], negative) for c in (masked, yes, no)]
    assert torch.equal(made[1], made[2]) and not torch.equal(made[0], made[1])
    two_branch_guider(model, yes, no, negative)
    with pytest.raises(ValueError, match="differ in default"):
        two_branch_guider(model, masked, no, negative)


def test_prompt_controls_range_of_all_steps_is_edited_as_without_it(model, clip):
    """prompt-control writes start 0 and end 1 into every conditioning that it makes."""
    source, target, negative = (plain(clip, words) for words in ("wolf", "goat", ""))
    results = []
    for entries in ({}, {"start_percent": 0.0, "end_percent": 1.0}):
        branches = with_entries(source, entries), target, negative
        results.append(edit(two_branch_guider(model, *branches, reuses_source=False)))
    assert torch.equal(*results)


def test_a_size_beside_a_missing_one_is_a_difference():
    """ComfyUI takes the latent's size for a missing one, which a guider does not know yet."""
    model = family_model("SDXL")
    sized = with_entries(conditioning(30), SIZE)
    with pytest.raises(ValueError, match="differ in height"):
        two_branch_guider(model, conditioning(20), sized, plain_conditioning(40))
    with pytest.raises(ValueError, match="differ in target_width"):
        two_branch_guider(
            model,
            conditioning(20),
            with_entries(conditioning(30), {"target_width": 768}),
            plain_conditioning(40),
        )
