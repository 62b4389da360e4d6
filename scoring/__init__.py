"""Scores of edits: pure functions of images, masks and similarities."""
