"""ComfyUI's CLIP and CONDITIONING."""
