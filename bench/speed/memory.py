"""Memory: the most bytes allocated beyond the weights while an edit samples, over those of plain
sampling of the same rows. The source branch is not kept for the next edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ...demo.world import demo_edits
from ...editors import EDITORS, mag_edit, p2p, pix2pix_zero
from ...editors.editor import Editor, make_no_control
from ...host.editing import edit_image
from ...host.sampling.virtual_inversion import virtual_inversion_sampler
from ...prompts.edits import Edits, make_edit
from ...regions.phrases import head_noun
from .models import COUNTS, UNetShape, ale_model, boxes, guide, sample

MEMORY_TARGET = 1.1
EDITOR_SIZE = 64
STEPS = 2  # the second has all that the first one left


class NoVAE:
    """Stands in for a VAE, whose memory is not asked for."""

    def encode(self, image: Tensor) -> Tensor:
        count, height, width, _ = image.shape
        return torch.randn(count, 4, height // 8, width // 8)

    def decode(self, latent: Tensor) -> Tensor:
        count, _, height, width = latent.shape
        return torch.zeros(count, 8 * height, 8 * width, 3)


def find_peak(run: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once while `run` ran, beyond those before it."""
    if torch.cuda.is_available():
        run()  # loads the weights
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: list[Any] = profiled.profiler.kineto_results.events()  # PyTorch's stubs lack nbytes
    changes = [event for event in events if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


def measure_memory(model: ModelPatcher, shape: UNetShape) -> dict[str, Any]:
    """The peak of ALE-Edit over the plain one, by number of objects."""

    def peak(patched: ModelPatcher, count: int) -> int:
        guider = guide(patched, count, reuses_source=False)
        sampler = virtual_inversion_sampler()
        return find_peak(lambda: sample(guider, shape.size, sampler, STEPS))

    plain = peak(model, 1)
    ours = {f"k{k}": peak(ale_model(model, k, shape.size), k) for k in COUNTS}
    return {
        "shape": str(shape),
        "plain_bytes": plain,
        **{f"{name}_over_plain": round(found / plain, 4) for name, found in ours.items()},
    }


@dataclass(frozen=True)
class EditorCase:
    """An editor with some of its settings. target: of its peak over plain; None with gradients."""

    editor: Editor
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    target: float | None = MEMORY_TARGET

    @property
    def name(self) -> str:
        return f"{self.editor.name}{self.label}"


def editor_cases() -> list[EditorCase]:
    """Every editor by its defaults but that P2P has a local blend; and P2P on null-text inversion.
    MAG-Edit and pix2pix-zero are left out: their gradients take minutes."""
    blended = {"blend_words": object_words()[0], "blend_start": 0.0}
    cases = [
        EditorCase(editor, blended, ", local blend", 1.5)
        if editor is p2p.EDITOR
        else EditorCase(editor)
        for editor in EDITORS
        if editor not in (mag_edit.EDITOR, pix2pix_zero.EDITOR)
    ]
    null_text = {"inversion_method": "null-text"}
    return [*cases, EditorCase(p2p.EDITOR, null_text, ", null-text inversion", None)]


def object_words() -> list[str]:
    """The nouns of what is edited."""
    return [head_noun(source) for source, _, _ in demo_edits(0)]


def measure_editor_memory(demo: Any, size: int) -> dict[str, Any]:
    """The peak of every editor over plain sampling of its rows, on the demo model.

    demo: its model, CLIP and VAE.
    """
    found = {}
    for case in editor_cases():
        plain = replace(case.editor, make_control=make_no_control, parts=lambda _: ())
        plain_bytes = find_peak(lambda by=plain: edit_once(by, demo, size, STEPS))
        ours = find_peak(lambda by=case: edit_once(by.editor, demo, size, STEPS, **by.settings))
        found[case.name] = {
            "plain_bytes": plain_bytes,
            "over_plain": round(ours / plain_bytes, 4),
            "target": case.target,
        }
    return found


def edit_once(editor: Editor, demo: Any, size: int, steps: int, **changes: Any) -> Tensor:
    """An edit of two objects of a blank image, both halves of guidance in every branch.

    changes: settings beyond these.
    """
    model, clip, _ = demo
    pairs = [(source, target) for source, target, _ in demo_edits(0)]
    masks = boxes(len(pairs), size).raw
    edits = Edits(tuple(make_edit(*pair, mask) for pair, mask in zip(pairs, masks, strict=True)))
    given = {"steps": steps, "source_guidance": 1.5, "target_guidance": 2.0}
    known = {field.name for field in fields(editor.settings)}
    settings = editor.settings(**{name: given[name] for name in given.keys() & known}, **changes)
    image = torch.zeros(1, 8 * size, 8 * size, 3)
    return edit_image(
        editor, settings, model, clip, cast("Any", NoVAE()), image, edits, 0, reuses_source=False
    )
