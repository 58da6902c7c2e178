"""Edits of one model: norms, noise, range and delta."""
