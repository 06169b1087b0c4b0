"""``perslm keys``: who may call the service; the keys that encrypt models are in ``cli.master``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from perslm.cli import master
from perslm.cli.common import JsonOption, add_command, print_json, stderr, stdout
from perslm.errors import ArgumentError, MissingExtraError

if TYPE_CHECKING:
    from service.keyfile import Key

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

FileOption = Annotated[
    Path,
    typer.Option(
        "--keys",
        metavar="FILE",
        envvar="PERSLM_KEYS",
        help="The file of keys, which perslm serve --keys is given, too.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    keys = typer.Typer(
        help="Keys of the service; keys that models at rest are encrypted with.",
        no_args_is_help=True,
    )
    add_command(
        keys,
        create,
        "perslm keys create frontend --scope score --keys keys.json",
        "perslm keys create acme --scope score --scope forget --tenant acme --expires 90d",
    )
    add_command(keys, show, "perslm keys list --keys keys.json", name="list")
    add_command(keys, revoke, "perslm keys revoke frontend --keys keys.json")
    master.register(keys)
    app.add_typer(keys, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="What the key is called in lists and records.")],
    keys: FileOption,
    scope: Annotated[
        list[str],
        typer.Option(
            help="What the key allows: score, model:read, write, forget or admin; several times "
            "for several."
        ),
    ],
    tenant: Annotated[str, typer.Option(help="Whose users it reaches.")] = "default",
    user: Annotated[
        str | None, typer.Option(help="Limit it to this one user's model.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="After this it is worth nothing: 12h, 90d.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: the file has only its digest.

    Clients send it as "Authorization: Bearer KEY", or find it in PERSLM_TOKEN. A service that runs
    takes the key from the next second on.
    """
    lifetime = None if expires is None else _seconds(expires)
    token, key = _keyfile().create(keys, name, scope, tenant=tenant, user=user, lifetime=lifetime)
    if json:
        print_json({**_facts(key), "key": token})
        return
    stderr.print(f"key {key.id} added to {keys}; it is shown once:")
    stdout.print(token)


def show(keys: FileOption, json: JsonOption = False) -> None:
    """List the keys of a file."""
    found = _keyfile().read(keys)
    if json:
        for key in found:
            print_json(_facts(key))
        return
    table = Table("id", "name", "tenant", "scopes", "user", "created", "expires", box=None)
    for key in found:
        facts = _facts(key)
        scopes = " ".join(key.scopes)
        cells = (key.user or "", facts["created"], facts["expires"] or "never")
        table.add_row(key.id, key.name, key.tenant, scopes, *cells)
    stdout.print(table)


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its name or id.")], keys: FileOption
) -> None:
    """Take a key out of a file; a service that runs refuses it from the next second on."""
    gone = _keyfile().revoke(keys, key)
    stderr.print(f"revoked {gone.name} ({gone.id})")


def _keyfile() -> Any:
    try:
        from service import keyfile
    except ModuleNotFoundError as error:
        raise MissingExtraError("the scoring service", "service") from error
    return keyfile


def _facts(key: Key) -> dict[str, Any]:
    """Return what may be shown of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "user": key.user,
        "created": _date(key.created),
        "expires": None if key.expires is None else _date(key.expires),
    }


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise ArgumentError("a time is a number and s, m, h or d, such as 90d")
    return int(found[1]) * _SECONDS[found[2]]
