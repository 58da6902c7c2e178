"""``daremerge verify``."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from ..printable import json_text, printable
from .show import table

__all__ = ["verify_command"]


@click.command(name="verify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--write", is_flag=True, help="Take down each file's checksum beside it, for later.")
@click.option("--rebuild", is_flag=True, help="Run the recipe inside again and compare; takes a merge's time and room.")
@click.option("--overwrite", is_flag=True, help="With --write: replace an older checksum.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify_command(files: tuple[Path, ...], write: bool, rebuild: bool, overwrite: bool, as_json: bool) -> None:
    """Check that files are whole: models, folders, LoRAs, masks, gradients.

    That the header and sizes agree and every weight is finite; that the content is what a checksum taken with --write
    says; that the recipe inside can be run here, and its inputs are there with the content they had. What cannot be
    checked is listed with the reason. The exit status is 1 where a check failed.
    """
    from ..verify import failed, sidecar_of, verify, write_sidecar

    found = {}
    for path in files:
        if write:
            write_sidecar(path, overwrite=overwrite)
            click.echo(f"wrote {printable(str(sidecar_of(path)))}", err=as_json)
        with ExitStack() as stack:
            folder = None
            if rebuild:
                parent = path.resolve().parent
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent, prefix=".verify-")))
            found[path] = verify(path, rebuild=folder)
    if as_json:
        click.echo(json_text({str(path): [asdict(one) for one in checks] for path, checks in found.items()}))
    else:
        for path, checks in found.items():
            click.echo(printable(str(path)))
            click.echo(table([(one.name, one.outcome, one.note) for one in checks], indent="  "))
    if any(map(failed, found.values())):
        raise click.exceptions.Exit(1)
