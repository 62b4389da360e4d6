"""Maths of attention control on queries, keys and values. Pure torch."""
