"""The command line. ``daremerge --help`` imports neither torch nor any command it does not run."""

from __future__ import annotations

from .main import main, make_cli

__all__ = ["main", "make_cli"]
