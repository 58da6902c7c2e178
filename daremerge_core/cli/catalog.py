"""``daremerge methods`` and ``daremerge plugins``: what is installed."""

from __future__ import annotations

import json

import click

from ..catalog import discover
from ..components import KINDS
from ..printable import printable
from .show import table

__all__ = ["methods_command", "plugins_command"]


@click.command(name="methods")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only components of this kind.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every option's schema.")
def methods_command(kind: str | None, as_json: bool) -> None:
    """List the installed components: merge methods, sparsifiers, maskers, gradients and more."""
    catalog = discover()
    classes = [cls for one in KINDS if kind in (None, one) for cls in catalog.all(one)]
    if as_json:
        click.echo(
            json.dumps(
                {f"{cls.kind}.{cls.name}": cls.model_json_schema(mode="validation") for cls in classes}, indent=2
            )
        )
        return
    if not classes:
        click.echo("No components are installed. Try: pip install daremerge-merge-basic daremerge-merge-dare")
        return
    click.echo(
        table([(f"{cls.kind}.{cls.name}", cls.summary(), catalog.plugin_of(cls).distribution) for cls in classes])
    )


@click.command(name="plugins")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of what failed.")
@click.pass_context
def plugins_command(ctx: click.Context, verbose: bool) -> None:
    """List plugins, where they come from, and what failed to load and why. Exits 1 on a failure."""
    from ..rng import accelerated

    catalog = discover()
    rows = []
    for plugin in catalog.plugins:
        by_kind: dict[str, list[str]] = {}
        for cls in plugin.components:
            by_kind.setdefault(cls.kind, []).append(cls.name)
        gives = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_kind.items())
        rows.append(
            (
                plugin.name,
                f"{plugin.distribution} {plugin.version}",
                f"FAILED: {plugin.error}" if plugin.error else gives,
            )
        )
    click.echo(table(rows) if rows else "No plugins are installed.")
    click.echo(
        "fast kernels: on (numba)"
        if accelerated()
        else "fast kernels: off; pip install 'daremerge-core[fast]' for speed"
    )
    failed = [plugin for plugin in catalog.plugins if plugin.error]
    if verbose:
        for plugin in failed:
            click.echo(f"\n{plugin.name}\n" + "\n".join(printable(line) for line in (plugin.detail or "").splitlines()))
    if failed:
        ctx.exit(1)
