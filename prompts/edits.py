"""What the user asks for: pairs of phrases, and the settings that hold for the whole graph.

An edit turns one source phrase ("wolf") into one target phrase ("brown-colored goat"). One that has
no target phrase removes its object, one that has no source phrase adds it. The base prompts are the
phrases joined by " and " (ALE-Edit, section 3.1) unless full prompts that contain the phrases are
given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

ARROW = "->"
JOINER = " and "
LINE_END = re.compile(r"\r\n|\r|\n")

Variant = Literal["paper", "published code"]
EndOfText = Literal["ours", "naive", "zeros", "bos", "empty string"]
Overlap = Literal["background", "last object"]
Pooled = Literal["target", "source", "empty"]
Side = Literal["source", "target"]

VARIANTS: tuple[str, ...] = get_args(Variant)
END_OF_TEXT: tuple[str, ...] = get_args(EndOfText)
OVERLAPS: tuple[str, ...] = get_args(Overlap)
POOLED: tuple[str, ...] = get_args(Pooled)


def text_lines(text: str) -> list[str]:
    """The lines of what a person typed. Unlike `str.splitlines`, characters such as U+2028, which
    come with pasted text, end no line; nor does a line end at the end of the text begin one."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError when input `name` is none of its choices.

    ComfyUI checks a combo of a saved workflow in newer versions only.
    """
    if value not in choices:
        raise ValueError(f'the {name} input is "{value}". Choose one of {", ".join(choices)}.')


@dataclass(frozen=True)
class MethodSettings:
    """Choices that must be the same in every node of one graph; they travel with the edits.

    variant: "paper" follows the text and algorithms of ALE-Edit, "published code" the authors'
        repository.
    ore, rgb_cam, blending: ablation switches (tables 12 and 13 of the paper).
    end_of_text: what the end-of-text rows of each object's embedding hold (table 12).
    end_of_text_in_base: apply that choice to the background's embedding too.
    overlap: whose value a pixel takes that lies in several objects: the background's (section 3.2
        and the published code) or that of the last object in the list (Algorithm 2, line 12).
    pooled: which prompt SDXL's pooled vector speaks for, which no region can restrict: each
        branch's own base prompt ("target"), the source's in both branches, or the empty prompt's in
        both.
    """

    variant: Variant = "paper"
    ore: bool = True
    rgb_cam: bool = True
    blending: bool = True
    end_of_text: EndOfText = "ours"
    end_of_text_in_base: bool = False
    overlap: Overlap = "background"
    pooled: Pooled = "target"

    def __post_init__(self) -> None:
        require_choice("variant", self.variant, VARIANTS)
        require_choice("end_of_text", self.end_of_text, END_OF_TEXT)
        require_choice("overlap", self.overlap, OVERLAPS)
        require_choice("pooled", self.pooled, POOLED)


@dataclass(frozen=True, eq=False)
class Edit:
    """One object: its phrase in the source, its phrase in the target, and optionally where it is.
    An empty source adds the object, an empty target removes it.

    mask: (H, W) in [0, 1], 1 on the object in the source image, or (B, H, W) with one for each of
        B images, or None.
    """

    source: str
    target: str
    mask: Tensor | None = None

    @property
    def name(self) -> str:
        """The object in messages: what it is, or what it will be where it is added."""
        return self.source or self.target

    @property
    def text(self) -> str:
        return f"{self.source} {ARROW} {self.target}"


@dataclass(frozen=True, eq=False)
class Edits:
    """All edits of an image, in order, with optional full prompts and the method's settings."""

    items: tuple[Edit, ...]
    source_prompt: str | None = None
    target_prompt: str | None = None
    settings: MethodSettings = MethodSettings()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(edit.name for edit in self.items)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(edit.source for edit in self.items)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(edit.target for edit in self.items)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The source and the target phrase of each edit."""
        return tuple(zip(self.sources, self.targets, strict=True))

    def prompt(self, side: Side) -> str:
        """The whole prompt of a side: the full prompt, or else the phrases joined."""
        if side == "source":
            return self.source_prompt or base_prompt(self.sources)
        return self.target_prompt or base_prompt(self.targets)

    def add(self, edit: Edit) -> Edits:
        return replace(self, items=(*self.items, edit))


def make_edit(source: str, target: str, mask: Tensor | None = None) -> Edit:
    """An Edit with stripped phrases.

    Raises ValueError when both sides are empty.
    """
    edit = Edit(source.strip(), target.strip(), mask)
    _require_side(edit)
    return edit


def parse_edits(text: str) -> tuple[Edit, ...]:
    """Edits from lines of the form "wolf -> brown-colored goat"; empty lines and lines that start
    with # are skipped.

    Raises ValueError naming the line that has no arrow, several arrows, or two empty sides, or when
    no edit is left.
    """
    edits: list[Edit] = []
    for number, line in enumerate(text_lines(text), start=1):
        line = line.replace("→", ARROW).strip()
        if not line or line.startswith("#"):
            continue
        sides = [side.strip() for side in line.split(ARROW)]
        if len(sides) != 2:
            found = f"{len(sides) - 1} arrows instead of one" if len(sides) > 1 else f'no "{ARROW}"'
            raise ValueError(
                f'line {number} of the text, "{line}", has {found}. Write each edit on a line of '
                f'its own as "wolf {ARROW} brown-colored goat".'
            )
        edit = Edit(sides[0], sides[1])
        _require_side(edit, f"line {number} of the text: ")
        edits.append(edit)
    if not edits:
        raise ValueError(
            "the text holds no edit. Write at least one line such as "
            f'"wolf {ARROW} brown-colored goat".'
        )
    return tuple(edits)


def _require_side(edit: Edit, place: str = "") -> None:
    if not edit.name:
        raise ValueError(
            f'{place}the edit "{edit.text}" is empty on both sides. Write what the object is, what '
            f"it becomes, or both, such as wolf {ARROW} brown-colored goat."
        )


def base_prompt(phrases: Sequence[str]) -> str:
    """The base prompt: the phrases joined by " and " (ALE-Edit, section 3.1), without those of
    objects that are added (in the source) or removed (in the target)."""
    return JOINER.join(filter(None, phrases))


def keep_targets(edits: Edits) -> Edits:
    """The edits without those that remove an object. One that adds an object gets its name for a
    source."""
    items = (replace(edit, source=edit.name) for edit in edits.items if edit.target)
    return replace(edits, items=tuple(items))


def edit_alone(edits: Edits, place: int) -> Edits:
    """The same edits, of which one alone changes anything. The full source prompt becomes the
    target prompt by its phrases; one edit keeps its own full prompts.

    Raises ValueError when the source phrase does not occur in the full source prompt.
    """
    if len(edits.items) == 1:
        return edits
    chosen, full = edits.items[place], edits.source_prompt
    others = tuple(replace(edit, target=edit.source) for edit in edits.items)
    items = (*others[:place], chosen, *others[place + 1 :])
    if full is None:
        return replace(edits, items=items, target_prompt=None)
    where = _find_phrases(full, edits.sources)[place]
    if where is None:
        raise ValueError(
            f'the source phrase "{chosen.source}" of the edits does not occur in the source_prompt '
            f'("{full}"). Use the same words in both.'
        )
    target_prompt = full[: where.start] + chosen.target + full[where.stop :]
    return replace(edits, items=items, target_prompt=target_prompt)


def _find_phrases(text: str, phrases: Sequence[str]) -> list[slice | None]:
    """Where each phrase is, by whole words in any case: the longest phrase first, none overlapping,
    equal phrases in order (as prompts/spans.py finds them in tokens)."""
    found: list[slice | None] = [None] * len(phrases)
    taken: list[slice] = []
    for i in sorted(range(len(phrases)), key=lambda i: (-len(phrases[i]), i)):
        pattern = rf"(?<!\w){re.escape(phrases[i])}(?!\w)"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            start, stop = match.span()
            if all(stop <= other.start or other.stop <= start for other in taken):
                found[i] = slice(start, stop)
                taken.append(slice(start, stop))
                break
    return found


def set_variant(edits: Edits, variant: Variant) -> Edits:
    """The same edits under another variant of the method."""
    return replace(edits, settings=replace(edits.settings, variant=variant))
