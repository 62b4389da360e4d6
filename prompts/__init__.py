"""Words -> token spans -> embeddings. Pure torch."""
