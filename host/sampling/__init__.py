"""Guiders, samplers and schedules: runs of several branches."""
