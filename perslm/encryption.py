"""Models encrypted at rest: AES-256-GCM, a data key for every user, wrapped by a master key.

Everything is done by whoever opens the store with master keys (``perslm.store``); the server only
ever has ciphertext. Needs the package ``cryptography``, the extra ``perslm[encryption]``.

**Master keys** are in a file of its owner's alone (mode 0600), JSON::

    {"version": 1, "current": "6f1d…", "keys": [
      {"id": "6f1d…16 hex digits…", "key": "…32 bytes, base64…", "created": 1735689600}]}

New data keys are wrapped by the current one; the others only unwrap. A program that wraps a key, or
meets a master key that it does not know, reads the file again, if that has changed: so what runs
while a key is added uses the new one from then on. A file that has become unreadable changes
nothing.

**Formats.** Integers are unsigned and big-endian, nonces are random, ``‖`` joins bytes, tags have
16 bytes. A user's *place* is ``namespace ‖ 00 ‖ user id``, both in UTF-8, where the namespace is
that of the tenant, such as ``perslm`` or ``perslm.acme``. What is authenticated with a ciphertext
(its associated data) binds it to that place, so that nothing can be moved between users, tenants,
installations or generations without being refused.

*Wrapped data key*, 89 bytes, field ``key`` of the user's head:

=======  =====  ==============================================================
offset   bytes
=======  =====  ==============================================================
0        4      ``70 73 6c 6b`` ("pslk")
4        1      version, 1
5        16     id of the data key, random
21       8      id of the master key
29       12     nonce
41       48     the data key (32 bytes), encrypted with the master key, and tag
=======  =====  ==============================================================

Associated data: bytes 0 to 20 ‖ place. The master key's id is not in it: another gives another key.

*Encrypted blob*, field ``blob`` of a slot:

=======  =====  ==============================================================
offset   bytes
=======  =====  ==============================================================
0        4      ``70 73 6c 65`` ("psle"), where a blob itself has "pslm"
4        1      version, 1
5        16     id of the data key
21       12     nonce
33       n + 16 the blob (``FORMAT.md``), encrypted with the data key, and tag
=======  =====  ==============================================================

Associated data: bytes 0 to 20 ‖ generation (8 bytes) ‖ place.

*Encrypted message* that waits for a build: as a blob, but bound to its mark. Associated data: bytes
0 to 20 ‖ ``pending:`` ‖ length of the mark (1 byte) ‖ mark ‖ place.

*Encrypted rules*: a wrapped data key of their own, and what a blob of generation 0 would be. Their
place is that of the namespace with ``:rules`` after it; the user id is empty for everybody's.

**What it does not do.** User ids, which are in the names of keys, what ``UserInfo`` has, and
vocabularies are not encrypted. A user without a data key has models that are not encrypted, and
they are read: so a store can be encrypted while it serves. Who can write to the store can therefore
put a model of their own in a user's place, and also put back all that a user's keys once held; but
not read a model, nor give the model of one user to another.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from perslm._files import replacing
from perslm.errors import ArgumentError, DecryptionError, MissingExtraError

KEY_MAGIC: Final = b"pslk\x01"
BLOB_MAGIC: Final = b"psle\x01"
_ID: Final = slice(5, 21)  # of the data key, in both formats
_MASTER: Final = slice(21, 29)
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_WRAPPED_BYTES: Final = 89
ENCRYPTED_BYTES: Final = 21 + _NONCE_BYTES + 16
"""How much longer something is when it is encrypted."""

_VERSION: Final = 1
_REBUILD: Final = "build the user again, or restore a backup"


Part: TypeAlias = int | bytes
"""What of a user is encrypted: a generation's blob, or the learned message of a mark."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One key of the file; ``created`` is a POSIX time."""

    id: str
    key: bytes = field(repr=False)
    created: int


class DataKey:
    """One user's data key, unwrapped; ``wrapped`` is what the store has of it."""

    __slots__ = ("_cipher", "_key", "_place", "wrapped")

    def __init__(self, key: bytes, place: bytes, wrapped: bytes) -> None:
        self._key = key
        self._cipher = _cipher(key)
        self._place = place
        self.wrapped = wrapped

    def __repr__(self) -> str:
        return "DataKey()"

    def encrypt(self, data: bytes, part: Part) -> bytes:
        """Return ``data`` as it is stored for that part of what is kept of the user."""
        header = BLOB_MAGIC + self.wrapped[_ID]
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = self._cipher.encrypt(nonce, data, self._bound(header, part))
        return header + nonce + sealed

    def decrypt(self, stored: bytes, part: Part) -> bytes:
        """Return what was stored for that part of what is kept of the user.

        Raises DecryptionError if this was not.
        """
        header, rest = stored[: _ID.stop], stored[_ID.stop :]
        if header == BLOB_MAGIC + self.wrapped[_ID] and len(stored) >= ENCRYPTED_BYTES:
            found = _opened(
                self._cipher,
                rest[:_NONCE_BYTES],
                rest[_NONCE_BYTES:],
                self._bound(header, part),
            )
            if found is not None:
                return found
        raise DecryptionError(
            "it is not what was encrypted for this user and generation: damaged, or moved", _REBUILD
        )

    def _bound(self, header: bytes, part: Part) -> bytes:
        if isinstance(part, int):
            return header + part.to_bytes(8, "big") + self._place
        return header + b"pending:" + bytes([len(part)]) + part + self._place


class MasterKeys:
    """The master keys of a file; safe to use from several threads.

    Raises ArgumentError if ``path`` is no such file or others may read it, MissingExtraError
    without the package ``cryptography``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._mutex = threading.Lock()
        self._seen: object = None
        self._ciphers: dict[bytes, Any] = {}
        self._current = b""
        self._read()

    def __repr__(self) -> str:
        return f"MasterKeys({len(self._ciphers)})"

    def new_data_key(self, place: bytes) -> DataKey:
        """Return a random data key for the user at ``place``, wrapped by the current master key."""
        header = KEY_MAGIC + os.urandom(_ID.stop - _ID.start)
        key = os.urandom(_KEY_BYTES)
        return DataKey(key, place, self._wrap(header, key, place))

    def data_key(self, wrapped: bytes, place: bytes) -> DataKey:
        """Return the data key that ``wrapped`` is, of the user at ``place``.

        Raises DecryptionError if it is not, or wrapped by a master key that the file lacks.
        """
        header, nonce = wrapped[: _ID.stop], wrapped[_MASTER.stop :][:_NONCE_BYTES]
        if len(wrapped) == _WRAPPED_BYTES and header.startswith(KEY_MAGIC):
            sealed = wrapped[_MASTER.stop + _NONCE_BYTES :]
            key = _opened(self._cipher(wrapped[_MASTER]), nonce, sealed, header + place)
            if key is not None:
                return DataKey(key, place, wrapped)
        raise DamagedKeyError(
            "the user's data key is not what was stored for this user: damaged, or moved", _REBUILD
        )

    def decrypted(self, stored: bytes, part: Part, place: bytes, *data_keys: bytes) -> bytes:
        """Return what was stored for a part of what is kept of the user at ``place``.

        ``data_keys`` are the user's, wrapped. Raises DecryptionError.
        """
        for wrapped in data_keys:
            if stored[_ID] == wrapped[_ID]:
                return self.data_key(wrapped, place).decrypt(stored, part)
        raise DecryptionError("the user's data key is gone, or another one", _REBUILD)

    def is_current(self, wrapped: bytes) -> bool:
        """Tell whether the current master key wraps ``wrapped``."""
        self._refresh()
        return wrapped[_MASTER] == self._current

    def rewrapped(self, data_key: DataKey) -> bytes:
        """Return the same data key, wrapped by the current master key."""
        return self._wrap(data_key.wrapped[: _ID.stop], data_key._key, data_key._place)

    def _wrap(self, header: bytes, key: bytes, place: bytes) -> bytes:
        self._refresh()  # or a rotation would leave behind what a program that ran wrapped after it
        with self._mutex:
            current = self._current
            cipher = self._ciphers[current]
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = cipher.encrypt(nonce, key, header + place)
        return header + current + nonce + sealed

    def _cipher(self, master: bytes) -> Any:
        with self._mutex:
            found = self._ciphers.get(master)
        if found is None:
            self._refresh()
            found = self._ciphers.get(master)
        if found is None:
            raise DecryptionError(
                f"its key is wrapped by the master key {master.hex()}, which is not in {self.path}",
                "add that key to the file",
            )
        return found

    def _refresh(self) -> None:
        if _stamp(self.path) != self._seen:
            with contextlib.suppress(ArgumentError):  # then what it had before goes on
                self._read()

    def _read(self) -> None:
        seen = _stamp(self.path)
        current, keys = read(self.path)
        with self._mutex:
            self._ciphers = {bytes.fromhex(key.id): _cipher(key.key) for key in keys}
            self._current = bytes.fromhex(current)
            self._seen = seen


class DamagedKeyError(DecryptionError):
    """A user's wrapped data key is damaged, and with it all that it encrypted is lost."""


def decrypted(
    master_keys: MasterKeys | None,
    stored: bytes,
    part: Part,
    place: bytes,
    key: bytes,
    coming: bytes,
) -> bytes:
    """Return what was stored for a part of what is kept of a user, encrypted or not.

    ``key`` is the user's wrapped data key and ``coming`` one that was on its way to replace it,
    each empty if there is none. Raises DecryptionError, also for what is not encrypted where
    it should be.
    """
    encrypted = stored.startswith(BLOB_MAGIC[:4])
    if not key and not (coming and encrypted):
        return stored
    if not encrypted:
        raise DecryptionError("it is not encrypted, as the user's models are", _REBUILD)
    if master_keys is None:
        raise DecryptionError(
            "it is encrypted, and there are no master keys",
            "name their file: PERSLM_MASTER_KEYS=FILE",
        )
    return master_keys.decrypted(stored, part, place, key, coming)


def sealed(master_keys: MasterKeys, data: bytes, place: bytes) -> bytes:
    """Return ``data`` encrypted under a data key of its own, which lies before it."""
    key = master_keys.new_data_key(place)
    return key.wrapped + key.encrypt(data, 0)


def unsealed(master_keys: MasterKeys | None, stored: bytes, place: bytes) -> bytes:
    """Return what :func:`sealed` was given, or ``stored`` if that is not encrypted.

    Raises DecryptionError.
    """
    if not is_sealed(stored):
        return stored
    key, data = stored[:_WRAPPED_BYTES], stored[_WRAPPED_BYTES:]
    return decrypted(master_keys, data, 0, place, key, b"")


def is_sealed(stored: bytes) -> bool:
    """Tell whether :func:`sealed` made this."""
    return stored.startswith(KEY_MAGIC[:4])


def place(namespace: str, user: str) -> bytes:
    """Return what binds a user's data to the user; see the module."""
    return f"{namespace}\0{user}".encode()


# The file


def read(path: Path) -> tuple[str, list[MasterKey]]:
    """Return the current key's id and all keys of a file, oldest first.

    Raises ArgumentError if it cannot be read, others may read it, or it is no such file.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ArgumentError(f"others may read the master keys in {path}: chmod 600 {path}")
        content = json.loads(path.read_bytes())
        keys = [_key(values) for values in content["keys"]]
        known = {key.id for key in keys}
        if content["version"] != _VERSION or content["current"] not in known:
            raise ValueError
        if len(known) < len(keys):
            raise ValueError
    except OSError as error:
        raise ArgumentError(
            f"the master keys {path} cannot be read ({error.strerror}): make them with perslm keys "
            "master new, or name their file"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, ArgumentError):
            raise
        # Not chained: the parser's message may repeat content.
        raise ArgumentError(
            f"{path} is not a file of master keys, or of another version of perslm: make one with "
            "perslm keys master new"
        ) from None
    return content["current"], keys


def create(path: Path) -> MasterKey:
    """Make a file with one new key. Raises ArgumentError if it exists; OSError."""
    key = _new_key()
    with _locked(path.resolve().parent):
        if path.exists():
            raise ArgumentError(f"{path} exists: add a key to it with perslm keys master add")
        _write(path, key.id, [key])
    return key


def add(path: Path) -> MasterKey:
    """Add a new key to a file and make it the current one. Raises as ``read``, and OSError."""
    new = _new_key()
    _change(path, lambda current, keys: (new.id, [*keys, new]))
    return new


def remove(path: Path, key_id: str) -> None:
    """Take a key that is not the current one out of a file. Raises as ``read``, and OSError."""

    def without(current: str, keys: list[MasterKey]) -> tuple[str, list[MasterKey]]:
        if key_id == current:
            raise ArgumentError("this is the current key: add another first, and rotate to it")
        if key_id not in {key.id for key in keys}:
            raise ArgumentError("there is no key of this id: perslm keys master list shows them")
        return current, [key for key in keys if key.id != key_id]

    _change(path, without)


def _new_key() -> MasterKey:
    return MasterKey(secrets.token_hex(8), os.urandom(_KEY_BYTES), int(time.time()))


def _key(values: dict[str, Any]) -> MasterKey:
    found = MasterKey(
        values["id"], base64.b64decode(values["key"], validate=True), values["created"]
    )
    if not re.fullmatch(r"[0-9a-f]{16}", found.id) or len(found.key) != _KEY_BYTES:
        raise ValueError
    if type(found.created) is not int:
        raise TypeError
    return found


def _change(
    path: Path, change: Callable[[str, list[MasterKey]], tuple[str, list[MasterKey]]]
) -> None:
    path = path.resolve()
    with _locked(path.parent):
        _write(path, *change(*read(path)))


def _write(path: Path, current: str, keys: list[MasterKey]) -> None:
    """Replace the file as a whole, so that readers need no lock."""
    rows = [
        {"id": key.id, "key": base64.b64encode(key.key).decode(), "created": key.created}
        for key in keys
    ]
    content = json.dumps({"version": _VERSION, "current": current, "keys": rows}, indent=2) + "\n"
    with replacing(path) as file:
        file.write(content.encode())


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise MissingExtraError("encryption at rest", "encryption") from error
    return AESGCM(key)


def _opened(cipher: Any, nonce: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    """Return what ``sealed`` holds, or None if it is not what was sealed."""
    from cryptography.exceptions import InvalidTag

    try:
        found: bytes = cipher.decrypt(nonce, sealed, bound)
    except InvalidTag:
        return None
    return found
