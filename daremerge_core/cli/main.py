"""The ``daremerge`` command: groups, plugins' own commands, and how errors end a run."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NoReturn

import click

from ..errors import DaremergeError, Interrupted, nearest
from ..printable import printable_lines
from ..version import __version__
from . import loading

__all__ = ["Lazy", "main", "make_cli"]

COMMANDS = {
    "merge": ("step", "Merge models: one subcommand for each installed method."),
    "edit": ("step", "Change one model: normalise, add noise, clamp, rescale."),
    "mask": ("step", "Make a mask: which parameters may change."),
    "gradient": ("step", "Make a layer gradient: how strongly each layer mixes."),
    "report": ("step", "Look at models, masks, LoRAs and merges: text, tables, pictures."),
    "run": ("run", "Run a recipe, or the recipe inside an output."),
    "plan": ("run", "Check a recipe and show what it would do."),
    "import": ("run", "Translate another tool's configuration into a recipe."),
    "inspect": ("inspect", "Show what a model, mask or gradient file holds."),
    "verify": ("verify", "Check that files are whole, finite, and what their recipe gives."),
    "methods": ("catalog", "List the installed components."),
    "plugins": ("catalog", "List plugins, and what failed to load and why."),
    "demo": ("demo", "Train, fine-tune and merge small networks; a minute."),
}
"""Command → (module beside this one, one-line help)."""
PLUGINS = "daremerge.commands"
"""The group of entry points that name a plugin's own commands: a mapping as :data:`COMMANDS`, of which the first is a
``module:attribute``. So ``--help`` imports no plugin."""


class Shown(click.ClickException):
    """A DaremergeError as click shows it: message, hint, exit code; no traceback, nothing that drives a terminal."""

    def __init__(self, error: DaremergeError) -> None:
        super().__init__("\n".join(printable_lines(part) for part in (error.message, error.hint) if part))
        self.error = error

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.error.exit_code


class Lazy(click.Group):
    """A group whose commands are imported when they run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._elsewhere = {
            name: (f"{__package__}.{module}:{name}_command", text) for name, (module, text) in COMMANDS.items()
        }

    def add_plugins(self) -> None:
        """Add the commands of installed plugins. Those of one that is broken are left out: ``plugins`` says why."""
        for entry_point in sorted(entry_points(group=PLUGINS), key=lambda one: one.name):
            with suppress(Exception):
                self._elsewhere = entry_point.load() | self._elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = {*super().list_commands(ctx), *self._elsewhere} - set(COMMANDS)
        return [*COMMANDS, *sorted(own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._elsewhere:
            target, _ = self._elsewhere[cmd_name]
            module, _, attribute = target.partition(":")
            with loading.loading():
                command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = {name: text for name, (_, text) in self._elsewhere.items()}
        helps |= {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, helps[name]) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            from ..catalog import shipped_by

            for home in shipped_by(args[0]):
                ctx.fail(f"{args[0]} is not installed. It comes with {home}: pip install {home}")
            close = nearest(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command {args[0]!r}.{close}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DaremergeError as error:
            raise Shown(error) from error
        except KeyboardInterrupt:
            raise Shown(Interrupted("stopped; nothing was written")) from None
        except MemoryError as error:
            wrapped = DaremergeError("out of memory", hint="Lower --memory or --threads.")
            wrapped.exit_code = 1
            raise Shown(wrapped) from error


def make_cli(*, with_plugins: bool = True) -> Lazy:
    """The command line: the core's commands and, unless told otherwise, those that plugins add."""

    @click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    @click.version_option(__version__, prog_name="daremerge")
    def cli() -> None:
        """Merge model checkpoints: reproducible to the byte, in bounded memory, by plugins.

        \b
        daremerge merge dare A.safetensors B.safetensors --base BASE.safetensors -o OUT.safetensors
        daremerge merge dare --help
        """

    if with_plugins:
        cli.add_plugins()
    return cli


def main() -> None:
    """Entry point of the console script."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    loading.has_the_process()
    # NumPy's linear algebra, which nothing here uses, starts a thread a core, and they spin while modules are loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        make_cli()()
    except SystemExit as done:
        if "torch" in sys.modules and (done.code is None or isinstance(done.code, int)):
            _leave(done.code or 0)
        raise
    finally:
        loading.ends()


def _leave(code: int) -> NoReturn:
    """Exit without taking the interpreter apart: after torch that takes longer than a small merge, for nothing."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(code)
