"""``perslm store``: what is done with a store as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perslm.cli.common import (
    JsonOption,
    StoreOption,
    add_command,
    check_writable,
    print_json,
    stderr,
)
from perslm.cli.progress import show_progress
from perslm.store import open_store


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    commands = typer.Typer(help="Back up a store, and restore one.", no_args_is_help=True)
    add_command(commands, backup, "perslm store backup models.backup --store redis://db:6379")
    add_command(
        commands,
        restore,
        "perslm forget --from deleted.txt --yes --store redis://new-db:6379",
        "perslm store restore models.backup --store redis://new-db:6379",
    )
    app.add_typer(commands, name="store")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write the models and vocabularies of all tenants to a file.

    Encrypted models stay encrypted: reading them takes the master keys, which are not in it.
    Without encryption it holds what users wrote: treat it as their mail. With --json: users,
    vocabularies and bytes.
    """
    from perslm.backup import backup as write

    check_writable(file)
    with open_store(store, patient=True) as opened, show_progress(quiet=json) as progress:
        users, vocabularies = write(opened, file, progress)
    size = file.stat().st_size
    if json:
        print_json({"users": users, "vocabularies": vocabularies, "bytes": size})
        return
    stderr.print(f"wrote {users} users and {vocabularies} vocabularies to {file} ({size} bytes)")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What perslm store backup wrote.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Put the models of a backup into a store.

    Users who have a model there keep it, and those who were deleted or opted out there stay so:
    delete once more whoever was deleted since the backup, before. After an interruption run the
    same command again.
    With --json: how many users were restored, present already, or deleted.
    """
    from perslm.backup import restore as read

    with open_store(store, patient=True) as opened, show_progress(quiet=json) as progress:
        done = read(opened, file, progress)
    if json:
        print_json({"restored": done.users, "present": done.present, "deleted": done.deleted})
        return
    stderr.print(
        f"restored {done.users} users; {done.present} have a model already, {done.deleted} are "
        "deleted"
    )
