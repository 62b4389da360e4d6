"""Noise schedules and sampling steps. Pure torch."""
