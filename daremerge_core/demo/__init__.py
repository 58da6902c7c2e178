"""The demo: train, fine-tune and merge small networks in under a minute, and see what a merge keeps.

``daremerge demo`` runs it; a script calls :func:`run_demo`. Importing this module imports neither torch nor
scikit-learn.
"""

from __future__ import annotations

from .run import DemoResult, Row, run_demo

__all__ = ["DemoResult", "Row", "run_demo"]
