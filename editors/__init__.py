"""One file = one paper: its settings and its pure steps."""
