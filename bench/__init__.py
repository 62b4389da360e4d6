"""Benchmarks; each file has a main(argv) that `dev.py bench NAME` runs."""
