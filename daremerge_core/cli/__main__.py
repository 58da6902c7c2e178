"""``python -m daremerge_core.cli``: the same as the ``daremerge`` command."""

from .main import main

main()
