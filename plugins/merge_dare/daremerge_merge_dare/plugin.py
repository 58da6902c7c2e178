"""What this distribution gives daremerge."""

from daremerge_core import hookimpl

from .components import Dare, DareSparsifier


@hookimpl
def daremerge_planned(plan):
    from .assumptions import warnings

    return list(warnings(plan))


@hookimpl
def daremerge_components():
    return [Dare, DareSparsifier]
