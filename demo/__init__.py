"""The embedded demo world: seeded scenes with exact masks, a tiny Stable Diffusion 1.5-shaped model and a judge."""
