"""What an editor is: one paper, its settings, its branches and its control.

A file of this folder defines one `EDITOR`. From it the host runs the edit (host/editing.py), a
factory makes the node (nodes/editors.py), and the tests, benches and edit.py find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..attention.control import Control
from ..inversion.ddim import Convention
from ..inversion.stored import InversionMethod, Schedule
from ..prompts.alignment import EncodedPrompt, Word
from ..prompts.edits import Variant
from ..regions.regions import AnyRegions

BranchText: TypeAlias = Literal["source", "target", "empty"]
"""Which prompt a branch is conditioned on."""


Start: TypeAlias = InversionMethod | Literal["virtual", "noise"]
"""Where an edit starts: virtual inversion, which needs no inversion; the image with noise added; or
a real inversion."""


def setting(default: Any, tooltip: str, **shown: Any) -> Any:
    """A field of an editor's settings. shown: "min", "max" and "step" of a number, "choices" of a
    word; "later" for one that a published node did not have, whose widget comes last."""
    return field(default=default, metadata={"tooltip": tooltip, **shown})


@dataclass(frozen=True)
class BranchPlan:
    """A branch of an editor: its name, its text, and the field of the settings with its guidance
    scale."""

    name: str
    text: BranchText
    guidance: str


@dataclass(frozen=True)
class SamplingPlan:
    """How an editor samples.

    start: where the edit starts. schedule: its steps. prompt: the text that the image is inverted
        with. convention: of the inversion. eta: of virtual inversion.
    """

    start: Start
    schedule: Schedule
    prompt: BranchText = "source"
    convention: Convention = "published code"
    eta: float = 1.0


@dataclass(frozen=True, eq=False)
class Task:
    """What the control of one run is made from.

    source, target: the base prompts. read_word: a word in the tokens of the text encoder.
    self_layers: number of the model's self-attention layers. variant: the paper, or the published
        code where the two differ. regions: those of each image, or None for an editor that needs
        none.
    """

    source: EncodedPrompt
    target: EncodedPrompt
    read_word: Callable[[str], Word]
    self_layers: int
    variant: Variant = "paper"
    regions: AnyRegions | None = None


def plan_virtual_inversion(settings: Any) -> SamplingPlan:
    """Virtual inversion on latent consistency steps."""
    schedule = Schedule(settings.steps, settings.strength, "LCM")
    return SamplingPlan("virtual", schedule, eta=getattr(settings, "eta", 1.0))


@dataclass(frozen=True)
class Editor:
    """One method.

    name: of the benches and of `edit.py --editor`. title: the node's name. settings: a frozen
        dataclass whose fields are made by `setting`; every one has steps and strength, and a
        guidance scale for each branch; a field that was added to a published node is `later`.
        negative: the prompt that branches are guided away from where the person gives none. paper:
        settings with the numbers of the paper itself, where
        the defaults follow latent consistency models. needs_regions: whether it takes masks.
    branches: (settings) -> its branches, the source first. make_control: (settings, task) -> the
        control of one run; it refuses what the settings and the task do not allow. plan: (settings)
        -> how it samples. end_prompt: (settings) -> the prompt whose end-of-text rows take the
        place of the target's (prompts/end_tokens.py); empty for none.
    """

    name: str
    title: str
    node_id: str
    description: str
    settings: type
    branches: Callable[[Any], Sequence[BranchPlan]]
    make_control: Callable[[Any, Task], Control]
    plan: Callable[[Any], SamplingPlan] = plan_virtual_inversion
    needs_regions: bool = False
    paper: Any = None
    negative: str = ""
    end_prompt: Callable[[Any], str] = lambda settings: ""
