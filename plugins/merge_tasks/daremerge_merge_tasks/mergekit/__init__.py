"""mergekit's YAML configurations, as recipes."""

from .translate import is_mergekit, to_recipe

__all__ = ["is_mergekit", "to_recipe"]
