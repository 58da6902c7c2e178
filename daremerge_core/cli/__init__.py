"""The command line. ``daremerge --help`` imports neither torch nor any command it does not run."""

from __future__ import annotations

from .main import cli, main

__all__ = ["cli", "main"]
