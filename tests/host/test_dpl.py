"""DPL in ComfyUI: what is learned is saved and used again, what it costs, and how it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import comfy.model_management
import folder_paths
import pytest
import torch
from torch import Tensor

from ale_edit.demo.models import load_demo_model
from ale_edit.demo.world import demo_edits, make_scene, render
from ale_edit.editors import dpl, masactrl, p2p
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting import dynamic_words as host
from ale_edit.host.inverting import null_text
from ale_edit.host.inverting.files import load_inversion, save_inversion
from ale_edit.host.inverting.sampler import inversion_sampler
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.sampling.branch_inputs import Branch
from ale_edit.host.sampling.schedule import sigmas_of
from ale_edit.host.text.dynamic import encode_with, read_embeddings, record_text_gradients
from ale_edit.host.text.tokens import tokenize
from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.runs import plain, relative_error, use_opaque_attention
from ale_edit.tests.host.test_every_editor import rows_of
from ale_edit.tests.host.test_stopped_runs import interrupt_at
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model
from ale_edit.tests.tiny import (
    edits_of,
    source_latent,
    tiny_clip,
    tiny_model,
    tiny_sdxl_clip,
    two_regions,
)

pytestmark = pytest.mark.comfy

PAIRS = (("grey wolf", "brown wolf"), ("yellow moon", "yellow ball"))
SETTINGS = dpl.DPLSettings(steps=4, updates=2, null_updates=1, thresholds=0.0, schedule="paper")


def edit(
    model: Any,
    clip: Any,
    settings: Any = SETTINGS,
    latent: Tensor | None = None,
    editor: Any = dpl.EDITOR,
    **given: Any,
) -> tuple[Tensor, list[Inversion]]:
    """The edited latents, and the inversion that they started from."""
    kept: list[Inversion] = []
    if editor is dpl.EDITOR and settings.priors == "masks":
        given["regions"] = two_regions()
    with torch.inference_mode():
        opened = open_edit(
            editor, settings, model, clip, edits_of(PAIRS), keep_inversion=kept.append, **given
        )
        made = opened.sample(source_latent() if latent is None else latent, 5, lambda *_: None)
    return made, kept


@pytest.fixture(scope="module")
def clear() -> Any:
    """A MODEL and a CLIP of random weights whose attention depends clearly on words."""
    return comfy_model(), comfy_clip()


# -- what was learned ------------------------------------------------------------------------------


def test_a_saved_inversion_gives_the_same_edit(clear, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    expected, (learned,) = edit(*clear)
    loaded = load_inversion(save_inversion(learned, "words"))
    assert loaded.method == "DPL" and loaded.word_rows == learned.word_rows == (2, 5)
    made, (used,) = edit(*clear, inversion=loaded)
    assert used is loaded and relative_error(made, expected) < 1e-4


def test_a_new_edit_from_what_was_learned_costs_its_steps_alone(clear, monkeypatch):
    _, (learned,) = edit(*clear)
    rows = rows_of(monkeypatch, clear[0])
    edit(*clear, inversion=learned)
    assert sum(rows) == 4 * 4


def test_another_model_another_prompt_and_another_text_encoder_are_refused(clear):
    _, (learned,) = edit(*clear)
    model, clip = clear
    with pytest.raises(ValueError, match="^DPL: the inversion was made with the prompt"):
        other = edits_of([("grey cat", "brown cat")])
        open_edit(dpl.EDITOR, SETTINGS, model, clip, other, inversion=learned)
    with pytest.raises(ValueError, match="the inversion was made with the model"):
        edit(tiny_model(), clip, inversion=learned)
    with pytest.raises(ValueError, match="^DPL: .* were learned with another text encoder"):
        edit(model, tiny_clip(), inversion=learned)


def test_a_prompt_of_two_chunks_has_learned_words_in_its_first(clear, tmp_path, monkeypatch):
    """Beside negative texts of one chunk; saved and loaded, too."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    model, clip = clear
    long = " ".join(["very"] * 80)
    edits = edits_of(
        PAIRS, None,
        f"grey wolf and yellow moon over a {long} house",
        f"brown wolf and yellow ball over a {long} house",
    )  # fmt: skip
    kept: list[Inversion] = []
    with torch.inference_mode():
        opened = open_edit(dpl.EDITOR, SETTINGS, model, clip, edits, keep_inversion=kept.append)
        made = opened.sample(source_latent(), 5, lambda *_: None)
        loaded = load_inversion(save_inversion(kept[0], "long"))
        again = open_edit(dpl.EDITOR, SETTINGS, model, clip, edits, inversion=loaded)
        other = again.sample(source_latent(), 5, lambda *_: None)
    assert loaded.word_texts is not None and loaded.null_texts is not None
    assert (loaded.word_texts.shape[2], loaded.null_texts.shape[2]) == (154, 77)
    assert relative_error(other, made) < 1e-4


def test_nouns_are_found_in_another_case(clear):
    model, clip = clear
    found = [
        open_edit(dpl.EDITOR, replace(SETTINGS, nouns=nouns), model, clip, edits_of(PAIRS)).learner
        for nouns in ("wolf moon", "WOLF, Moon")
    ]
    assert all(own is not None and own.words.nouns == ((2,), (5,)) for own in found)


def test_embeddings_of_another_number_of_steps_are_refused(clear):
    _, (learned,) = edit(*clear)
    assert learned.word_vectors is not None
    cut = replace(learned, word_vectors=learned.word_vectors[:2])
    with pytest.raises(ValueError, match=r"holds embeddings of the shape \(2, 1, 2, 32\)"):
        edit(*clear, inversion=cut)


@pytest.mark.parametrize("editor", [p2p.EDITOR, masactrl.EDITOR], ids=lambda e: e.name)
def test_in_another_editor_the_source_branch_has_the_learned_words(clear, editor):
    model, clip = clear
    _, (learned,) = edit(model, clip)
    settings = editor.settings(steps=4, time_steps="DDIM")
    if editor is masactrl.EDITOR:
        settings = replace(settings, source_prompt="edits")
    made, _ = edit(model, clip, settings, editor=editor, inversion=learned)
    unlearned = replace(learned, word_vectors=None, word_texts=None, method="null-text")
    other, _ = edit(model, clip, settings, editor=editor, inversion=unlearned)
    assert relative_error(made, other) > 1e-3


def test_sample_from_inversion_gives_the_source_the_learned_words(clear, monkeypatch):
    """And leaves the target its own."""
    model, clip = clear
    _, (learned,) = edit(model, clip)
    assert learned.word_texts is not None
    text, other = plain(clip, learned.prompt), plain(clip, "brown goat")
    guider = BranchGuider(
        model, (Branch("source", text, 3.0), Branch("target", other, 3.0)), plain(clip, "")
    )
    seen: list[Tensor] = []
    apply_model = model.model.apply_model

    def see(x: Tensor, *args: Any, c_crossattn: Tensor, **named: Any) -> Tensor:
        seen.append(c_crossattn.clone())
        return apply_model(x, *args, c_crossattn=c_crossattn, **named)

    monkeypatch.setattr(model.model, "apply_model", see)
    latent = source_latent()
    with torch.inference_mode():
        guider.sample(
            torch.zeros_like(latent), latent, inversion_sampler(learned),
            sigmas_of(model, Schedule(4)), disable_pbar=True, seed=0,
        )  # fmt: skip
    assert len(seen) == 4
    for rows, own in zip(seen, learned.word_texts, strict=True):
        assert any(torch.equal(row, own[0]) for row in rows)
        assert any(torch.equal(row, other[0][0][0]) for row in rows)
        assert not any(torch.equal(row, text[0][0][0]) for row in rows)


def test_the_cheap_schedule_has_fewer_updates(clear, monkeypatch):
    counts: list[list[int]] = []
    for schedule in dpl.PACES:
        found: list[int] = []
        fit = host.fit_words

        def see(before: Any, measure: Any, *args: Any, fit: Any = fit, found: Any = found) -> Any:
            found.append(0)

            def count(vectors: Tensor) -> Tensor:
                found[-1] += 1
                return measure(vectors)

            return fit(before, count, *args)

        with monkeypatch.context() as patch:
            patch.setattr(host, "fit_words", see)
            edit(clear[0], clear[1], replace(SETTINGS, updates=7, schedule=schedule))
        counts.append(found)
    assert counts == [[7, 7, 7, 7], [2, 0, 2, 0]]


# -- losses ----------------------------------------------------------------------------------------


def watch_losses(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The weighted loss of each evaluation from now on, by step."""
    found: list[list[float]] = []
    fit = host.fit_words

    def see(before: Any, measure: Any, terms: Any, *args: Any) -> Tensor:
        found.append([])
        weights = torch.tensor([term.weight for term in terms])

        def count(vectors: Tensor) -> Tensor:
            losses = measure(vectors)
            found[-1].append(float((losses.detach()[0] * weights).sum()))
            return losses

        return fit(before, count, terms, *args)

    monkeypatch.setattr(host, "fit_words", see)
    return found


@pytest.mark.parametrize("priors", dpl.PRIORS)
def test_the_loss_falls_within_a_step(clear, monkeypatch, priors):
    found = watch_losses(monkeypatch)
    model, clip = clear
    edit(model, clip, replace(SETTINGS, updates=6, priors=priors, adjective_binding=True))
    assert len(found) == 4
    for step in found:
        print(" ".join(f"{loss:.4f}" for loss in step))
        assert len(step) == 6 and step == sorted(step, reverse=True) and step[-1] < step[0]


@pytest.mark.parametrize("priors", dpl.PRIORS)
def test_the_loss_falls_on_the_demo_world(monkeypatch, priors):
    model, clip, vae = load_demo_model()
    image, masks = render(make_scene(10_000, 2))  # of the seeds for choosing settings
    edits = edits_of([pair[:2] for pair in demo_edits(10_000, name_colors=True)])
    regions = make_regions(list(masks.float()), edits.sources, 0.0)
    found = watch_losses(monkeypatch)
    settings = replace(SETTINGS, priors=priors, updates=12, source_guidance=3.0)
    with torch.inference_mode():
        given = regions if priors == "masks" else None
        opened = open_edit(dpl.EDITOR, settings, model, clip, edits, regions=given)
        opened.invert(cast("Tensor", vae.encode(image[None])), 0)
    for step in found:
        print(" ".join(f"{loss:.4f}" for loss in step))
    assert len(found) == 4 and all(step[-1] < step[0] for step in found)


def test_a_loss_that_is_no_number_names_its_step(clear, monkeypatch):
    monkeypatch.setattr(host, "overlap_loss", lambda maps: maps.sum((1, 2, 3)) * torch.nan)
    said = r"^DPL: at step 1 of 4, the loss of disjoint objects is \[nan\]\. Run the model in fp32"
    with pytest.raises(ValueError, match=said):
        edit(*clear)


def test_a_gradient_that_is_no_number_names_its_step(clear, monkeypatch):
    def spoil(maps: Tensor) -> Tensor:
        return (maps.sum((1, 2, 3)) * 0).abs().sqrt()

    monkeypatch.setattr(host, "overlap_loss", spoil)
    said = r"^DPL: at step 1 of 4, the gradient of each image is \[nan\]\. Run the model in fp32"
    with pytest.raises(ValueError, match=said):
        edit(*clear)


def test_a_card_with_too_little_memory_says_what_gradients_need(clear, monkeypatch):
    """While words are learned, and while null texts are optimised, here and in other editors."""

    def fail(*args: Any, **named: Any) -> Tensor:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    model, clip = clear
    said = "the gradients of latents of 8x8 cells .* GB"
    for place in ((host, "fit_words"), (null_text, "fit_null_text")):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"^DPL: {said}"):
            patch.setattr(*place, fail)
            edit(model, clip)
    monkeypatch.setattr(null_text, "fit_null_text", fail)
    settings = p2p.P2PSettings(steps=4, inversion_method="null-text")
    with pytest.raises(ValueError, match=f"^Invert Image: {said}"):
        edit(model, clip, settings, editor=p2p.EDITOR)


def test_an_attention_without_gradients_is_not_used_for_them(clear, monkeypatch):
    """As SageAttention's, which ComfyUI may have selected."""
    expected, _ = edit(*clear)
    use_opaque_attention(monkeypatch)
    made, _ = edit(*clear)
    assert relative_error(made, expected) < 1e-4


# -- how it runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_clip, tiny_sdxl_clip], ids=["SD 1.5", "SDXL"])
def test_a_prompt_with_its_own_embeddings_is_the_prompt(make):
    """And gradients flow back to each embedding, through layers that add in place."""
    clip = make()
    tokens = tokenize(clip, "a (grey:1.2) wolf and a moon")
    rows = [2, 3, 6]
    with torch.inference_mode():
        expected = clip.encode_from_tokens(tokens)
        own = read_embeddings(clip, tokens, rows)
    with record_text_gradients(clip):
        vectors = own.clone().repeat(2, 1, 1).requires_grad_()
        made = encode_with(clip, tokens, {row: vectors[:, k] for k, row in enumerate(rows)})
        torch.testing.assert_close(made, expected.repeat(2, 1, 1), rtol=0, atol=1e-5)
        made[:, 10].sum().backward()
    assert vectors.grad is not None and bool((vectors.grad.abs().amax(2) > 0).all())
    assert not any(norm._forward_pre_hooks for norm in clip.cond_stage_model.modules())
    again = clip.encode_from_tokens(tokens)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)


def test_it_runs_on_weights_that_were_made_in_inference_mode(clear):
    """As ComfyUI's loaders make them."""
    model, clip = clear
    expected, _ = edit(model, clip)
    with torch.inference_mode():
        others = comfy_model(), comfy_clip()
    made, _ = edit(*others)
    assert relative_error(made, expected) < 1e-4


def test_item_j_of_a_batch_is_the_single_edit(clear):
    """With an inversion of its own, too: the embeddings of each image are its own."""
    latent = source_latent(2)
    both, (learned,) = edit(*clear, latent=latent)
    alone, (own,) = edit(*clear, latent=latent[1:])
    assert relative_error(both[1:], alone) < 1e-3
    assert learned.word_vectors is not None and own.word_vectors is not None
    torch.testing.assert_close(learned.word_vectors[:, 1:], own.word_vectors, rtol=0, atol=1e-4)
    assert not torch.allclose(learned.word_vectors[:, :1], own.word_vectors, atol=1e-4)


@pytest.mark.parametrize("call", [1, 4, 6])
def test_an_interruption_stops_at_once_and_frees_its_memory(clear, monkeypatch, call):
    """As the button of ComfyUI sets it: call 1 is the inversion's, 4 and 6 are of the nouns and of
    the negative text."""
    model, clip = clear
    edit(model, clip)
    rows = rows_of(monkeypatch, model)
    interrupt_at(call, lambda: edit(model, clip), model, rows, monkeypatch)
    assert len(rows) <= call + 1
