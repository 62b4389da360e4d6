"""pix2pix-zero in ComfyUI: what its guidance does, what it costs, and how it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import pix2pix_zero
from ale_edit.host import gradients
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting.methods import invert_by
from ale_edit.host.inverting.sampler import inversion_sampler
from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.host.text.directions import move_text
from ale_edit.host.text.embedding import encode_text
from ale_edit.inversion.stored import Schedule
from ale_edit.prompts.directions import SentencePair, make_sentences
from ale_edit.tests.host.runs import relative_error
from ale_edit.tests.host.test_every_editor import rows_of
from ale_edit.tests.host.test_stopped_runs import interrupt_at, live_bytes
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model, randomise
from ale_edit.tests.tiny import edits_of, source_latent, tiny_model

pytestmark = pytest.mark.comfy

PAIRS = (("wolf", "red fox"), ("yellow moon", "yellow balloon"))
PROMPT = "wolf and yellow moon"
SETTINGS = pix2pix_zero.Pix2PixZeroSettings(steps=4, inversion_method="DDIM")
PLAIN = replace(SETTINGS, attention_guidance=0.0)
SAME = {"source_sentences": "a wolf\nthe moon", "target_sentences": "a wolf\nthe moon"}
CONTROL = pix2pix_zero.Pix2PixZeroControl


def edit(
    model: Any,
    clip: Any,
    settings: Any = SETTINGS,
    latent: Tensor | None = None,
    seed: int = 5,
    **options: Any,
) -> Tensor:
    opened = open_edit(
        pix2pix_zero.EDITOR, settings, model, clip, edits_of(PAIRS), reuses_source=False, **options
    )
    return opened.sample(source_latent() if latent is None else latent, seed, lambda *_: None)


@pytest.fixture(scope="module")
def clear() -> tuple[Any, Any]:
    """A MODEL and a CLIP of random weights whose attention depends clearly on words."""
    return comfy_model(), comfy_clip()


# -- what it does ----------------------------------------------------------------------------------


def sample_plainly(model: Any, clip: Any, target: Any, guidance: float) -> Tensor:
    """A text by DDIM from the inversion, guided away from the source prompt, without the editor."""
    source = encode_text(clip, PROMPT)
    schedule = Schedule(4)
    inversion = invert_by(
        "DDIM", model, source, source_latent(), schedule, PROMPT,
        negative=source, convention="own level", callback=lambda *_: None,
    )  # fmt: skip
    branches = [Branch("source", source, 1.0), Branch("target", target, guidance)]
    guider = BranchGuider(model, branches, source, reuses_source=False)
    latent, sigmas = source_latent(), sigmas_of(model, schedule)
    return guider.sample(
        torch.zeros_like(latent), latent, inversion_sampler(inversion), sigmas, seed=5
    )


def moved_text(clip: Any) -> Any:
    pairs = [
        SentencePair(make_sentences(source), make_sentences(target)) for source, target in PAIRS
    ]
    return move_text(clip, encode_text(clip, PROMPT), pairs)


def test_without_guidance_by_attention_it_is_plain_sampling_of_the_moved_text(clear):
    model, clip = clear
    expected = sample_plainly(model, clip, moved_text(clip), 5.0)
    assert relative_error(edit(model, clip, PLAIN), expected) < 1e-5
    assert relative_error(edit(model, clip), expected) > 0.01


def test_a_direction_to_nowhere_gives_the_reconstruction(clear):
    """Its maps are the source's, so that nothing pulls at the latents."""
    model, clip = clear
    expected = sample_plainly(model, clip, encode_text(clip, PROMPT), 1.0)
    found = edit(model, clip, replace(SETTINGS, **SAME))
    assert relative_error(found, expected) < 1e-4
    assert relative_error(edit(model, clip), expected) > 0.01


def see_losses(patch: pytest.MonkeyPatch) -> list[float]:
    """The loss of each evaluation that is compared, from now on."""
    found: list[float] = []
    find = pix2pix_zero.find_gradient

    def see(loss: Tensor, *args: Any) -> Tensor:
        found.append(float(loss.detach().sum()))
        return find(loss, *args)

    patch.setattr(pix2pix_zero, "find_gradient", see)
    return found


def test_an_update_makes_the_maps_more_like_the_sources(clear, monkeypatch):
    """A second update from where the first one led finds a smaller loss."""
    model, clip = clear
    descend = CONTROL._descend

    def twice(self: Any, branch: str, x: Tensor, step: Any, evaluate: Any) -> Tensor:
        moved = descend(self, branch, x, step, evaluate)
        descend(self, branch, moved, step, evaluate)
        return moved

    found = see_losses(monkeypatch)
    monkeypatch.setattr(CONTROL, "_descend", twice)
    edit(model, clip, replace(SETTINGS, attention_guidance=0.01))
    pairs = list(zip(found[::2], found[1::2], strict=True))
    print(" ".join(f"{before:.3g}->{after:.3g}" for before, after in pairs))
    assert len(pairs) == 4 * 2
    assert all(after < before for before, after in pairs if before > 1e-6)


def test_the_directions_of_all_edits_are_added(clear):
    model, clip = clear
    rows = {
        pairs: move_text(
            clip,
            encode_text(clip, PROMPT),
            pix2pix_zero.find_sentences(SETTINGS, pairs),
        )[0][0]
        for pairs in (PAIRS, PAIRS[:1], PAIRS[1:])
    }
    plain = encode_text(clip, PROMPT)[0][0]
    both, first, second = (rows[pairs] - plain for pairs in (PAIRS, PAIRS[:1], PAIRS[1:]))
    torch.testing.assert_close(both, first + second, rtol=0, atol=1e-5)
    assert float(first.abs().max()) > 0.01 < float(second.abs().max())


def test_the_chunks_of_a_long_prompt_all_move(clear):
    _, clip = clear
    prompt = "a wolf " * 50
    text = encode_text(clip, prompt)
    moved = move_text(clip, text, [SentencePair(("wolf",), ("red fox",))])[0][0]
    change = moved - text[0][0]
    assert change.shape[1] == 2 * 77
    torch.testing.assert_close(change[:, :77], change[:, 77:], rtol=0, atol=1e-5)


def test_a_pooled_vector_moves_as_well(clear):
    _, clip = clear
    text = encode_text(clip, PROMPT)
    moved = move_text(clip, text, [SentencePair(("wolf",), ("red fox", "fox"))])
    pooled = [encode_text(clip, t)[0][1]["pooled_output"] for t in ("wolf", "red fox", "fox")]
    assert pooled[0] is not None
    expected = text[0][1]["pooled_output"] + (pooled[1] + pooled[2]) / 2 - pooled[0]
    torch.testing.assert_close(moved[0][1]["pooled_output"], expected)


@pytest.mark.parametrize("method", pix2pix_zero.STARTS)
def test_item_j_of_a_batch_is_the_single_run_at_seed_plus_j(clear, method):
    model, clip = clear
    settings, latent = replace(SETTINGS, inversion_method=method), source_latent(2)
    batch = edit(model, clip, settings, latent)
    for j in range(2):
        single = edit(model, clip, settings, latent[j : j + 1], 5 + j)
        assert relative_error(batch[j : j + 1], single) < 1e-4


def test_the_source_prompt_as_a_negative_prompt_changes_nothing(clear):
    model, clip = clear
    expected = edit(model, clip)
    given = edit(model, clip, negative=encode_text(clip, PROMPT))
    assert relative_error(given, expected) < 1e-5
    other = edit(model, clip, negative=encode_text(clip, "blurry"))
    assert relative_error(other, expected) > 0.01


# -- how it runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("negative", "more"), [(None, 0), ("blurry", 1)])
def test_rows_and_backward_passes_are_those_of_the_table(clear, monkeypatch, negative, more):
    """An inversion, and each step the source, both halves with gradients, and all three again:
    349 rows in 50 steps (methods.md F: about 350)."""
    model, clip = clear
    given = None if negative is None else encode_text(clip, negative)
    rows, losses = rows_of(monkeypatch, model), see_losses(monkeypatch)
    edit(model, clip, negative=given)
    assert sum(rows) == 3 + 4 * (1 + 2 + 3 + more) and len(losses) == 4 * 2
    assert 49 + 50 * (1 + 2 + 3) == 349


def test_without_guidance_by_attention_there_are_no_gradients(clear, monkeypatch):
    model, clip = clear
    rows, losses = rows_of(monkeypatch, model), see_losses(monkeypatch)
    edit(model, clip, PLAIN)
    assert sum(rows) == 3 + 4 * 3 and not losses


def test_a_stored_inversion_is_not_made_again(clear, monkeypatch):
    model, clip = clear
    source = encode_text(clip, PROMPT)
    inversion = invert_by(
        "regularised", model, source, source_latent(), Schedule(4), PROMPT,
        negative=source, convention="own level", seed=5, callback=lambda *_: None,
    )  # fmt: skip
    settings = replace(PLAIN, inversion_method="regularised")
    expected = edit(model, clip, settings)
    rows = rows_of(monkeypatch, model)
    found = edit(model, clip, replace(PLAIN, inversion_method="direct"), inversion=inversion)
    assert sum(rows) == 4 * 3 and relative_error(found, expected) < 1e-5
    assert relative_error(edit(model, clip, PLAIN), expected) > 1e-3


def first_gradient(model: Any, clip: Any, patch: pytest.MonkeyPatch) -> Tensor:
    found: list[Tensor] = []
    find = pix2pix_zero.find_gradient

    def see(*args: Any) -> Tensor:
        found.append(find(*args))
        return found[-1]

    with patch.context() as own:
        own.setattr(pix2pix_zero, "find_gradient", see)
        edit(model, clip)
    return found[0]


def test_weights_in_half_precision_give_the_same_gradient(clear, monkeypatch):
    model, clip = clear
    half = tiny_model(dtype=torch.float16)
    randomise(half.model.diffusion_model, 0)
    expected, found = (first_gradient(m, clip, monkeypatch) for m in (model, half))
    error = float((found - expected).norm() / expected.norm())
    print(f"gradient in fp16 differs by {error:.1e}")
    assert found.dtype == torch.float32 and error < 0.05


def test_blocks_that_are_computed_again_give_the_same_edit(clear, monkeypatch):
    """Although the loss is made inside them."""
    model, clip = clear
    expected = edit(model, clip)
    monkeypatch.setattr(gradients, "_run_block", lambda run, *args, **named: run(*args, **named))
    assert relative_error(edit(model, clip), expected) < 1e-4


@pytest.mark.parametrize("call", [4, 5, 6])
def test_an_interruption_stops_in_the_optimisation_and_frees_its_memory(clear, monkeypatch, call):
    """As the button of ComfyUI sets it. Calls 0 to 2 are the inversion's, 3 the source's, 4 and 5
    those with gradients."""
    model, clip = clear
    edit(model, clip)
    rows = rows_of(monkeypatch, model)
    interrupt_at(call, lambda: edit(model, clip), model, rows, monkeypatch)
    assert len(rows) <= call + 2
    monkeypatch.undo()
    assert bool(edit(model, clip).isfinite().all())


def test_nothing_is_kept_after_an_edit(clear):
    model, clip = clear
    edit(model, clip)
    held = live_bytes()
    edit(model, clip)
    assert live_bytes() <= held


def test_a_gradient_that_is_no_number_names_its_step(clear):
    model, clip = clear
    with pytest.raises(
        ValueError, match=r"^pix2pix-zero: at step \d of 4, the .*Lower attention_guidance"
    ):
        edit(model, clip, replace(SETTINGS, attention_guidance=1e38))
