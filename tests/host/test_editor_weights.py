"""Every editor and inversion on weights in fp8, and on weights that are not where they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import COMPARED, p2p
from ale_edit.editors.editor import Editor
from ale_edit.host.editing import open_edit
from ale_edit.inversion.stored import INVERSION_METHODS
from ale_edit.tests.families import FAMILIES
from ale_edit.tests.host.runs import relative_error
from ale_edit.tests.host.test_every_editor import SETTINGS, regions_for
from ale_edit.tests.host.test_families_weights import budget, rounded, stored, with_lora
from ale_edit.tests.tiny import edits_of, source_latent

pytestmark = pytest.mark.comfy

__all__ = ["budget"]
PAIRS = (("wolf", "red fox"), ("yellow moon", "yellow balloon"))
Case = tuple[Editor, Any]
CASES: list[Case] = [
    *((editor, SETTINGS[editor.name]) for editor in COMPARED),
    *((p2p.EDITOR, replace(SETTINGS["p2p"], inversion_method=m)) for m in INVERSION_METHODS),
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0].name} {getattr(case[1], 'inversion_method', '')}"
)


def run(case: Case, model: Any, clip: Any) -> Tensor:
    """As the node runs it."""
    editor, settings = case
    given = {"regions": regions_for(editor), "reuses_source": False}
    with torch.inference_mode():
        opened = open_edit(editor, settings, model, clip, edits_of(PAIRS), **given)
        return opened.sample(source_latent(), 5, lambda *_: None)


@every_case
def test_fp8_weights_edit_as_the_same_numbers_in_the_computing_type(case, clip):
    dtype, compute = torch.float8_e4m3fn, torch.float32
    made = run(case, stored("SD 1.5", dtype, compute), clip)
    assert torch.equal(made, run(case, rounded("SD 1.5", dtype, compute), clip))
    assert bool(made.isfinite().all())


@every_case
@pytest.mark.parametrize(
    "share", [0.0, pytest.param(0.3, marks=pytest.mark.ci)]
)  # of each load; three make an edit
def test_a_model_that_is_not_or_half_loaded_gives_the_same_edit(
    case, share, clip, budget: Callable[[float], None]
):
    model = FAMILIES["SD 1.5"].model()
    patched = with_lora(model)
    expected = run(case, patched, clip)
    plain = run(case, model, clip)
    budget(share * model.model_size() + 0.1)
    made = run(case, patched, clip)
    assert model.model.model_lowvram is True and model.model.lowvram_patch_counter > 0
    print(f"{relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-3 < 1e-2 < relative_error(plain, expected)
