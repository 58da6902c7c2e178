"""mergekit's YAML configurations, as recipes."""

from .gradients import layers_in
from .translate import is_mergekit, to_recipe

__all__ = ["is_mergekit", "layers_in", "to_recipe"]
