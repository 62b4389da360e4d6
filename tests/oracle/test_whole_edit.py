"""A whole edit by the pack equals an independent loop on diffusers' UNet, at every step."""

from dataclasses import replace

import pytest

from ale_edit.tests.oracle.ale_diffusers import Settings
from ale_edit.tests.oracle.whole_edit import (
    FAMILIES,
    SCENES,
    errors,
    run_oracle,
    run_pack,
    worst_error,
)

pytestmark = pytest.mark.comfy

BOUND = 3e-4  # of the source latent's standard deviation
VARIANTS = ("paper", "published code")
EDITS = [(name, variant) for name in SCENES for variant in VARIANTS]
EDITS.remove(
    ("odd size", "published code")
)  # the code's union over four scales needs multiples of 8


@pytest.mark.parametrize(("name", "variant"), EDITS)
def test_every_step_equals_the_oracles(name, variant):
    scene, settings = SCENES[name], Settings(variant=variant)
    found = errors(run_pack(scene, settings), run_oracle(scene, settings), scene)
    assert len(found) == 16  # 15 steps and the result
    figures = f"{name}, {variant}: worst {max(found):.1e}; " + " ".join(f"{e:.1e}" for e in found)
    print(figures)
    assert max(found) <= BOUND, figures


@pytest.mark.ci
@pytest.mark.parametrize(
    ("family", "variant"), [*((family, "paper") for family in FAMILIES), ("SDXL", "published code")]
)
def test_every_step_equals_the_oracles_on_every_family(family, variant):
    """A batch of two on a latent that is no square: v-prediction, pooled vectors, sizes, masks."""
    scene, settings = SCENES["two objects"], Settings(variant=variant, source_guidance=1.5)
    found = errors(run_pack(scene, settings, family), run_oracle(scene, settings, family), scene)
    assert len(found) == 16
    figures = f"{family}, {variant}: " + " ".join(f"{e:.1e}" for e in found)
    print(figures)
    assert max(found) <= BOUND, figures


SETTINGS = [
    {"schedule": 1.0},
    {"schedule": 0.6},
    {"schedule": 0.0},
    {"overlap": "last object"},
    {"steps": 4},
    {"source_guidance": 1.5, "target_guidance": 4.0},
]


@pytest.mark.ci
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changed", SETTINGS, ids=str)
def test_other_settings_equal_the_oracles(changed, variant):
    assert worst_error(SCENES["small"], Settings(variant=variant, **changed)) <= BOUND


def test_kept_noise_equals_the_oracles():
    settings = Settings(eta=0.5, has_blending=False)
    assert worst_error(SCENES["small"], settings, blending=False) <= BOUND


@pytest.mark.parametrize("schedule", [0.0, 0.5])
def test_rows_that_guidance_1_does_not_need_change_nothing(schedule):
    settings = Settings(schedule=schedule)
    assert worst_error(SCENES["small"], settings, has_every_row=True) <= BOUND


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "switch", ["has_ore", "has_token_mask", "has_regions", "has_injection", "has_blending"]
)
def test_the_oracle_depends_on_every_component(switch, variant):
    scene, settings = SCENES["small"], Settings(variant=variant)
    without = run_oracle(scene, replace(settings, **{switch: False}))
    assert max(errors(without, run_oracle(scene, settings), scene)) > 1e-2
