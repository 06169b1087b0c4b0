"""The command ``perslm``: its commands together, and every error as a line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from perslm.cli import (
    bench,
    building,
    demo,
    evaluate,
    keys,
    learning,
    models,
    nightly,
    privacy,
    serving,
    storage,
    top,
)
from perslm.cli.common import stderr, stdout
from perslm.errors import PerslmError

EXIT_CODES = (
    "Exit codes: 0 done · 1 something failed, or a part of the work did · 2 wrong arguments or a "
    "missing extra · 3 the user has no model · 4 the store or service is unavailable · 5 a file "
    "cannot be read or written · 130 interrupted (the same command goes on where it stopped)."
)
_REMEDIES = {
    errno.ENOSPC: "free some (for temporary files, or set TMPDIR to a larger disk) and run the "
    "same command again: what is published stays",
    errno.EDQUOT: "free some and run the same command again: what is published stays",
    errno.ENOENT: "create the directory, or name another place",
    errno.EACCES: "make it writable, or name another place",
    errno.EROFS: "name another place",
    errno.EISDIR: "name a file in it",
}


class _Commands(TyperGroup):
    """The commands, each of which Ctrl-C ends in the same way."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stderr.print("interrupted; nothing half done is left, run the same command again")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="perslm",
    cls=_Commands,
    help="A small language model for every user: built from sent mail, mixed into a beam "
    "search.\n\nStart with [bold]perslm demo[/bold]; then build from your own mail:\n\n"
    "  perslm vocab build MAIL --user me --min-users 1 --output vocab.json\n\n"
    "  perslm build MAIL --user me --vocab vocab.json\n\n"
    '  perslm complete me "Thanks for"',
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from perslm._backend import NAME

        stdout.print(f"perslm {version('perslm')} ({NAME})")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and backend, and exit.",
        ),
    ] = False,
) -> None:
    pass


building.register(app)
nightly.register(app)
learning.register(app)
models.register(app)
privacy.register(app)
evaluate.register(app)
serving.register(app)
top.register(app)
keys.register(app)
storage.register(app)
demo.register(app)
bench.register(app)


def main() -> None:
    """Run the command line and exit; no error leaves here as a traceback unless it is a bug."""
    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Mail holds what no encoding does; the escape for it is the one that JSON has, too.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a reader that left can still be told from a bug
    except PerslmError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left, as head does. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(_explain(error), 5)


def _fail(problem: str, code: int) -> None:
    stderr.print(Text.assemble(("error: ", "red"), problem))
    sys.exit(code)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    problem = (error.strerror or type(error).__name__).lower()
    remedy = _REMEDIES.get(error.errno or 0, "remove the cause and run the same command again")
    return f"{where}{problem}; {remedy}"
