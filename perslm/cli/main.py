"""The command ``perslm``: its commands together, and every error as a line and an exit code."""

from __future__ import annotations

import errno
import signal
import sys

import typer

from perslm.cli import building, demo, models, serving
from perslm.cli.common import stderr
from perslm.errors import PerslmError

EXIT_CODES = """
Exit codes: 0 done · 1 something failed, or a part of the work did · 2 wrong arguments or a missing
extra · 3 the user has no model · 4 the store or service is unavailable · 5 a file cannot be read ·
130 interrupted (the same command goes on where it stopped).
"""

app = typer.Typer(
    name="perslm",
    help="A small language model for every user: built from sent mail, mixed into a beam "
    "search.\n\nStart with [bold]perslm demo[/bold]; then build from your own mail:\n\n"
    "  perslm vocab build MAIL --min-users 1 --output vocab.json\n\n"
    "  perslm build MAIL --vocab vocab.json --user me\n\n"
    '  perslm complete me "Thanks for"',
    epilog=EXIT_CODES.strip().replace("\n", " "),
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
building.register(app)
models.register(app)
serving.register(app)
demo.register(app)


def main() -> None:
    """Run the command line and exit; no error leaves here as a traceback unless it is a bug."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except PerslmError as error:
        stderr.print(f"[red]error:[/red] {error}", highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; Python would complain at exit
        sys.exit(1)
    except OSError as error:
        stderr.print(f"[red]error:[/red] {_explain(error)}", highlight=False)
        sys.exit(5)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return (
            f"{where}no space left on the device; free some (or set TMPDIR to a larger disk) "
            "and run the same command again: what is published stays"
        )
    return f"{where}{error.strerror or type(error).__name__}"
