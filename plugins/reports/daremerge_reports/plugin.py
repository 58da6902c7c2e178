"""What this distribution gives daremerge."""

from daremerge_core import hookimpl

from .diff import Diff


@hookimpl
def daremerge_components():
    return [Diff]
