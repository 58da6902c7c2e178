"""The kit's fixtures: tiny checkpoints as files, and the command line in this process."""

from daremerge_core.testing.fixtures import cli, models

__all__ = ["cli", "models"]
