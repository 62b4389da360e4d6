"""What the bench knows of a data set beyond its pictures and words: the judges of its world.

A data set names its world in `about`; most name none. The bench's own model, which edits where no
checkpoint is given, is of a world too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from ..scoring.leakage import Cosines
from .dataset import Dataset
from .metric import Metric

MODULES = {"demo": "judging"}
"""The module of this folder that has a world, as WORLD."""
OWN_MODEL = "demo"
SHOWN = 10


@dataclass(frozen=True)
class World:
    """name, card: of its model, and the file that describes it. metrics: those of its own judges,
    for a data set. leaves_out: the names of metrics that say nothing of a data set. cosines: of its
    own CLIP, with a version; or None and why there is none. weights_key: changes with the weights
    of its model, or of some parts of it. unknown_words: those of a prompt that its model was never
    taught.
    """

    name: str
    card: str
    metrics: Callable[[Dataset], list[Metric]]
    leaves_out: Callable[[Dataset], frozenset[str]]
    cosines: Callable[[], tuple[Cosines | None, str]]
    weights_key: Callable[..., str]
    unknown_words: Callable[[str], list[str]]


def world_of(dataset: Dataset) -> World | None:
    name = dataset.about.get("world")
    return _world(name) if isinstance(name, str) and name in MODULES else None


def own_model() -> World:
    """The world of the model that edits where no checkpoint is given."""
    return _world(OWN_MODEL)


def warn_of_unknown_words(prompts: Iterable[str]) -> None:
    """Say which words the bench's own model was never taught."""
    world = own_model()
    if words := list(dict.fromkeys(word for p in prompts for word in world.unknown_words(p))):
        shown = ", ".join(words[:SHOWN]) + (" and more" if len(words) > SHOWN else "")
        print(
            f"The {world.name} model does not know {shown}. Give --checkpoint, or use the words of "
            f"the {world.name} world ({world.card})."
        )


def _world(name: str) -> World:
    found = import_module(f".{MODULES[name]}", __package__).WORLD
    assert isinstance(found, World)
    return found
