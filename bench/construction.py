"""ALE-Bench's construction: 5 edit types x 1 to 3 objects x 10 instances of every image.

S. Mun et al., ICCV 2025 (arXiv 2412.04715), section 4 and appendix C. Edits are drawn from
dictionaries of attributes; which objects are edited, what they become and the seed of the noise
depend on the construction's seed and the edit's id alone. An object's attributes are what it is
now, as far as that is known; "object" must be.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from math import gcd

import numpy as np

from .dataset import ImageEdit, ImageObject, ObjectEdit, SourceImage

TEMPLATES = {
    "color": "{color}-colored {object}",
    "object": "{object}",
    "material": "{object} made of {material}",
    "color and object": "{color}-colored {object}",
    "object and material": "{object} made of {material}",
}
"""Target phrase of each edit type. What its name holds is new; the object's name else stays."""


@dataclass(frozen=True)
class AttributeWords:
    """What objects can become; `objects` lists new objects by the object's present name."""

    colors: Sequence[str]
    materials: Sequence[str]
    objects: Mapping[str, Sequence[str]]

    def words(self, attribute: str, name: str) -> Sequence[str]:
        own = {"color": self.colors, "material": self.materials}
        if attribute != "object":
            return own[attribute]
        if name not in self.objects:
            raise ValueError(f"Nothing says what {name!r} can become. Add it to `objects`.")
        return self.objects[name]


def construct(
    images: Mapping[str, SourceImage],
    vocabulary: AttributeWords,
    *,
    seed: int,
    counts: Sequence[int] = (1, 2, 3),
    instances: int = 10,
) -> tuple[ImageEdit, ...]:
    """All edits, ordered so that every beginning is as balanced as it can be.

    The first len(TEMPLATES) x len(counts) edits are one of each cell, each on another image; the
    first instance of everything comes before the second.
    """
    for name, image in images.items():
        if len(image.objects) < max(counts):
            raise ValueError(
                f"Image {name!r} has {len(image.objects)} objects, and edits of {max(counts)} were "
                "asked for. Give images with more objects, or ask for fewer."
            )
    names = list(images)
    cells = [(kind, count) for count in counts for kind in TEMPLATES]
    step = next(k for k in count_from(len(cells)) if gcd(k, len(names)) == 1)
    edits = []
    for instance in range(instances):
        for turn in range(len(names)):
            for place, (kind, count) in enumerate(cells):
                name = names[(turn * step + place) % len(names)]
                edit_id = f"{name}-{kind.replace(' ', '_')}-{count}-{instance}"
                rng = _rng(seed, edit_id)
                objects = _draw_objects(rng, images[name].objects, vocabulary, kind, count)
                edits.append(ImageEdit(edit_id, name, kind, int(rng.integers(2**31)), objects))
    return tuple(edits)


def _rng(seed: int, edit_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{edit_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _draw_objects(
    rng: np.random.Generator,
    objects: Sequence[ImageObject],
    vocabulary: AttributeWords,
    kind: str,
    count: int,
) -> tuple[ObjectEdit, ...]:
    """`count` objects of the image, and what each becomes."""
    chosen = sorted(int(k) for k in rng.permutation(len(objects))[:count])
    new: dict[int, dict[str, str]] = {k: {} for k in chosen}
    for attribute in kind.split(" and "):
        present = {o.attributes[attribute] for o in objects if attribute in o.attributes}
        taken: set[str] = set()
        for k in chosen:
            own = objects[k].attributes
            words = vocabulary.words(attribute, own["object"])
            word = _new_word(rng, words, own.get(attribute, ""), present, taken)
            new[k][attribute] = word
            taken.add(word)
    return tuple(
        _object_edit(k, objects[k], TEMPLATES[kind], {**objects[k].attributes, **new[k]})
        for k in chosen
    )


def _object_edit(
    number: int, was: ImageObject, template: str, becomes: dict[str, str]
) -> ObjectEdit:
    asked = {name: becomes[name] for name in becomes if "{" + name + "}" in template}
    return ObjectEdit(number, was.phrase, template.format(**becomes), asked)


def _new_word(
    rng: np.random.Generator, words: Sequence[str], own: str, present: set[str], taken: set[str]
) -> str:
    """One that nothing on the image has and no other edit gets, as far as there is one."""
    free = next(choice for choice in _choices(words, own, present, taken) if choice)
    return free[int(rng.integers(len(free)))]


def _choices(
    words: Sequence[str], own: str, present: set[str], taken: set[str]
) -> Iterator[list[str]]:
    others = [word for word in words if word != own]
    yield [word for word in others if word not in present and word not in taken]
    yield [word for word in others if word not in taken]
    yield others
    raise ValueError(
        f"There is nothing but {own!r} that an object can become. Give more words."
        if words
        else "A list of words that objects can become is empty. Give at least one word."
    )
