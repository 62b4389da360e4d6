"""What the user calls an object, as a detector reads it: lower case, without marks, its head noun.

GroundingDINO (Liu et al., arXiv 2303.05499) reads phrases that end with a full stop; a full stop or
question mark inside a phrase would make two of it.
"""

from __future__ import annotations

import re

HEAD_ENDS = (  # words after which a phrase no longer names its object
    *("of", "with", "without", "in", "on", "at", "under", "over", "behind", "beside", "near"),
    *("between", "above", "below", "before", "from", "to", "by", "for", "like", "made", "against"),
    *("inside", "outside", "around", "along", "across", "through", "that", "which", "who", "into"),
    *("whose", "wearing", "holding", "standing", "sitting", "lying", "running", "flying"),
    *("walking", "looking", "howling", "swimming", "playing", "facing", "and", "or", "as", "is"),
)


def clean_phrase(phrase: str) -> str:
    """A phrase in a detector's spelling: lower case, single blanks, no full stops, question marks,
    or marks of prompt weights ("(wolf:1.2)" is "wolf"); "" when nothing is left."""
    text = phrase.lower()
    text = re.sub(r"\bembedding:\S+", " ", text)
    text = re.sub(r":\s*\d*\.?\d+\s*(?=\))", " ", text)
    text = re.sub(r"[.?!;,()\[\]{}\\\"]", " ", text)
    text = " ".join(text.split())
    return text if re.search(r"\w", text) else ""


def head_noun(phrase: str) -> str:
    """The word of a cleaned phrase that names its object: the last one before a preposition or the
    like ("red-colored paprika on a plate": "paprika", "moon made of gold": "moon")."""
    start, end = head_span(phrase)
    return phrase[start:end]


def head_span(phrase: str) -> tuple[int, int]:
    """First and first-behind character of the head noun in a cleaned phrase."""
    words = [word for word in re.finditer(r"\S+", phrase) if re.search(r"\w", word[0])]
    count = next((i for i, word in enumerate(words) if i and word[0] in HEAD_ENDS), len(words))
    return words[count - 1].span()


def caption(phrases: tuple[str, ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of a list of cleaned phrases ("wolf. yellow moon."), and for each phrase the first
    and the first-behind character of it there."""
    text, spans = "", []
    for phrase in phrases:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(phrase)))
        text += f"{phrase}."
    return text, tuple(spans)
