"""One whole edit of an editor of the list, by the pack inside ComfyUI and by the editor's oracle on
diffusers, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ale_edit.editors.editor import Editor
from ale_edit.prompts.edits import Variant
from ale_edit.regions.regions import Regions
from ale_edit.tests.tiny import edits_of

from .ale_diffusers import Step
from .whole_edit import SEED, Scene, errors, twins

PAIRS = (("grey wolf", "brown goat"), ("yellow moon", "yellow ball"))
PROMPTS = ("grey wolf and yellow moon over a house", "brown goat and yellow ball over a house")
SMALL = Scene(PAIRS, (), (8, 16), batch=1)
BATCH = Scene(PAIRS, (), (10, 6), batch=2)


@dataclass(frozen=True)
class Method:
    """An editor and its oracle. translate: the oracle's settings -> the editor's. edit: the
    oracle's, of one image. prompts: the oracle's source and target prompt under its settings.
    full_prompts: those that the editor is given, joined from no phrases; None where it joins them
    itself. regions: of its masks. pairs: the phrases of its edits. negative: the negative prompt
    that the editor is given, or None for its own.
    adds_result: whether the oracle gives the result after its steps; that of virtual inversion is
    the last prediction."""

    editor: Editor
    translate: Callable[[Any], Any]
    edit: Callable[..., list[Step]]
    prompts: Callable[[Any], tuple[str, str]] = lambda settings: PROMPTS
    adds_result: bool = False
    full_prompts: Callable[[Any], tuple[str | None, str | None]] = lambda settings: PROMPTS
    regions: Callable[[Any, Scene], Regions | None] = lambda settings, scene: None
    negative: Callable[[Any], str | None] = lambda settings: None
    pairs: Callable[[Any], Sequence[tuple[str, str]]] = lambda settings: PAIRS


def run_pack(method: Method, scene: Scene, settings: Any, variant: Variant = "paper") -> list[Step]:
    """z and p (B, C, h, w) of the target at every step, and last the result."""
    from ale_edit.host import editing
    from ale_edit.host.sampling.schedule import sigmas_of
    from ale_edit.host.text.embedding import encode_text

    pack, mine = twins(), method.translate(settings)
    source, target = method.full_prompts(settings)
    pairs = method.pairs(settings)
    edits = edits_of(pairs, source_prompt=source, target_prompt=target, variant=variant)
    negative = method.negative(settings)
    edit = editing.open_edit(
        method.editor, mine, pack.model, pack.clip, edits,
        regions=method.regions(settings, scene), reuses_source=False,
        negative=None if negative is None else encode_text(pack.clip, negative),
    )  # fmt: skip
    sigmas = sigmas_of(pack.model, edit.plan.schedule)
    latents = scene.latents / pack.latent_scale
    record: list[Step] = []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        record.append(Step(x / (1 + sigmas[step] ** 2) ** 0.5, denoised.clone()))

    with torch.inference_mode():
        result = edit.sample(latents, SEED, callback)
    return [*record, Step(record[-1].z, result * pack.latent_scale)]


@cache
def run_oracle(method: Method, scene: Scene, settings: Any) -> list[Step]:
    """The same by the oracle, image by image; item j has seed SEED + j."""
    both = twins()
    prompts = method.prompts(settings)
    items = [
        method.edit(both.network, both.encoder, prompts, x0, SEED + j, settings)
        for j, x0 in enumerate(scene.latents)
    ]
    record = [
        Step(torch.stack([s.z for s in steps]), torch.stack([s.p for s in steps]))
        for steps in zip(*items, strict=True)
    ]
    return record if method.adds_result else [*record, record[-1]]


def worst_error(method: Method, scene: Scene, settings: Any, variant: Variant = "paper") -> float:
    """The largest error of any step of the pack's edit against the oracle's, in standard deviations
    of the source latent."""
    ours, theirs = run_pack(method, scene, settings, variant), run_oracle(method, scene, settings)
    found = errors(ours, theirs, scene)
    print(" ".join(f"{error:.1e}" for error in found))
    return max(found)
