"""What an editor is: one paper, its settings, its branches and its control.

A file of this folder defines one `EDITOR`. From it the host runs the edit (host/editing.py), a
factory makes the node (nodes/editors.py), and the tests, benches and edit.py find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeAlias, TypeVar

from ..attention.control import Control
from ..inversion.ddim import Convention
from ..inversion.dynamic_words import LearningSettings
from ..inversion.stored import InversionMethod, Schedule
from ..prompts.alignment import EncodedPrompt, Rows, Word
from ..prompts.directions import SentencePair
from ..prompts.edits import Variant, require_choice
from ..regions.regions import USUAL_CELL, Regions

if TYPE_CHECKING:
    from .diffedit import MaskSettings

PromptText: TypeAlias = Literal["source", "target", "empty"]
"""Which prompt an image is inverted with."""
NO_REGIONS = "there are no regions to edit. Connect the masks of the objects."

Ability: TypeAlias = Literal["add", "remove"]
"""What an editor may be able to do beside changing objects: add one, which has a mask and no source
phrase; or remove one, which has no target phrase."""

BranchText: TypeAlias = PromptText | Literal["negative"]
"""Which prompt a branch is conditioned on."""


Start: TypeAlias = InversionMethod | Literal["virtual", "noise"]
"""Where an edit starts: virtual inversion, which needs no inversion; the image with noise added; or
a real inversion."""

T = TypeVar("T")

# -- settings --------------------------------------------------------------------------------------


def setting(default: T, tooltip: str, **shown: object) -> T:
    """A field of an editor's settings, of which its node makes an input. shown: "min", "max" and
    "step" of a number, "choices" of a word; "later" for one that a published node did not have,
    whose widget comes last."""
    return field(default=default, metadata={"tooltip": tooltip, **shown})


def steps_setting(tooltip: str) -> int:
    return setting(15, tooltip, min=1, max=50, step=1)


def guidance_setting(default: float, tooltip: str) -> float:
    """A classifier-free guidance scale."""
    return setting(default, tooltip, min=0.0, max=30.0, step=0.1)


def target_guidance_setting() -> float:
    return guidance_setting(
        2.0,
        "CFG scale of the edited branch. 2 suits LCM models; use 3 to 7 for models that are not "
        "distilled.",
    )


def share_setting(default: float, tooltip: str, step: float = 0.05, **shown: object) -> float:
    """A share of the steps, of the layers, or of something else, in [0, 1]."""
    return setting(default, tooltip, min=0.0, max=1.0, step=step, **shown)


def strength_setting(
    tooltip: str = (
        "Share of the steps to run, counted from the end. Below 1, the edit starts from the "
        "noised source image and stays closer to it."
    ),
    default: float = 1.0,
) -> float:
    return setting(default, tooltip, min=0.05, max=1.0, step=0.05)


@dataclass(frozen=True)
class Settings:
    """Settings of an editor: a frozen dataclass whose fields are made by the functions above.

    Raises ValueError for a word that is none of its choices.
    """

    def __post_init__(self) -> None:
        for given in fields(self):
            if "choices" in given.metadata:
                require_choice(given.name, getattr(self, given.name), given.metadata["choices"])


class RunSettings(Protocol):
    """What the settings of every editor have."""

    @property
    def steps(self) -> int: ...

    @property
    def strength(self) -> float: ...


S = TypeVar("S", bound=RunSettings)

# -- an editor -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BranchPlan:
    """A branch of an editor: its name, its text, and the field of the settings with its guidance
    scale."""

    name: str
    text: BranchText
    guidance: str


SOURCE = BranchPlan("source", "source", "source_guidance")
TARGET = BranchPlan("target", "target", "target_guidance")


@dataclass(frozen=True)
class SamplingPlan:
    """How an editor samples.

    start: where the edit starts. schedule: its steps. prompt: the text that the image is inverted
        with. convention: of the inversion. eta: of virtual inversion.
    """

    start: Start
    schedule: Schedule
    prompt: PromptText = "source"
    convention: Convention = "published code"
    eta: float = 1.0


@dataclass(frozen=True, eq=False)
class WordsToLearn:
    """Nouns of the source prompt whose embeddings an inversion learns, each by the rows of its
    tokens.

    adjectives: of each noun, () where it has none or its adjectives do not count. objects: of each
        noun, the number of its mask in `regions`; without regions, the background is found by
        clusters. cell: pixels along each side of a latent cell.
    """

    nouns: tuple[Rows, ...]
    settings: LearningSettings
    adjectives: tuple[Rows, ...] = ()
    regions: Regions | None = None
    objects: tuple[int, ...] = ()
    cell: int = USUAL_CELL

    @property
    def rows(self) -> Rows:
        """Of all tokens that are learned."""
        return tuple(sorted({row for word in self.nouns for row in word}))


@dataclass(frozen=True, eq=False)
class EditBranch:
    """The branch of one edit: its name, its target phrase alone, and which of the regions is its
    own, if it has one."""

    name: str
    phrase: EncodedPrompt
    region: int | None = None


@dataclass(frozen=True, eq=False)
class ControlInputs:
    """What the control of one run is made from.

    source, target: the base prompts. phrases: the source and the target phrase of each edit.
    read_word: a word in the tokens of the text encoder.
    self_layers: number of the model's self-attention layers. variant: the paper, or the published
        code where the two differ. regions: the editor's masks (Editor.masks) of each image, under
        their names, where any are connected; or the regions of the edits (Editor.grow_regions,
        has_edit_branches). cell: pixels along each side of a latent cell. latent: (h, w) of the
        image's latent where there are regions, whose masks may have another size. advise: gives the
        person a notice, a whole sentence. edits: the branches of the edits
        (Editor.has_edit_branches).
    seed: of the run; image j has seed + j. has_own_negative: whether the negative prompt is another
        than the source prompt.
    """

    source: EncodedPrompt
    target: EncodedPrompt
    read_word: Callable[[str], Word]
    self_layers: int
    variant: Variant = "paper"
    regions: Regions | None = None
    cell: int = USUAL_CELL
    latent: tuple[int, int] = (0, 0)
    phrases: tuple[tuple[str, str], ...] = ()
    advise: Callable[[str], object] = lambda sentence: None
    edits: tuple[EditBranch, ...] = ()
    seed: int = 0
    has_own_negative: bool = True

    def require_regions(self) -> Regions:
        """Raises ValueError where there are none."""
        if self.regions is None:
            raise ValueError(NO_REGIONS)
        return self.regions


def plan_virtual_inversion(settings: RunSettings, eta: float = 1.0) -> SamplingPlan:
    """Virtual inversion on latent consistency steps."""
    return SamplingPlan("virtual", Schedule(settings.steps, settings.strength, "LCM"), eta=eta)


@dataclass(frozen=True)
class RegionCrossAttention:
    """RGB-CAM on the regions of an edit."""


@dataclass(frozen=True)
class SelfAttentionInjection:
    """share: of the steps, from the first one on."""

    share: float


@dataclass(frozen=True)
class BackgroundBlending:
    """Blending outside the regions of an edit."""


Part: TypeAlias = RegionCrossAttention | SelfAttentionInjection | BackgroundBlending
"""A control that is also a node, and has the name of that node."""


def make_no_control(settings: object, inputs: ControlInputs) -> None:
    """For an editor that acts by its parts, or not on attention at all."""


@dataclass(frozen=True)
class Editor(Generic[S]):
    """One method.

    name: of the benches and of `edit.py --editor`. title: the node's name. settings: a Settings
        class; it has steps and strength, and a guidance scale for each branch.
    make_control: (settings, inputs) -> the control of one run; it refuses what the settings and the
        inputs do not allow. parts: (settings) -> the controls that are nodes, too, in the order in
        which they act. branches: (settings) -> its branches, the source first. plan: (settings) ->
        how it samples.
    has_edit_branches: whether each edit adds a branch, under its target phrase alone and without
        guidance; such an editor uses the masks of the edits that have one.
    texts: how the edits are encoded: as prompts, or as Object-Restricted Embeddings.
        has_object_texts: (settings) -> whether the target prompt comes with those embeddings.
    grow_regions: (settings) -> by how much the masks of the edits grow into its regions, a fraction
        of the image's height, or None for settings that do not need those masks; None for an editor
        that never does.
    find_mask: (settings) -> how the place of the edit is found where the edits have no masks; None
        for an editor that does not look for it.
    masks: its optional inputs for masks, each with its tooltip. paper: settings with the numbers of
        the paper itself, where the defaults are others. negative: the prompt that branches are
        guided away from where the person gives none; None for the source prompt. abilities:
        what it can do with edits of which one side is empty. end_prompt:
        (settings) -> the prompt whose end-of-text rows take the place of the target's
        (prompts/end_tokens.py); empty for none.
    learn: (settings, inputs) -> the words that its own inversion learns; None for an editor without
        one. Its node gives that inversion, too.
    find_sentences: (settings, phrases of the edits) -> the sentences of each direction along which
        the source's text moves to become the target's, in place of that of the target prompt.
    """

    name: str
    title: str
    node_id: str
    description: str
    settings: type[S]
    make_control: Callable[[S, ControlInputs], Control | None] = make_no_control
    parts: Callable[[S], Sequence[Part]] = lambda settings: ()
    branches: Callable[[S], Sequence[BranchPlan]] = lambda settings: (SOURCE, TARGET)
    plan: Callable[[S], SamplingPlan] = plan_virtual_inversion
    has_edit_branches: bool = False
    texts: Literal["prompts", "objects"] = "prompts"
    has_object_texts: Callable[[S], bool] = lambda settings: False
    grow_regions: Callable[[S], float | None] | None = None
    find_mask: Callable[[S], MaskSettings] | None = None
    masks: tuple[tuple[str, str], ...] = ()
    paper: S | None = None
    negative: str | None = ""
    abilities: frozenset[Ability] = frozenset()
    end_prompt: Callable[[S], str] = lambda settings: ""
    learn: Callable[[S, ControlInputs], WordsToLearn] | None = None
    find_sentences: Callable[[S, tuple[tuple[str, str], ...]], Sequence[SentencePair]] | None = None
