"""A store's models in one file, as they are in the store, and back; ``perslm store`` calls it.

For every kind of store, also one whose files cannot be reached. Encrypted models stay encrypted,
with their wrapped data keys. A user is copied at one moment, different users at different ones.

The file is ``perslm backup 2\\n``, then maps in MessagePack: of every vocabulary ``tenant``,
``fingerprint`` and ``data``; of everybody's rules ``tenant`` and ``rules`` (fields and values); of
every user ``tenant``, ``user``, ``head``, ``pending`` and ``rules`` (fields and values) and
``slots``, a list of ``seconds`` left to live and ``fields``; and last ``users``,
``vocabularies`` and ``crc``, the CRC-32 of all before it. Who has rules and no model has an empty
head. Files of version 1, where the head had no model, only its number, are read as well.

**Restoring** leaves what is there: users that have a model, and users who were deleted (their fence
stands), so that it can be repeated, and those deleted after the backup can be kept away by deleting
them once more first (``perslm forget --from``). Of who opted out, there or in the backup, comes no
model. A restored user's next generation has a number far
above, so that no number means two models to those who saw the ones that were lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgpack

from perslm import _store_keys as keys
from perslm import _store_scripts as scripts
from perslm._files import replacing
from perslm._store_types import packed_info
from perslm.errors import SourceError
from perslm.store import Store

_MAGIC: Final = b"perslm backup 2\n"
_MAGIC_1: Final = b"perslm backup 1\n"
_KINDS: Final = (
    {"tenant", "fingerprint", "data"},
    {"tenant", "rules"},
    {"tenant", "user", "head", "pending", "rules", "slots"},
    {"tenant", "user", "head", "slots"},
    {"users", "vocabularies", "crc"},
)
_CHUNK: Final = 1 << 20
_LEAP: Final = 1_000_000
"""How much higher numbers go on after a restore; a multiple of the number of slots."""


class Progress(Protocol):
    """What a caller shows of the work."""

    def stage(self, name: str, total: int) -> None:
        """Begin with something new, of ``total`` steps."""

    def advance(self, amount: int) -> None:
        """Count steps."""


@dataclass(frozen=True, slots=True)
class Restored:
    """How many users' models were restored, were there already, or have been deleted.

    Who wants no model counts as deleted.
    """

    users: int
    present: int
    deleted: int


def backup(store: Store, path: Path, progress: Progress) -> tuple[int, int]:
    """Write all tenants' models to ``path``, whole or not at all; return users and vocabularies.

    The file may be read by its owner only. Raises StoreError, OSError.
    """
    with replacing(path) as file:
        return _write(store, file, progress)


def restore(store: Store, path: Path, progress: Progress) -> Restored:
    """Put the models of a backup into a store, which may serve meanwhile.

    The whole file is checked before anything is written. Raises SourceError if it is damaged or no
    backup, StoreError, OSError.
    """
    *_, last = (record for record in _records(path) if "crc" in record)  # all of it is looked at
    progress.stage("restoring", last["users"])
    done = {b"restored": 0, b"present": 0, b"deleted": 0, b"ruled": 0}
    for record in _records(path):
        if "fingerprint" in record:
            owner = store.of_tenant(record["tenant"])
            _put_vocabulary(owner, record["fingerprint"], record["data"])
        elif "user" not in record and "rules" in record:
            owner = store.of_tenant(record["tenant"])
            if record["rules"]:
                owner._script(scripts.RESTORE_RULES, "", *record["rules"])
        elif "user" in record:
            done[_put(store.of_tenant(record["tenant"]), record)] += 1
            progress.advance(1)
    return Restored(done[b"restored"], done[b"present"], done[b"deleted"])


def _write(store: Store, file: BinaryIO, progress: Progress) -> tuple[int, int]:
    checksum = 0

    def put(data: bytes) -> None:
        nonlocal checksum
        checksum = zlib.crc32(data, checksum)
        file.write(data)

    put(_MAGIC)
    vocabularies = users = 0
    ruled = set(store.ruled())
    everybodys = {owner for owner in ruled if not owner[1]}
    owners = list({*store.owners(), *ruled} - everybodys)
    for tenant, _ in everybodys:
        fields = store.of_tenant(tenant)._script(scripts.SNAPSHOT_RULES, "")
        put(_packed({"tenant": tenant, "rules": fields}))
    for tenant, fingerprint in _current_first(store):
        data = _vocabulary(store.of_tenant(tenant), fingerprint)
        if data is not None:
            put(_packed({"tenant": tenant, "fingerprint": fingerprint, "data": data}))
            vocabularies += 1
    progress.stage("backing up", len(owners))
    for tenant, user in owners:
        head, pending, rules, *slots = store.of_tenant(tenant)._script(scripts.SNAPSHOT, user)
        if head or rules:  # not deleted in this moment
            rows = [{"seconds": seconds, "fields": fields} for seconds, fields in slots]
            kept = {"head": head, "pending": pending, "rules": rules, "slots": rows}
            put(_packed({"tenant": tenant, "user": user, **kept}))
            users += 1
        progress.advance(1)
    file.write(_packed({"users": users, "vocabularies": vocabularies, "crc": checksum}))
    return users, vocabularies


def _current_first(store: Store) -> list[tuple[str, str]]:
    """Return all vocabularies, those first that users to come have: so they are again."""
    found = list(store.vocabularies())
    current = {(tenant, store.of_tenant(tenant).current_vocabulary()) for tenant, _ in found}
    return sorted(found, key=lambda vocabulary: vocabulary not in current)


def _vocabulary(store: Store, fingerprint: str) -> bytes | None:
    key = keys.vocabulary(store._namespace, fingerprint)
    found: bytes | None = store._connection.at(key, "GET", key, writes=False)
    return found


def _put_vocabulary(store: Store, fingerprint: str, data: bytes) -> None:
    key = keys.vocabulary(store._namespace, fingerprint)
    store._connection.at(key, "SET", key, data, "NX", writes=True)
    store._use_vocabulary(fingerprint, always=False)


def _put(store: Store, record: dict[str, Any]) -> bytes:
    if "rules" not in record:
        record = _of_version_1(record)
    words: list[Any] = [_LEAP]
    for name in ("head", "pending", "rules"):
        fields = record.get(name, [])
        words += [len(fields), *fields]
    for slot in record["slots"]:
        words += [slot["seconds"], len(slot["fields"]), *slot["fields"]]
    verdict: bytes = store._script(scripts.RESTORE, record["user"], *words)
    return verdict


def _of_version_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a user's record as it is written now: names were words, and digests were digits."""
    head = dict(zip(record["head"][::2], record["head"][1::2], strict=True))
    slots = []
    found: list[Any] = []
    for slot in record["slots"]:
        fields = dict(zip(slot["fields"][::2], slot["fields"][1::2], strict=True))
        named = {name.decode(): value for name, value in fields.items()}
        named |= {name: named[name].decode() for name in ("source_digest", "vocabulary")}
        words = packed_info(named | {"created": float(named["created"])})
        if fields[b"generation"] == head[b"generation"]:
            found = words
        else:
            slots.append({"seconds": slot["seconds"], "fields": words})
    keys_of_it = ((name, letter) for name, letter in ((b"key", "k"), (b"coming", "c")))
    found += [word for name, letter in keys_of_it if name in head for word in (letter, head[name])]
    return {**record, "head": found, "slots": slots}


def _packed(value: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield all records, the last too; raise SourceError if they are not whole."""
    users = vocabularies = 0
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
    ended = False
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic not in (_MAGIC, _MAGIC_1):
                raise SourceError(str(path), "is not a backup of perslm", "name another file")
            checksum = zlib.crc32(magic)
            while data := file.read(_CHUNK):
                unpacker.feed(data)
                for record in unpacker:
                    if ended or set(record) not in _KINDS:
                        raise ValueError
                    if "crc" not in record:
                        checksum = zlib.crc32(_packed(record), checksum)
                        users += "user" in record
                        vocabularies += "fingerprint" in record
                    elif record == {"users": users, "vocabularies": vocabularies, "crc": checksum}:
                        ended = unpacker.tell() == path.stat().st_size - len(_MAGIC)
                    yield record
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        ended = False
    if not ended:
        raise SourceError(str(path), "is damaged or not complete", "restore another backup")
