"""Blends: ways to go from one model to another by a ratio."""
