"""What stands behind dev.py; it needs the standard library alone."""
