"""The embedded demo world: seeded scenes with exact masks, a tiny SD 1.5-shaped model, a judge."""
