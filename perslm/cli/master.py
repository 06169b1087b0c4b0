"""``perslm keys master`` and ``perslm keys rotate``: the keys that encrypt models at rest."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from perslm import encryption
from perslm.cli.common import JsonOption, StoreOption, add_command, print_json, stderr, stdout
from perslm.cli.progress import show_progress
from perslm.errors import DecryptionError
from perslm.store import open_store

MasterKeysOption = Annotated[
    Path,
    typer.Option(
        "--master-keys",
        metavar="FILE",
        envvar="PERSLM_MASTER_KEYS",
        help="The file of master keys. Every command that reads or builds models takes it from "
        "PERSLM_MASTER_KEYS.",
    ),
]


def register(keys: typer.Typer) -> None:
    """Add this module's commands to those of ``perslm keys``."""
    master = typer.Typer(
        help="Make and list the master keys of models encrypted at rest.", no_args_is_help=True
    )
    file = "--master-keys master.json"
    add_command(master, new, f"perslm keys master new {file}")
    add_command(master, add, f"perslm keys master add {file}", "perslm keys rotate")
    add_command(master, show, f"perslm keys master list {file}", name="list")
    add_command(master, remove, f"perslm keys master remove 5f2b60c9d7a81e34 {file}")
    keys.add_typer(master, name="master")
    add_command(keys, rotate, f"perslm keys rotate {file}", "perslm keys rotate --data-keys --json")


def new(master_keys: MasterKeysOption, json: JsonOption = False) -> None:
    """Make a file with one master key.

    Without it nothing that is encrypted with it can ever be read: keep a copy apart from the
    store's backups. Only its owner may read it.
    """
    _tell(encryption.create(master_keys), master_keys, json=json)


def add(master_keys: MasterKeysOption, json: JsonOption = False) -> None:
    """Add a master key to the file; from now on it is the current one.

    Services must have the new file before builders use it: they read it again by themselves, once
    they meet a key that they do not know. Then run perslm keys rotate.
    """
    _tell(encryption.add(master_keys), master_keys, json=json)


def show(master_keys: MasterKeysOption, json: JsonOption = False) -> None:
    """List the master keys of a file, without the keys themselves."""
    current, found = encryption.read(master_keys)
    rows = [
        {"id": key.id, "created": _date(key.created), "current": key.id == current} for key in found
    ]
    if json:
        for row in rows:
            print_json(row)
        return
    table = Table("id", "created", "", box=None)
    for row in rows:
        table.add_row(str(row["id"]), str(row["created"]), "current" if row["current"] else "")
    stdout.print(table)


def remove(
    key: Annotated[str, typer.Argument(metavar="ID", help="perslm keys master list shows them.")],
    master_keys: MasterKeysOption,
) -> None:
    """Take a master key out of the file, after perslm keys rotate has gone through.

    What was encrypted under it, backups too, can then be read only with a copy of it.
    """
    encryption.remove(master_keys, key)
    stderr.print(f"removed {key}")


def rotate(
    master_keys: MasterKeysOption,
    data_keys: Annotated[
        bool, typer.Option("--data-keys", help="Give every user a new data key, too.")
    ] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Bring all users of all tenants under the current master key.

    Models that are not encrypted yet become so; the data keys of the others are wrapped anew, which
    does not touch the models. Learned messages and rules are treated alike. Services and builders
    go on meanwhile. After an interruption run the same command again. Exit code 1 if some users'
    data could not be decrypted: they stay as they are.

    With --json: users, how many were encrypted, rewrapped, renewed, current already or absent
    (deleted meanwhile), and failed, a list of tenant and user.
    """
    done: Counter[str] = Counter()
    failed = []
    with (
        open_store(store, master_keys=master_keys, patient=True) as opened,
        show_progress(quiet=json) as progress,
    ):
        owners = list({*opened.owners(), *opened.ruled()})  # some have rules and no model
        progress.stage("rotating", len(owners))
        for tenant, user in owners:
            try:
                done[opened.of_tenant(tenant).protect(user, renew=data_keys)] += 1
            except DecryptionError:
                failed.append({"tenant": tenant, "user": user})
            progress.advance(1)
    outcomes = ("encrypted", "rewrapped", "renewed", "current", "absent")
    if json:
        counts = {outcome: done[outcome] for outcome in outcomes}
        print_json({"users": len(owners), **counts, "failed": failed})
    else:
        said = ", ".join(f"{done[outcome]} {outcome}" for outcome in outcomes if done[outcome])
        stderr.print(f"{len(owners)} users: {said or 'nothing to do'}")
    if failed:
        stderr.print(
            f"{len(failed)} users have models that cannot be decrypted, which --json names: put "
            "the missing master key into the file; where nobody has it, or models are damaged, "
            "delete these users with perslm forget and build them again"
        )
        raise typer.Exit(1)


def _tell(key: encryption.MasterKey, path: Path, *, json: bool) -> None:
    if json:
        print_json({"id": key.id, "created": _date(key.created)})
        return
    stderr.print(f"master key {key.id} added to {path}, the current one: keep a copy of the file")


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
