"""ComfyUI's side of the wall: conditioning, branch rows, patches, guider, sampler."""
