"""Scores of edits, and the models that they use."""
