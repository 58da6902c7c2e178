"""``daremerge demo``: the whole story on small networks."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["demo_command"]


@click.command(name="demo")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("daremerge-demo"))
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the training.")
def demo_command(folder: Path, seed: int) -> None:
    """Train a small network, fine-tune it three ways, merge by several methods, and show the accuracies.

    Writes models, merges and a picture into FOLDER (daremerge-demo by default). Takes about a minute.
    """
    from ..demo import run_demo

    run_demo(folder, seed=seed, echo=click.echo)
