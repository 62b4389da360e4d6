"""Stored inversions: computed, kept in files, edited from."""
