"""Null-text inversion: its gradients are right, it lowers the error of reconstruction, and it runs
in ComfyUI's inference mode."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from ale_edit.editors import p2p
from ale_edit.host.editing import open_edit
from ale_edit.host.gradients import leaf, record_gradients
from ale_edit.host.inverting.methods import invert_by
from ale_edit.host.inverting.sampler import inversion_sampler
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.sampling.branch_inputs import Branch
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.inversion.null_text import NullTextSettings, fit_null_text
from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.tests.host.runs import plain
from ale_edit.tests.host.test_stopped_runs import live_bytes
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model
from ale_edit.tests.tiny import edits_of, source_latent, tiny_model

pytestmark = pytest.mark.comfy

PROMPT = "grey wolf and yellow moon"
SCHEDULE = Schedule(4)
GUIDANCE = 7.5


def invert(model: Any, clip: Any, method: Any, latent: Tensor, **changed: Any) -> Inversion:
    usual = {"negative": plain(clip, ""), "guidance": GUIDANCE}
    text = plain(clip, PROMPT)
    return invert_by(method, model, text, latent, SCHEDULE, PROMPT, **{**usual, **changed})


def reconstruct(model: Any, clip: Any, inversion: Inversion, latent: Tensor) -> float:
    """The error of the source branch, sampled with guidance from the inversion."""
    text = plain(clip, PROMPT)
    negative = text if inversion.method == "negative-prompt" else plain(clip, "")
    branches = (Branch("target", text, GUIDANCE),)
    guider = BranchGuider(model, branches, negative)
    made = guider.sample(
        torch.zeros_like(latent),
        latent,
        inversion_sampler(inversion),
        sigmas_of(model, SCHEDULE),
        disable_pbar=True,
        seed=0,
    )
    return float((made - latent).square().mean())


def test_null_texts_lower_the_error_of_reconstruction():
    """On a random network whose output is of the size of its noise."""
    network, clip, latent = comfy_model(), comfy_clip(), source_latent(2)
    errors = {
        method: reconstruct(network, clip, invert(network, clip, method, latent), latent)
        for method in ("DDIM", "null-text", "negative-prompt")
    }
    print({method: f"{error:.2e}" for method, error in errors.items()})
    assert errors["null-text"] < 0.8 * errors["DDIM"]
    assert errors["negative-prompt"] < 0.1 * errors["DDIM"]


def count_calls(monkeypatch: pytest.MonkeyPatch, network: Any) -> list[int]:
    """The rows of each call of a UNet from now on."""
    rows: list[int] = []
    run = network.forward

    def forward(x: Tensor, *args: Any, **named: Any) -> Tensor:
        rows.append(len(x))
        return run(x, *args, **named)

    monkeypatch.setattr(network, "forward", forward)
    return rows


def test_at_guidance_1_it_is_ddim_inversion_and_says_so(model, clip, monkeypatch, caplog):
    """There the negative text cancels out, so each text would stay what it was."""
    latent = source_latent(1)
    expected = invert(model, clip, "DDIM", latent)
    rows = count_calls(monkeypatch, model.model.diffusion_model)
    made = invert(model, clip, "null-text", latent, guidance=1.0)
    assert len(rows) == 3  # of 4 steps, one of which goes nowhere; null texts take up to 13 more
    assert made.method == "DDIM" and made.null_texts is None
    assert torch.equal(made.latents, expected.latents)
    (notice,) = (text for text in caplog.messages if "null-text" in text)
    assert notice.startswith("Invert Image: null-text inversion at guidance 1 has nothing to ")
    assert notice.endswith("Set guidance (in an editor, target_guidance) above 1, or choose DDIM.")


@pytest.mark.parametrize(
    ("source", "target", "guidance"), [(7.5, 7.5, 7.5), (3.0, 5.0, 3.0), (1.0, 2.0, 2.0)]
)
def test_an_editor_finds_null_texts_at_the_guidance_that_they_act_at(
    model, clip, source, target, guidance
):
    """The source's, or the target's where the source has none: as on the ground of ALE-Edit with an
    LCM model."""
    settings = p2p.P2PSettings(
        steps=4, source_guidance=source, target_guidance=target, inversion_method="null-text"
    )
    edit = open_edit(p2p.EDITOR, settings, model, clip, edits_of([("grey wolf", "grey goat")]))
    assert edit.guidance == guidance


def test_null_texts_change_an_edit_whose_source_has_no_guidance(model, clip):
    edits, latent = edits_of([("grey wolf", "grey goat")]), source_latent(1)

    def run(method: Any) -> Tensor:
        settings = p2p.P2PSettings(
            steps=4, source_guidance=1.0, target_guidance=2.0, inversion_method=method
        )
        return open_edit(p2p.EDITOR, settings, model, clip, edits).sample(latent, 0)

    assert not torch.allclose(run("null-text"), run("DDIM"), atol=1e-4)


def test_it_runs_on_weights_that_were_made_in_inference_mode(model, clip):
    """As ComfyUI's loaders make them. The weights stay what they were."""
    latent = source_latent(1)
    expected = invert(model, clip, "null-text", latent)
    with torch.inference_mode():
        other = tiny_model()
        for own, given in zip(
            other.model.diffusion_model.parameters(),
            model.model.diffusion_model.parameters(),
            strict=True,
        ):
            own.copy_(given)
        made = invert(other, clip, "null-text", latent.clone())
    assert made.null_texts is not None and expected.null_texts is not None
    assert torch.allclose(made.null_texts, expected.null_texts, atol=1e-5)
    assert not any(p.requires_grad for p in other.model.diffusion_model.parameters())
    assert made.model == expected.model


def test_the_gradient_of_a_network_is_the_one_of_finite_differences(model, clip):
    """Of one number of the text, in double precision."""
    network = model.model.diffusion_model
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 8, generator=draws).double()
    text = torch.randn(1, 77, plain(clip, "")[0][0].shape[-1], generator=draws).double()
    network.double()
    try:
        with record_gradients(model.model):
            given = leaf(text, requires_grad=True)
            out = network(x, torch.tensor([500.0]).double(), context=given)
            out.square().sum().backward()
            assert given.grad is not None
            slope = float(given.grad[0, 3, 5])
        step = torch.zeros_like(text)
        step[0, 3, 5] = 1e-5
        with torch.no_grad():
            above, below = (
                network(x, torch.tensor([500.0]).double(), context=text + sign * step)
                for sign in (1, -1)
            )
        found = float((above.square().sum() - below.square().sum()) / 2e-5)
    finally:
        network.float()
    assert slope == pytest.approx(found, rel=1e-3, abs=1e-7) and slope != 0


# -- the fit alone -----------------------------------------------------------------------------


def fit(settings: NullTextSettings, predict: Any, step: int = 0, steps: int = 50) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(2, 1, 2, 2)
        wanted = torch.full((2, 1, 2, 2), 0.5)
        text = torch.zeros(2, 1, 1)
        return fit_null_text(text, predict, x * 0, x, wanted, 2.0, 1.0, settings, step, steps)


def test_the_updates_are_those_of_adam_on_the_mean_squared_error():
    """An own loop on torch's functions."""

    def predict(text: Tensor) -> Tensor:
        return text.mean(dim=(1, 2))[:, None, None, None].expand(2, 1, 2, 2)

    with torch.inference_mode(False), torch.enable_grad():
        own = torch.zeros(2, 1, 1, requires_grad=True)
        adam = torch.optim.Adam([own], lr=0.01 * (1 - 20 / 100))
        for _ in range(10):
            denoised = predict(own) + 7.5 * (0 - predict(own))
            reached = denoised + 0.5 * (1 - denoised)
            loss = torch.nn.functional.mse_loss(reached, torch.full((2, 1, 2, 2), 0.5)) / 2
            adam.zero_grad()
            loss.backward()
            adam.step()
    assert torch.allclose(fit(NullTextSettings(), predict, step=20), own.detach(), atol=1e-6)


def test_each_image_has_the_text_that_it_has_alone():
    """One of them is done before the other."""

    def predict(text: Tensor) -> Tensor:
        return text.mean(dim=(1, 2))[:, None, None, None].expand(-1, 1, 2, 2)

    with torch.inference_mode(False), torch.enable_grad():
        x, text = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 1)
        wanted = torch.tensor([0.5001, 0.7])[:, None, None, None].expand(2, 1, 2, 2)

        def fit_items(items: slice) -> Tensor:
            return fit_null_text(
                text[items], predict, x[items] * 0, x[items], wanted[items],
                2.0, 1.0, NullTextSettings(), 0, 50,
            )  # fmt: skip

        both, alone = (
            fit_items(slice(None)),
            torch.cat([fit_items(slice(1)), fit_items(slice(1, 2))]),
        )
    assert torch.equal(both, alone) and float(both[0]) != float(both[1])


def test_it_stops_where_the_error_is_small_enough():
    calls: list[int] = []

    def predict(text: Tensor) -> Tensor:
        calls.append(1)
        return 0 * text.sum() + torch.zeros(2, 1, 2, 2)  # with x = 1: reaches 0.5 exactly

    fit(NullTextSettings(), predict)
    assert len(calls) == 1


def test_an_error_that_is_no_number_names_its_step():
    with pytest.raises(ValueError, match=r"the error at step 3 of 6 is \[nan, nan\]\. Run"):
        fit(NullTextSettings(), lambda text: text.sum() * torch.nan * torch.ones(2, 1, 2, 2), 2, 6)


@pytest.mark.parametrize("call", [0, 2, 5, 20])
def test_an_interruption_stops_before_the_next_call_of_the_model_and_frees_its_memory(
    model, clip, monkeypatch, call
):
    """As the button of ComfyUI sets it, while the model runs: call 0 is of the inversion, 5 and 20
    are of the optimisation, forwards or backwards; all in inference mode, as a node."""
    latent = source_latent(1)
    with torch.inference_mode():
        invert(model, clip, "null-text", latent)  # weights are ordinary tensors from now on
        conditioning, empty = plain(clip, PROMPT), plain(clip, "")
        held, rows = live_bytes(), count_calls(monkeypatch, model.model.diffusion_model)
        counted = model.model.diffusion_model.forward

        def forward(x: Tensor, *args: Any, **named: Any) -> Tensor:
            if len(rows) == call:
                comfy.model_management.interrupt_current_processing()
            return counted(x, *args, **named)

        monkeypatch.setattr(model.model.diffusion_model, "forward", forward)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            invert_by(
                "null-text", model, conditioning, latent, SCHEDULE, PROMPT,
                negative=empty, guidance=GUIDANCE,
            )  # fmt: skip
    assert len(rows) == call + 1
    assert live_bytes() <= held
    assert not comfy.model_management.processing_interrupted()


def test_cancel_stops_in_the_middle_of_a_step(model, clip, monkeypatch):
    count = iter(range(100))

    def interrupt() -> None:
        if next(count) == 3:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(
        comfy.model_management, "throw_exception_if_processing_interrupted", interrupt
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        invert(model, clip, "null-text", source_latent(1))
