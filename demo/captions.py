"""Words of the demo world: ALE-Bench's templates, captions of scenes, colour edits of scenes."""

from collections.abc import Sequence

import numpy as np

from .scenes import BACKGROUNDS, COLORS, MATERIALS, SHAPES, Scene, make_scene

TEMPLATE_WORDS = ("-", "colored", "made", "of", "and", "in", "the")


def object_phrase(shape: str, color: str | None = None, material: str | None = None) -> str:
    """ "red-colored ball made of wood", less what is None."""
    words = f"{color}-colored {shape}" if color else shape
    return f"{words} made of {material}" if material else words


def join_phrases(phrases: Sequence[str], background: str | None = None) -> str:
    """Phrases joined by " and ", closed by "in the fog" (sky, room) where a background is named."""
    text = " and ".join(phrases)
    return f"{text} in the {background}" if background else text


def scene_caption(
    scene: Scene, *, colors: bool = True, materials: bool = False, background: bool = False
) -> str:
    """The caption that names every object of a scene, with the attributes asked for."""
    phrases = [
        object_phrase(o.shape, o.color if colors else None, o.material if materials else None)
        for o in scene.objects
    ]
    return join_phrases(phrases, scene.background.kind if background else None)


def demo_edits(
    seed: int, *, objects: int = 2, name_colors: bool = False
) -> list[tuple[str, str, dict[str, str]]]:
    """Colour edits of `make_scene(seed, objects)`: (source, target, what the judge must find).

    The target colours differ from each other and from every colour of the scene. `name_colors` also
    puts the present colour into the source phrase.
    """
    scene = make_scene(seed, objects)
    present = {o.color for o in scene.objects}
    free = [c for c in COLORS if c not in present]
    picks = np.random.default_rng((seed, objects, 1)).permutation(len(free))[:objects]
    edits = []
    for o, pick in zip(scene.objects, picks, strict=True):
        color = free[int(pick)]
        source = object_phrase(o.shape, o.color if name_colors else None)
        edits.append((source, object_phrase(o.shape, color), {"shape": o.shape, "color": color}))
    return edits


def list_known_words() -> frozenset[str]:
    """Every word that occurs in training captions."""
    return frozenset((*SHAPES, *COLORS, *MATERIALS, *BACKGROUNDS, *TEMPLATE_WORDS))


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that the demo model was never taught, in order, each once."""
    plain = "".join(c if c.isalnum() else " " for c in prompt.lower())
    return [w for w in dict.fromkeys(plain.split()) if w not in list_known_words()]
