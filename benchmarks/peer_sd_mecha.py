"""Merge with sd-mecha, which is a library: ``peer_sd_mecha.py METHOD OUT BASE-OR-A MODEL…``. Run by its own Python."""

import sys
from pathlib import Path

import sd_mecha

method, out, *paths = sys.argv[1:]
first, *models = [sd_mecha.model(Path(path)) for path in paths]
if method == "weighted_sum":
    recipe = sd_mecha.weighted_sum(first, *models, alpha=0.5)
else:
    recipe = sd_mecha.add_ties_with_dare(first, *models, alpha=0.5, probability=0.5, seed=1)
sd_mecha.merge(recipe, output=Path(out))
