"""What a user drags into a graph."""

from comfy_api.latest import ComfyExtension, io

from . import demo, editors, grounding, model, prompts, regions, sampling, scores
from .guard import guard


class ALEEditExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            guard(node)
            for module in (prompts, regions, grounding, model, sampling, editors, scores, demo)
            for node in module.NODES
        ]
