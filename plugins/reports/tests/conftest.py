"""The kit's fixtures."""

from daremerge_core.testing.fixtures import models

__all__ = ["models"]
