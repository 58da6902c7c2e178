"""Counter-based random streams: the same numbers whatever the chunks, threads, order or device.

:class:`Stream` is all that a component needs. ``docs/random-numbers.md`` defines the numbers themselves.
"""

from daremerge_core.rng.stream import Stream, accelerated

__all__ = ["Stream", "accelerated"]
