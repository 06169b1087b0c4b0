"""The file of API keys: who may call the service, without the keys themselves.

A key is ``perslm_<id>_<secret>``; the secret is 256 random bits and is shown once, when the key is
made. The file has, for each key, the SHA-256 of the secret and what the key may do, as JSON::

    {"version": 1, "keys": [{
      "id": "9f86d081884c", "name": "compose-frontend", "tenant": "default", "scopes": ["score"],
      "user": null, "sha256": "…64 hex digits…", "created": 1735689600, "expires": null}]}

A plain digest is enough: nobody can guess 256 random bits, however fast the digest. ``created`` and
``expires`` are POSIX times. A key that is revoked is no longer in the file. Everybody who changes
the file holds a lock and replaces it as a whole; so readers need none.

Who the caller of a request is, and what that allows, is ``service.auth``.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from perslm._files import replacing
from perslm.errors import ArgumentError
from perslm.store import DEFAULT_TENANT, check_tenant

SCOPES: Final = ("score", "model:read", "write", "forget", "admin")
"""What a caller can be allowed; the routes of each are in docs/operations.md."""

PREFIX: Final = "perslm_"
_VERSION: Final = 1
_SECRET_BYTES: Final = 32
_NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Key:
    """What the file has of one key; ``user`` limits it to one user's model."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    user: str | None
    sha256: str
    created: int
    expires: int | None

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise ArgumentError("a key's name is 1 to 64 letters, digits, or any of ._-")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise ArgumentError(f"a key has one or more of the scopes {', '.join(SCOPES)}")
        if not re.fullmatch(r"[0-9a-f]{12}", self.id) or not re.fullmatch(
            r"[0-9a-f]{64}", self.sha256
        ):
            raise ArgumentError("a key's id is 12 hex digits, its digest 64")


def create(
    path: Path,
    name: str,
    scopes: Iterable[str],
    *,
    tenant: str = DEFAULT_TENANT,
    user: str | None = None,
    lifetime: float | None = None,
) -> tuple[str, Key]:
    """Add a key to the file, which is made if there is none; return the key and its record.

    ``lifetime`` is in seconds, None for ever. Raises ArgumentError for a name that the file has
    already and for values that make no sense, OSError if the file cannot be written.
    """
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    now = int(time.time())
    key = Key(
        id=secrets.token_hex(6),
        name=name,
        tenant=tenant,
        scopes=tuple(scope for scope in SCOPES if scope in set(scopes)),
        user=user,
        sha256=_digest(secret),
        created=now,
        expires=None if lifetime is None else now + int(lifetime),
    )

    def added(keys: list[Key]) -> list[Key]:
        if any(known.name == name for known in keys):
            raise ArgumentError("a key of this name exists: choose another, or revoke it first")
        return [*keys, key]

    unknown = set(scopes) - set(SCOPES)
    if unknown:
        raise ArgumentError(f"a scope is one of {', '.join(SCOPES)}")
    _change(path, added)
    return f"{PREFIX}{key.id}_{secret}", key


def revoke(path: Path, name_or_id: str) -> Key:
    """Take a key out of the file and return its record.

    Raises ArgumentError if the file has no such key, OSError if it cannot be written.
    """
    gone: list[Key] = []

    def without(keys: list[Key]) -> list[Key]:
        gone.extend(key for key in keys if name_or_id in (key.name, key.id))
        if not gone:
            raise ArgumentError("there is no key of this name or id: perslm keys list shows them")
        return [key for key in keys if key not in gone]

    _change(path, without)
    return gone[0]


def read(path: Path) -> list[Key]:
    """Return the keys of a file. Raises OSError, or ArgumentError if it is no file of keys."""
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != _VERSION:
            raise ArgumentError(f"the key file {path} is of another version of perslm")
        if type(content["keys"]) is not list:
            raise TypeError
        keys = [_key(values) for values in content["keys"]]
    except ArgumentError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Not chained: the parser's message may repeat content.
        raise ArgumentError(
            f"{path} is not a file of API keys: make one with perslm keys create"
        ) from None
    if len({key.id for key in keys}) < len(keys):
        raise ArgumentError(f"the key file {path} has the same id twice: revoke one of the two")
    return keys


def find(keys: dict[str, Key], token: str) -> Key | None:
    """Return the key of ``keys`` (by id) that ``token`` is; takes the same time for any secret."""
    key_id, _, secret = token.removeprefix(PREFIX).partition("_")
    key = keys.get(key_id)
    same = hmac.compare_digest(_digest(secret), key.sha256 if key is not None else _NO_DIGEST)
    return key if same else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _key(values: dict[str, Any]) -> Key:
    types = {"id": str, "name": str, "tenant": str, "scopes": list, "sha256": str, "created": int}
    if values.keys() != {field.name for field in fields(Key)}:
        raise KeyError
    for name, kind in types.items():
        if type(values[name]) is not kind:
            raise TypeError
    if type(values["user"]) not in (str, type(None)):
        raise TypeError
    if type(values["expires"]) not in (int, type(None)):
        raise TypeError
    return Key(**{**values, "scopes": tuple(values["scopes"])})


def _change(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Replace the file by one with the changed keys, readable by nobody else."""
    path = path.resolve()
    with _locked(path.parent):
        keys = change(read(path) if path.exists() else [])
        content = {"version": _VERSION, "keys": [asdict(key) for key in keys]}
        with replacing(path) as file:
            file.write(f"{json.dumps(content, indent=2)}\n".encode())
            if path.exists():  # a service of another account may have been allowed to read it
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
