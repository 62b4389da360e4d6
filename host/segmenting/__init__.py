"""GroundingDINO and SAM in ComfyUI: words become masks."""
