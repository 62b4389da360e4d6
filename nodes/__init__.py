"""What a user drags into a graph."""

from comfy_api.latest import ComfyExtension, io

from . import (
    demo,
    diffedit,
    editors,
    grounding,
    inversion,
    model,
    prompts,
    regions,
    sampling,
    scores,
    word_maps,
)
from .guard import guard

MODULES = (
    prompts,
    regions,
    grounding,
    word_maps,
    diffedit,
    model,
    sampling,
    inversion,
    editors,
    scores,
    demo,
)


class ALEEditExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [guard(node) for module in MODULES for node in module.NODES]
