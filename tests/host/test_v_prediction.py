"""Models that predict v: inversions and edits are those of the same model as it predicts noise."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import comfy.model_sampling
import comfy.patcher_extension
import pytest
import torch
from torch import Tensor

from ale_edit.editors import COMPARED, p2p
from ale_edit.editors.editor import Editor
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting.methods import invert_by
from ale_edit.inversion.stored import INVERSION_METHODS, Schedule
from ale_edit.tests.host.runs import plain, relative_error, with_option
from ale_edit.tests.host.test_every_editor import SETTINGS, regions_for
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model
from ale_edit.tests.tiny import edits_of, source_latent

pytestmark = pytest.mark.comfy

PAIRS = (("wolf", "red fox"), ("yellow moon", "yellow balloon"))
STEPS = 4


class VSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """As ComfyUI makes it for a checkpoint that predicts v."""


def as_v(model: Any, is_converted: bool = True) -> Any:
    """A MODEL that predicts v, whose v means the noise that `model` predicts: v = eps / sqrt(abar)
    - sigma z, of the network's input z."""
    sampling = VSampling(model.model.model_config)

    def convert(executor: Any, z: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        eps = executor(z, t, *args, **kwargs)
        sigma = sampling.sigma(t).to(z)[:, None, None, None]
        return (1 + sigma**2).sqrt() * eps - sigma * z if is_converted else eps

    def change(clone: Any) -> None:
        clone.add_object_patch("model_sampling", sampling)
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        clone.add_wrapper_with_key(kind, "v", convert)

    return with_option(model, change)


@pytest.mark.parametrize("convention", ["published code", "own level"])
@pytest.mark.parametrize("method", INVERSION_METHODS)
def test_an_inversion_is_that_of_the_noise_that_v_means(method, convention):
    model, clip, latent = comfy_model(), comfy_clip(), source_latent(2)
    found = [
        invert_by(
            method, own, plain(clip, "wolf"), latent, Schedule(STEPS), "wolf",
            negative=plain(clip, ""), guidance=3.0, convention=convention, seed=3,
        )
        for own in (model, as_v(model), as_v(model, is_converted=False))
    ]  # fmt: skip
    expected, made, other = found
    assert relative_error(made.latents, expected.latents) < 1e-4
    if method != "edit-friendly":  # whose latents are those of the image with noise
        assert relative_error(other.latents, expected.latents) > 1e-2
    else:
        assert made.noise_maps is not None and expected.noise_maps is not None
        assert relative_error(made.noise_maps, expected.noise_maps) < 1e-4
    if method == "null-text":
        assert made.null_texts is not None and expected.null_texts is not None
        error = (made.null_texts - expected.null_texts).square().mean().sqrt()
        assert float(error / expected.null_texts.std()) < 1e-4  # see tests/oracle/test_null_text.py


def methods_of(editor: Editor) -> tuple[str | None, ...]:
    """Where an edit by the editor may start from, if it is a setting."""
    found = (f for f in fields(editor.settings) if f.name == "inversion_method")
    return next((field.metadata["choices"] for field in found), (None,))


USUAL = (COMPARED[0], p2p.EDITOR)
"""With and without an inversion. CI runs the others."""
CASES = [
    pytest.param(
        editor,
        method,
        id=f"{editor.name} {method}",
        marks=() if editor in USUAL else pytest.mark.ci,
    )
    for editor in COMPARED
    for method in methods_of(editor)
]


@pytest.mark.parametrize(("editor", "method"), CASES)
def test_an_edit_is_that_of_the_noise_that_v_means(editor: Editor, method: str | None):
    model, clip, latent = comfy_model(), comfy_clip(), source_latent()
    settings = SETTINGS[editor.name]
    if method is not None:
        settings = type(settings)(**{**vars(settings), "inversion_method": method})

    given = {"regions": regions_for(editor), "reuses_source": False}

    def run(own: Any) -> Tensor:
        opened = open_edit(editor, settings, own, clip, edits_of(PAIRS), **given)
        with torch.inference_mode():
            return opened.sample(latent, 5, lambda *_: None)

    expected = run(model)
    error, other = (
        relative_error(run(as_v(model, is_converted=is_v)), expected) for is_v in (True, False)
    )
    print(f"{error:.1e}, {other:.1e} if v is taken for noise")
    assert error < 1e-3 < 1e-2 < other
