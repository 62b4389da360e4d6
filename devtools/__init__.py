"""What dev.py runs; it needs the standard library alone."""
