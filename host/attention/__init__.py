"""The host of attention controls: ComfyUI's hooks become calls of attention/control.py."""
