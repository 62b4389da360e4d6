"""ALE-Edit for ComfyUI: text-driven editing of several objects at once, without leakage."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI; imports the nodes only then."""
    try:
        from .nodes import ALEEditExtension
    except Exception:
        logging.getLogger(__name__).exception("ALE-Edit could not load its nodes")
        raise
    return ALEEditExtension()
