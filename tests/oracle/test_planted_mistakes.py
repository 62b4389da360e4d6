"""The whole-edit oracle bites: mistakes planted in the pack push its error far above the bound."""

import pytest

from ale_edit.tests.oracle.ale_diffusers import Settings
from ale_edit.tests.oracle.planted import MISTAKES, OTHER
from ale_edit.tests.oracle.whole_edit import SCENES, worst_error

pytestmark = pytest.mark.comfy

FAR = 1e-2  # of the source latent's standard deviation; the bound without a mistake is 3e-4


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_seen(mistake, monkeypatch):
    mistake.plant(monkeypatch)
    worst = worst_error(SCENES[mistake.scene], mistake.settings, mistake.family)
    print(f"{mistake.name}: {worst:.2g}")
    assert worst > FAR


@pytest.mark.parametrize("variant", OTHER)
def test_an_exchanged_variant_is_seen(variant):
    worst = worst_error(SCENES["small"], Settings(variant=variant), variant=OTHER[variant])
    print(f"{variant} by the other variant: {worst:.2g}")
    assert worst > FAR
