"""The folders of ledgers: where they are, who may read them, and who has them open.

A folder is for one store and one tenant. It is made for its owner alone (0700), and so are the
files in it (0600): the ``key`` of the digests, the ``lock`` of the build that runs, and one SQLite
database for each *recipe*: mail that was prepared for another vocabulary, in other languages, with
other zones or by another version says other things. Keep a folder where the mail is, not where the
store is.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

import platformdirs

from builders.ledger import Ledger
from builders.prepare import VERSION, Settings
from perslm._files import OWNER_ONLY, replacing
from perslm.errors import LedgerError

_ENDING: Final = ".sqlite"
_KEY_BYTES: Final = 32


def recipe(vocabulary: str, settings: Settings) -> str:
    """Return the name of what decides how messages are prepared, for a vocabulary's fingerprint."""
    parts = [VERSION, vocabulary, sorted(settings.languages), sorted(settings.keep)]
    return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


@contextmanager
def open_ledger(folder: Path, vocabulary: str, settings: Settings) -> Iterator[Ledger]:
    """Open a folder's ledger for a build, which has the folder to itself; made if there is none.

    Raises LedgerError if another build has it, or the files are no ledger, and OSError.
    """
    key = _key_of(folder)
    with _locked(folder):
        ledger = Ledger(folder / (recipe(vocabulary, settings) + _ENDING), key)
        with closing(ledger):
            ledger.note("vocabulary", vocabulary)
            yield ledger


@contextmanager
def temporary_ledger() -> Iterator[Ledger]:
    """Open a ledger that is gone afterwards: for one run over all the mail there is."""
    with tempfile.TemporaryDirectory(prefix="perslm-") as folder:
        path = Path(folder)
        with closing(Ledger(path / f"run{_ENDING}", _key_of(path), lasting=False)) as ledger:
            yield ledger


@contextmanager
def open_ledgers(folder: Path) -> Iterator[list[Ledger]]:
    """Open all ledgers of a folder to delete from them; a build may run meanwhile."""
    with ExitStack() as stack:
        paths = sorted(folder.glob(f"*{_ENDING}"))
        key = _key_of(folder) if paths else b""
        yield [stack.enter_context(closing(Ledger(path, key))) for path in paths]


def drop_users(folder: Path, users: Iterable[str]) -> int:
    """Delete users from all ledgers of a folder; return how many were found, at most."""
    named = list(users)
    with open_ledgers(folder) as ledgers:
        found = [ledger.drop(named, building=_in_use(folder)) for ledger in ledgers]
    return max(found, default=0)


def other_ledgers(path: Path) -> list[Path]:
    """Return the databases of the other recipes in a ledger's folder."""
    return sorted(set(path.parent.glob(f"*{_ENDING}")) - {path})


def default_folder(location: str) -> Path:
    """Return where the ledgers of a store are if nobody says otherwise; see ``Store.location``."""
    name = blake2b(location.encode(), digest_size=8).hexdigest()
    return Path(platformdirs.user_data_dir("perslm")) / "ledger" / name


def _key_of(folder: Path) -> bytes:
    """Return the key of a folder's digests; makes both if there are none. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "key"
    if not path.exists() and not any(folder.glob(f"*{_ENDING}")):
        with replacing(path) as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
    key = path.read_bytes() if path.exists() else b""
    if len(key) != _KEY_BYTES:
        raise LedgerError(
            f"{path}: the key of this ledger is missing or damaged; bring the file back from a "
            "backup, or remove the folder and build from all mail with --rebuild"
        )
    return key


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have the folder for one build. Raises LedgerError if another build has it."""
    descriptor = _lock(folder)
    if descriptor is None:
        raise LedgerError(
            f"{folder}: another build has this ledger open; wait until it has ended, or name "
            "another folder with --ledger"
        )
    try:
        yield
    finally:
        os.close(descriptor)


def _in_use(folder: Path) -> bool:
    """Tell whether a build has the folder."""
    descriptor = _lock(folder)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _lock(folder: Path) -> int | None:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, OWNER_ONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
