"""MAG-Edit in ComfyUI: what it optimises, what it costs, and how it stops."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ale_edit.bench.speed.memory import find_peak
from ale_edit.editors import mag_edit, p2p
from ale_edit.host import gradients
from ale_edit.host.editing import open_edit
from ale_edit.host.gradients import checkpoint_blocks, leaf, record_gradients
from ale_edit.host.sampling import optimising
from ale_edit.tests.full_size import SD15_UNET
from ale_edit.tests.host.runs import relative_error, use_opaque_attention
from ale_edit.tests.host.test_every_editor import rows_of
from ale_edit.tests.host.test_stopped_runs import interrupt_at, live_bytes
from ale_edit.tests.oracle.bridge import comfy_clip, comfy_model, randomise
from ale_edit.tests.tiny import edits_of, source_latent, tiny_model, two_regions

pytestmark = pytest.mark.comfy

PAIRS = (("wolf", "red fox"), ("yellow moon", "yellow balloon"))
SETTINGS = mag_edit.MagEditSettings(steps=4, iterations=2, inversion_method="DDIM")


def edit(
    model: Any,
    clip: Any,
    settings: Any = SETTINGS,
    latent: Tensor | None = None,
    editor: Any = mag_edit.EDITOR,
) -> Tensor:
    regions = two_regions() if editor is mag_edit.EDITOR else None
    opened = open_edit(
        editor, settings, model, clip, edits_of(PAIRS), regions=regions, reuses_source=False
    )
    return opened.sample(source_latent() if latent is None else latent, 5, lambda *_: None)


@pytest.fixture(scope="module")
def clear() -> tuple[Any, Any]:
    """A MODEL and a CLIP of random weights whose attention depends clearly on words."""
    return comfy_model(), comfy_clip()


def see_losses(patch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """The branch and the losses (B, K) of each evaluation from now on."""
    found: list[tuple[str, Tensor]] = []
    look = mag_edit.MagEditControl._losses

    def see(self: Any, branch: str, *args: Any) -> Tensor:
        losses = look(self, branch, *args)
        found.append((branch, losses.detach().clone()))
        return losses

    patch.setattr(mag_edit.MagEditControl, "_losses", see)
    return found


# -- what it does ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DDIM", "direct", "virtual"])
def test_without_iterations_and_blend_it_is_prompt_to_prompt_bit_for_bit(model, clip, method):
    settings = replace(SETTINGS, iterations=0, blend_share=0.0, inversion_method=method)
    plain = p2p.P2PSettings(steps=4, cross_share=0.8, self_share=0.5, inversion_method=method)
    expected = edit(model, clip, plain, editor=p2p.EDITOR)
    assert torch.equal(edit(model, clip, settings), expected)
    assert relative_error(edit(model, clip, replace(settings, iterations=2)), expected) > 0.01


@pytest.mark.parametrize("constraint", mag_edit.CONSTRAINTS)
@pytest.mark.parametrize("method", ["DDIM", "virtual"])
def test_the_loss_falls_within_a_step(clear, monkeypatch, constraint, method):
    found = see_losses(monkeypatch)
    scale = {"token ratio": 1.0, "spatial ratio": 0.3}[constraint]
    settings = replace(SETTINGS, iterations=4, constraint=constraint, scale=scale)
    model, clip = clear
    edit(model, clip, replace(settings, inversion_method=method))
    assert len(found) == 2 * 4
    for step in (found[:4], found[4:]):
        sums = [float(losses.sum()) for _, losses in step]
        print(" ".join(f"{loss:.4f}" for loss in sums))
        assert sums == sorted(sums, reverse=True) and sums[-1] < sums[0] - 1e-4


def test_a_step_that_has_gained_enough_ends_early(clear, monkeypatch):
    """At the loss that the third evaluation finds, the largest of the objects'."""
    model, clip = clear
    found = see_losses(monkeypatch)
    settings = replace(SETTINGS, iterations=4, constraint="spatial ratio", scale=0.3)
    edit(model, clip, settings)
    assert len(found) == 2 * 4
    monkeypatch.setattr(mag_edit, "SPATIAL_RATIO_STOP", float(found[2][1].max()) + 1e-6)
    found.clear()
    edit(model, clip, replace(settings, early_stop=True))
    stop = mag_edit.SPATIAL_RATIO_STOP
    is_enough = [bool((losses <= stop).all()) for _, losses in found]
    assert is_enough[:3] == [False, False, True] and 4 <= len(found) <= 3 + 4


def test_the_image_outside_the_masks_is_the_inverted_one(model, clip):
    settings = replace(SETTINGS, inversion_method="direct", blend_share=1.0)
    latent = source_latent()
    made = edit(model, clip, settings, latent)
    masks = two_regions().raw.amax(0)
    wide = torch.nn.functional.max_pool2d(masks[None, None], 8 * 3, stride=8, padding=8)[0, 0]
    outside = wide[:8, :8] == 0
    assert bool(outside.any()) and relative_error(made, latent) > 0.01
    torch.testing.assert_close(made[..., outside], latent[..., outside], rtol=0, atol=1e-4)


def test_negative_words_change_the_edit_and_cost_a_row_more(model, clip, monkeypatch):
    expected = edit(model, clip)
    rows, found = rows_of(monkeypatch, model), see_losses(monkeypatch)
    made = edit(model, clip, replace(SETTINGS, negative_words="wolf"))
    assert relative_error(made, expected) > 1e-3
    assert [branch for branch, _ in found] == ["target", "source"] * 4
    assert sum(rows) == 3 + 2 * (1 + 2 * 2) + 4 * 4  # inversion, optimised steps, steps
    assert all(float(losses[0, 1]) == 0 for branch, losses in found if branch == "source")


# -- how it runs -----------------------------------------------------------------------------------


def test_it_runs_on_weights_that_were_made_in_inference_mode(model, clip):
    """As ComfyUI's loaders make them."""
    expected = edit(model, clip)
    other = tiny_model()
    network = other.model.diffusion_model
    for own, given in zip(
        network.parameters(), model.model.diffusion_model.parameters(), strict=True
    ):
        own.copy_(given)
    assert relative_error(edit(other, clip), expected) < 1e-4
    assert not any(parameter.requires_grad for parameter in network.parameters())


def first_gradient(model: Any, clip: Any, patch: pytest.MonkeyPatch) -> Tensor:
    found: list[Tensor] = []
    move = mag_edit.move_down

    def see(x: Tensor, gradient: Tensor, *args: Any) -> Tensor:
        found.append(gradient.clone())
        return move(x, gradient, *args)

    with patch.context() as own:
        own.setattr(mag_edit, "move_down", see)
        edit(model, clip, replace(SETTINGS, scale=0.1, iterations=1))
    return found[0]


@pytest.mark.parametrize("loss_scale", [mag_edit.LOSS_SCALE, 1.0])
def test_weights_in_half_precision_give_the_same_gradient(clear, monkeypatch, loss_scale):
    """Of the loss scaled up: as it is, half precision loses more of it."""
    model, clip = clear
    half = tiny_model(dtype=torch.float16)
    randomise(half.model.diffusion_model, 0)
    expected = first_gradient(model, clip, monkeypatch)
    monkeypatch.setattr(mag_edit, "LOSS_SCALE", loss_scale)
    made = first_gradient(half, clip, monkeypatch)
    error = float((made - expected).norm() / expected.norm())
    print(f"loss scale {loss_scale:g}: gradient in fp16 differs by {error:.1e}")
    assert made.dtype == torch.float32 and error < (0.05 if loss_scale > 1 else 1)


def test_blocks_that_are_computed_again_give_the_same_edit(model, clip, monkeypatch):
    expected = edit(model, clip, replace(SETTINGS, cross_share=0.25, optimise_share=1.0))
    again = []
    run = gradients._run_block

    def count(*args: Any, **named: Any) -> Tensor:
        again.append(1)
        return run(*args, **named)

    monkeypatch.setattr(gradients, "_run_block", lambda run, *args, **named: run(*args, **named))
    kept = edit(model, clip, replace(SETTINGS, cross_share=0.25, optimise_share=1.0))
    assert relative_error(kept, expected) < 1e-4
    monkeypatch.setattr(gradients, "_run_block", count)
    edit(model, clip)
    assert again and "forward" not in {
        name for module in model.model.diffusion_model.modules() for name in vars(module)
    }


def test_gradients_of_blocks_that_are_computed_again_take_less_memory(model):
    network = model.model.diffusion_model
    x, text = source_latent(1, 32, 32), torch.randn(1, 77, 32)

    def run(blocks: Any) -> Tensor:
        with record_gradients(model.model), blocks(network):
            given = leaf(x, requires_grad=True)
            out = network(
                given, leaf(torch.tensor([500.0])), context=leaf(text), transformer_options={}
            )
            (gradient,) = torch.autograd.grad(out.square().sum(), given)
        return gradient

    def whole(network: Any) -> Any:
        return nullcontext()

    torch.testing.assert_close(run(checkpoint_blocks), run(whole))
    peaks = [find_peak(lambda by=by: run(by)) for by in (checkpoint_blocks, whole)]
    print(f"checkpointed {peaks[0] / 1e6:.1f} MB, whole {peaks[1] / 1e6:.1f} MB")
    assert peaks[0] < 0.7 * peaks[1]


class Peak(TorchDispatchMode):
    """The most bytes at once in tensors that were made under it, which may be fake."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in tensors_in((args, kwargs))}
        for storage in (t.untyped_storage() for t in tensors_in(out)):
            if id(storage) not in given and storage not in self._seen:
                self._seen.add(storage)
                self._now += storage.nbytes()
                self.bytes = max(self.bytes, self._now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, count: int) -> None:
        self._now -= count


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def test_a_gradient_at_sd15s_true_width_fits_a_card_of_8_gb():
    """In fp16 at 64x64 latents, by the sizes of tensors that are never filled."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    half, options = torch.float16, {}
    gradients.use_differentiable_attention(options)
    with torch.inference_mode(False), torch.enable_grad(), FakeTensorMode():
        network = UNetModel(
            **SD15_UNET, dtype=half, operations=comfy.ops.disable_weight_init
        ).requires_grad_(False)
        x = torch.empty(1, 4, 64, 64, dtype=half, requires_grad=True)
        text = torch.empty(1, 77, 768, dtype=half)
        with Peak() as peak, checkpoint_blocks(network):
            out = network(x, torch.empty(1), context=text, transformer_options=options)
            torch.autograd.grad(out.float().square().sum(), x)
        weights = sum(parameter.nbytes for parameter in network.parameters())
    print(f"{peak.bytes / 1e9:.2f} GB beside weights of {weights / 1e9:.2f} GB")
    assert 1.7e9 < weights < 1.8e9 and 0.1e9 < peak.bytes < 0.4e9


@pytest.mark.parametrize("call", [4, 5, 6])
def test_an_interruption_stops_in_the_optimisation_and_frees_its_memory(
    model, clip, monkeypatch, call
):
    """As the button of ComfyUI sets it. Calls 0 to 2 are the inversion's, 3 the source's; then come
    updates, forwards and, as blocks are computed again, backwards."""
    edit(model, clip)
    rows = rows_of(monkeypatch, model)
    interrupt_at(call, lambda: edit(model, clip), model, rows, monkeypatch)
    assert len(rows) <= call + 1
    monkeypatch.undo()
    assert bool(edit(model, clip).isfinite().all())


def test_nothing_is_kept_after_an_edit(model, clip):
    edit(model, clip)
    held = live_bytes()
    edit(model, clip)
    assert live_bytes() <= held


def test_a_loss_that_is_no_number_names_its_step(model, clip, monkeypatch):
    def spoil(maps: Tensor, region: Tensor, word: Any) -> Tensor:
        return maps.sum((1, 2, 3)) * torch.nan

    monkeypatch.setitem(mag_edit.LOSSES, "token ratio", spoil)
    with pytest.raises(
        ValueError, match=r"^MAG-Edit: at step 1 of 4, the loss is \[nan\]\. Lower scale, or run"
    ):
        edit(model, clip)


def test_a_gradient_that_is_no_number_names_its_step(model, clip):
    with pytest.raises(
        ValueError, match=r"^MAG-Edit: at step \d of 4, the (loss|gradient) is .*Lower scale"
    ):
        edit(model, clip, replace(SETTINGS, scale=1e38, steps=4))


def test_a_card_with_too_little_memory_says_what_gradients_need(model, clip, monkeypatch):
    def fail(*args: Any) -> Tensor:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    monkeypatch.setattr(optimising, "_evaluate", fail)
    with pytest.raises(ValueError, match=r"^MAG-Edit: the gradients of latents of 8x8 cells .* GB"):
        edit(model, clip)


def test_an_attention_without_gradients_is_not_used_for_them(model, clip, monkeypatch):
    """As SageAttention's, which ComfyUI may have selected."""
    expected = edit(model, clip)
    use_opaque_attention(monkeypatch)
    assert relative_error(edit(model, clip), expected) < 1e-4
