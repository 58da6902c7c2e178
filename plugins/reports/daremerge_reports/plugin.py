"""What this distribution gives daremerge."""

from daremerge_core import hookimpl

from .conflict import Conflict
from .diff import Diff
from .merge import MergeReport


@hookimpl
def daremerge_components():
    return [Conflict, Diff, MergeReport]
