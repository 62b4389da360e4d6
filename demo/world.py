"""The demo world's public face: make a scene, draw it, describe it, and ask for edits of it."""

from .captions import (
    demo_edits,
    join_phrases,
    list_known_words,
    object_phrase,
    scene_caption,
    unknown_words,
)
from .render import IMAGE_SIZE, render, render_batch
from .scenes import (
    BACKGROUNDS,
    COLORS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    is_held_out,
    make_scene,
)

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "IMAGE_SIZE",
    "MATERIALS",
    "MAX_OBJECTS",
    "SHAPES",
    "Background",
    "Scene",
    "SceneObject",
    "demo_edits",
    "is_held_out",
    "join_phrases",
    "list_known_words",
    "make_scene",
    "object_phrase",
    "render",
    "render_batch",
    "scene_caption",
    "unknown_words",
]
