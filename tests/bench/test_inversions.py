"""How well inversions give the demo world back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, float], float]:
    """By method, steps and guidance, of one scene, with the published code's convention."""
    from ale_edit.bench import inversions

    out = tmp_path_factory.mktemp("inversions") / "deep" / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversions, "STEP_COUNTS", (4, 12))
        assert inversions.main(["--scenes", "1", "--steps", "8", "--out", str(out)]) == 0
    report = json.loads(Path(out).read_text(encoding="utf-8"))
    assert report["scenes"] == 1
    return {
        (row["method"], row["steps"], row["guidance"]): row["error"]
        for row in report["rows"]
        if row["convention"] == "published code"
    }


def test_the_error_without_guidance_falls_with_steps(errors):
    assert errors["DDIM", 12, 1.0] < 0.8 * errors["DDIM", 4, 1.0] < 1


def test_null_texts_and_the_negative_prompt_lower_the_error_of_guidance(errors):
    plain = errors["DDIM", 8, 7.5]
    assert plain > errors["DDIM", 4, 1.0]
    assert errors["null-text", 8, 7.5] < 0.7 * plain
    assert errors["negative-prompt", 8, 7.5] < 0.5 * plain


def test_noise_maps_give_the_scene_back_at_any_guidance(errors):
    assert errors["edit-friendly", 8, 7.5] < 1e-5
