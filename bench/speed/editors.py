"""What each editor costs: UNet rows of an edit, and the peak of memory over plain sampling of the
same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from ...demo.world import demo_edits
from ...editors import EDITORS, dpl, mag_edit, p2p, pix2pix_zero
from ...editors.editor import Editor, make_no_control
from ...host.editing import edit_image
from ...prompts.edits import Edits, make_edit
from ...regions.phrases import head_noun
from .counts import count_calls
from .memory import MEMORY_TARGET, find_peak
from .memory import STEPS as MEMORY_STEPS
from .models import STEPS, boxes

MEMORY_SIZE = 64


class NoVAE:
    """Stands in for a VAE, whose memory is not asked for."""

    def encode(self, image: Tensor) -> Tensor:
        count, height, width, _ = image.shape
        return torch.randn(count, 4, height // 8, width // 8)

    def decode(self, latent: Tensor) -> Tensor:
        count, _, height, width = latent.shape
        return torch.zeros(count, 8 * height, 8 * width, 3)


def count_editor_rows(demo: Any, size: int) -> dict[str, int]:
    """UNet rows of a whole edit of one image by every editor, every branch guided."""
    model, *others = demo
    found = {}
    for editor in EDITORS:
        counted, rows = count_calls(model)
        edit_once(editor, (counted, *others), size, STEPS)
        found[editor.name] = sum(rows)
    return found


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
    DPL, MAG-Edit and pix2pix-zero are left out: their gradients take minutes."""
    blended = {"blend_words": object_words()[0], "blend_start": 0.0}
    cases = [
        EditorCase(editor, blended, ", local blend", 1.5)
        if editor is p2p.EDITOR
        else EditorCase(editor)
        for editor in EDITORS
        if editor not in (dpl.EDITOR, mag_edit.EDITOR, pix2pix_zero.EDITOR)
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
        plain_bytes = find_peak(lambda by=plain: edit_once(by, demo, size, MEMORY_STEPS))
        ours = find_peak(
            lambda by=case: edit_once(by.editor, demo, size, MEMORY_STEPS, **by.settings)
        )
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
