"""Where models live between builder and beam: a Redis-protocol store, one small set of keys a user.

``open_store`` takes ``embedded:`` (a private server, see ``perslm.embedded``), ``redis://``,
``rediss://``, ``unix://``, ``redis+cluster://`` or ``rediss+cluster://``. Any server does that
speaks the protocol of Redis 6.2: Redis, Valkey, either as a cluster, Kvrocks. What a blob means is
not known here (``perslm.blob``, ``perslm.model``). How the server is reached is in
``perslm._connection``, the names of keys in ``perslm._store_keys``, which failures become which
error in ``perslm._store_errors``, the scripts that run inside the server in
``perslm._store_scripts``.

Keys, with the default namespace. ``<user>`` is the user id with ``%``, braces, spaces and control
characters percent-encoded; as hash tag it puts all keys of a user on one node. The varying part
comes last because Kvrocks can only search for prefixes.

=========================  ======  ==========================================  ====================
key                        type    holds                                       lives
=========================  ======  ==========================================  ====================
``perslm:head:{<user>}``   hash    ``generation``, ``fence``: the pointer;     while published
                                   ``key``: the user's data key, if encrypted
``perslm:slot:{<user>}:i`` hash    generation n, where i = n mod 8: its        current: for ever,
                                   ``blob``, ``generation``, ``previous``,     superseded: 7 days,
                                   ``nonce``, and what ``UserInfo`` shows      at most 7 of them
``perslm:fence:{<user>}``  string  the fence that a deletion put up            30 days after it
``perslm:vocabulary:<f>``  string  a vocabulary, zlib; f is its fingerprint    until removed by hand
=========================  ======  ==========================================  ====================

**Atomic.** Every operation on a user is one script over that fixed set of keys, all declared. A
new generation is written beside the old, and swapping the pointer is the one write that publishes
it; so readers see one whole generation, in one round trip, even on a server where a crash can cut
a script short.

**Generations.** Numbers only grow. A rollback publishes the earlier model again under a new number,
so that "newer number" always means "take this one" to caches and ETags. Each generation remembers
what it replaced (``previous``); rolling back twice goes back two steps, not forth again.

**Tenants** share a server and nothing else. Those of the tenant ``acme`` have the namespace
``perslm.acme``, the default tenant has the one above. No key of one begins like a key of another,
since what follows a namespace is a colon, and a tenant's name holds neither that nor a dot.

**Deletion.** ``forget`` removes everything and leaves a *fence*: one integer above every number
the user ever had. A build publishes only against the fence that it read at its start, so one that
was running cannot bring the user back; one begun later can, and goes on with higher numbers.
The fence goes after 30 days, far longer than any build or cached model lives, because it
carries the user's id in its key; then nothing is left, and numbers would start from 1.

**Encryption.** A store with master keys encrypts blobs before they go to the server, each for one
user and generation, with a data key that lies, wrapped, in the user's head (``perslm.encryption``).
What changes a data key is compared with what it was made from, as publishing is. A user's data key
is deleted with the user.

**Announcements.** Every publish, rollback and deletion is told on one channel of the installation,
by the script that does it, after its writes (``perslm._changes`` reads them). Nobody has to listen.
A subscriber gets some 60 bytes for each user that a nightly build publishes; one that is too slow
for that is cut off by the server (``client-output-buffer-limit``), and learns that it missed some.

**Lost replies.** Every operation may be sent twice. A publish carries a nonce; if the first try
arrived, the second finds it and returns the same number. redis-py's own retries are off.
"""

from __future__ import annotations

import copy
import os
import re
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from perslm import _store_keys as keys
from perslm import _store_scripts as scripts
from perslm._changes import Change, Changes
from perslm._connection import Connection
from perslm._store_errors import FAILURES
from perslm._store_keys import DEFAULT_TENANT, USER_ID_BYTES, check_tenant
from perslm._store_types import INFO_FIELDS, Head, Stored, UserInfo, info_values
from perslm.encryption import DamagedKeyError, DataKey, MasterKeys, decrypted, place
from perslm.errors import (
    ArgumentError,
    BlobError,
    DecryptionError,
    ForgottenError,
    NoModelError,
    PublishConflictError,
    StoreError,
    VocabularyMismatchError,
)

if TYPE_CHECKING:
    from perslm.model import NullModel, PersonalModel
    from perslm.vocabulary import Vocabulary

__all__ = [
    "DEFAULT_TENANT", "DEFAULT_URL", "FENCE_SECONDS", "KEEP_GENERATIONS_SECONDS", "NAMESPACE",
    "USER_ID_BYTES", "Change", "Changes", "Head", "Store", "Stored", "UserInfo", "check_tenant",
    "open_store",
]  # fmt: skip

DEFAULT_URL: Final = "embedded:"
KEEP_GENERATIONS_SECONDS: Final = 7 * 86400
FENCE_SECONDS: Final = 30 * 86400
NAMESPACE: Final = "perslm"
VOCABULARY_BYTES: Final = 256 << 20  # what the tokenizers of large models have is a tenth of it

_TRIES: Final = 100  # against others that change the same user's data key in the same moment
_READING: Final = (scripts.HEAD, scripts.FETCH, scripts.LIST, scripts.SNAPSHOT)
_NOTHING_EARLIER: Final = (
    "no earlier generation is left: each is kept for a limited time after it was replaced; build "
    "the user again instead"
)
_TOO_BUSY: Final = "others keep changing this user's data key: try again"


def open_store(
    url: str | None = None,
    *,
    tenant: str | None = None,
    namespace: str = NAMESPACE,
    timeout: float = 5.0,
    keep_generations_seconds: int = KEEP_GENERATIONS_SECONDS,
    master_keys: str | os.PathLike[str] | None = None,
) -> Store:
    """Return the store at ``url``; nothing is connected or started before the first operation.

    Args:
        url: see the module; None means the environment's ``PERSLM_STORE``, else ``embedded:``.
            ``embedded:/some/dir`` names the embedded store's directory.
        tenant: whose users these are; None means the environment's ``PERSLM_TENANT``, else
            ``default``.
        namespace: first part of every key, so that several installations can share a server.
        timeout: seconds for connecting and for each reply.
        keep_generations_seconds: how long a superseded generation stays for ``rollback``.
        master_keys: a file of master keys (``perslm.encryption``): models are encrypted with them
            before they go to the server. None means the environment's ``PERSLM_MASTER_KEYS``, else
            no encryption.

    Raises:
        ArgumentError: the URL or another argument makes no sense, or the file cannot be read.
        MissingExtraError: encryption needs ``perslm[encryption]``.
    """
    master_keys = master_keys or os.environ.get("PERSLM_MASTER_KEYS")
    return Store(
        url or os.environ.get("PERSLM_STORE") or DEFAULT_URL,
        tenant=tenant or os.environ.get("PERSLM_TENANT") or DEFAULT_TENANT,
        namespace=namespace,
        timeout=timeout,
        keep_generations_seconds=keep_generations_seconds,
        master_keys=MasterKeys(master_keys) if master_keys else None,
    )


class Store:
    """Models by user. Made by ``open_store``; a context manager; safe to use from many threads.

    Every method that reaches the server raises StoreUnavailableError if it cannot be reached, does
    not answer in time or cannot write, and StoreError if it refuses for another reason; both say
    what to do. User ids are Unicode text of 1 to 256 bytes in UTF-8, taken as they are: no case
    folding, no normalization; others are an ArgumentError.
    """

    def __init__(
        self,
        url: str,
        *,
        tenant: str = DEFAULT_TENANT,
        namespace: str,
        timeout: float,
        keep_generations_seconds: int,
        master_keys: MasterKeys | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", namespace):
            raise ArgumentError(  # perslm.acme would be the tenant acme of perslm
                "a namespace is 1 to 64 letters, digits, '_' or '-'"
            )
        if not timeout > 0:
            raise ArgumentError(f"the timeout is {timeout} s: it must be above 0")
        if keep_generations_seconds < 0:
            raise ArgumentError("keep_generations_seconds must not be negative")
        check_tenant(tenant)
        self._installation = namespace
        self._namespace = keys.namespace(namespace, tenant)
        self._keep = int(keep_generations_seconds)
        self._connection = Connection(url, timeout)
        self._master_keys = master_keys
        self._is_view = False
        self.location = self._connection.location

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def of_tenant(self, tenant: str) -> Store:
        """Return the same store with the keys of another tenant.

        It has the connections of this one, which stays the one to close. Raises ArgumentError if
        ``tenant`` cannot be a tenant's name.
        """
        check_tenant(tenant)
        view = copy.copy(self)
        view._namespace = keys.namespace(self._installation, tenant)
        view._is_view = True
        return view

    def close(self) -> None:
        """Close all connections; an embedded server stops when its last user has closed.

        A view's ``close`` does nothing.
        """
        if not self._is_view:
            self._connection.close()

    def ping(self) -> None:
        """Return if the server answers; an embedded one is started."""
        self._connection.run(lambda client: client.ping())

    # Publishing

    def head(self, user: str) -> Head:
        """Return what a build of ``user`` that begins now must publish against."""
        generation, fence, *_ = self._script(scripts.HEAD, user)
        return Head(generation, fence)

    def publish(
        self,
        user: str,
        blob: bytes,
        *,
        parent: Head,
        source_digest: str = "",
        created: float | None = None,
        messages: int = 0,
        tokens: int = 0,
        vocabulary: str = "",
    ) -> int:
        """Publish ``blob`` as the user's model and return its generation number.

        ``parent`` is the ``head`` read before the build began. The replaced generation stays for a
        while (see ``open_store``). The other arguments come back in ``info``.

        Raises:
            PublishConflictError: another build published in between.
            ForgottenError: the user was deleted in between.
            StoreError: the user's models are encrypted, and the store was opened without master
                keys, or without the one that is needed.
        """
        if not isinstance(blob, bytes):
            raise ArgumentError(f"a blob is bytes, not {type(blob).__name__}")
        fields: dict[str, str | int | float] = {
            "previous": parent.generation,
            "bytes": len(blob),
            "created": float(time.time() if created is None else created),
            "source_digest": source_digest,
            "messages": int(messages),
            "tokens": int(tokens),
            "vocabulary": vocabulary,
        }
        return self._publish(user, parent, blob, fields)

    def rollback(self, user: str) -> int:
        """Publish again, under a new number, the model that the current one replaced.

        Returns the new generation. The model rolled back from stays as long as any replaced one.

        Raises:
            NoModelError: nothing is published, or no earlier generation is left.
            PublishConflictError: a build published in this very moment; look again.
            DecryptionError: the earlier model cannot be decrypted.
        """
        parent = self.head(user)
        if parent.generation == 0:
            raise NoModelError("the user has no published model, so there is nothing to roll back")
        if self._master_keys is None:
            return self._publish(user, parent, None)
        # encrypted for its generation: so it comes here and goes back for another
        _, kept = self._listed(user)
        before = kept[parent.generation].previous if parent.generation in kept else 0
        earlier = self.fetch(user, generation=before) if before else None
        if earlier is None:
            raise NoModelError(_NOTHING_EARLIER)
        fields = {name: getattr(earlier, name) for name in INFO_FIELDS if name != "generation"}
        return self._publish(user, parent, earlier.blob, fields, announce="rollback")

    def forget(self, user: str) -> bool:
        """Delete every generation, and fence off builds that are running; say if there was a model.

        After a connection lost in the middle, False may mean that the first try had deleted it.
        """
        return bool(
            self._script(scripts.FORGET, user, FENCE_SECONDS, keys.channel(self._installation))
        )

    # Reading

    def fetch(self, user: str, *, generation: int | None = None) -> Stored | None:
        """Return the published model, or that ``generation`` if it is still kept, else None.

        One round trip, whatever happens meanwhile. Raises DecryptionError if it is encrypted and
        cannot be decrypted.
        """
        if generation is not None and generation < 1:
            raise ArgumentError(f"generations count from 1, got {generation}")
        values = self._script(scripts.FETCH, user, generation or 0, *INFO_FIELDS, "blob")
        if values is None:
            return None
        if values == b"lost":
            raise StoreError(
                "the store has lost a published model: it must not evict keys "
                "(maxmemory-policy noeviction); build the user again"
            )
        key, coming, (*rest, stored) = values
        info = info_values(user, rest)
        blob = decrypted(self._master_keys, stored, info[1], self._place(user), key, coming)
        return Stored(*info, blob=blob)

    def load(
        self,
        user: str,
        *,
        vocabulary: str | Vocabulary | None = None,
        weight: float | None = None,
        strict: bool = False,
    ) -> PersonalModel | NullModel:
        """Return the user's model, ready to score, or the null model that says why there is none.

        With ``vocabulary`` (or its fingerprint) the model must have been built with that one.
        ``weight`` is λ of every state, by default what the model's estimator says. The null model's
        ``reason`` is ``unknown_user``, ``store_unavailable``, ``bad_blob`` or
        ``vocabulary_mismatch``.

        Raises:
            ArgumentError: ``weight`` is not within 0 and 1, or the user id cannot be one.
            NoModelError, StoreError, BlobError, VocabularyMismatchError: those four reasons, only
                if ``strict``.
        """

        # numpy and more: only who loads needs it
        from perslm.model import NullModel, PersonalModel, check_vocabulary

        try:
            stored = self.fetch(user)
            if stored is None:
                raise NoModelError(
                    "the user has no published model: build one, or check the user's id with "
                    "perslm users"
                )
            model = PersonalModel.from_blob(
                stored.blob,
                generation=stored.generation,
                weight=weight,
            )
            check_vocabulary(vocabulary, model.vocabulary_fingerprint, model.vocabulary_size)
        except (StoreError, BlobError, VocabularyMismatchError) as error:
            if strict:
                raise
            return NullModel(_null_reason(error))
        return model

    def info(self, user: str) -> UserInfo | None:
        """Return what is known of the published model, or None; the blob is not read."""
        current, found = self._listed(user)
        return found.get(current)

    def generations(self, user: str) -> list[UserInfo]:
        """Return the published generation and the replaced ones still kept, newest first."""
        _, found = self._listed(user)
        return [found[generation] for generation in sorted(found, reverse=True)]

    def users(self) -> Iterator[str]:
        """Yield every user with a published model once, in no order.

        Takes one pass over all keys of the server, in small steps. Users published or deleted
        meanwhile may or may not appear. Memory grows with the number of users.
        """
        for tenant, user in self._scan(keys.heads(self._namespace)):
            if keys.namespace(self._installation, tenant) == self._namespace:
                yield user

    def owners(self) -> Iterator[tuple[str, str]]:
        """Yield tenant and user id of all users of all tenants, as ``users`` does."""
        return self._scan(keys.all_heads(self._installation))

    def _scan(
        self,
        pattern: str,
        read: Callable[[str, str], tuple[str, str] | None] = keys.owner,
    ) -> Iterator[tuple[str, str]]:
        """Yield what ``read`` makes of each key that ``pattern`` finds, once."""
        self.ping()  # a stale connection is replaced here, since a scan cannot be repeated halfway
        seen = set()
        try:
            for key in self._connection.client().scan_iter(match=pattern, count=1000):
                if key not in seen:  # a server that grows its table may name a key twice
                    seen.add(key)
                    found = read(key.decode(), self._installation)
                    if found is not None:
                        yield found
        except FAILURES as error:
            self._connection.fail(error)

    def changes(self) -> Changes:
        """Return what tells, as it happens, whose model is published, rolled back or deleted.

        Of all tenants, whichever this store is for. Nothing is connected before it is iterated
        over, which is for a thread of its own: see ``Changes``.
        """
        return Changes(self._connection, self._installation)

    # Vocabularies

    def put_vocabulary(self, data: bytes, fingerprint: str) -> None:
        """Keep ``data``, a vocabulary's bytes, for readers of models; a second time is a no-op."""
        if len(data) > VOCABULARY_BYTES:
            raise ArgumentError(f"a vocabulary has at most {VOCABULARY_BYTES} bytes")
        key = keys.vocabulary(self._namespace, fingerprint)
        packed = zlib.compress(data)
        self._connection.run(lambda client: client.set(key, packed, nx=True))

    def vocabulary(self, fingerprint: str) -> bytes | None:
        """Return the bytes of a vocabulary, or None if it was never put here."""
        key = keys.vocabulary(self._namespace, fingerprint)
        packed = self._connection.run(lambda client: client.get(key))
        if packed is None:
            return None
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(packed, VOCABULARY_BYTES)
            if unpacker.eof:
                return data
        except zlib.error:
            pass
        raise StoreError(
            f"the vocabulary {fingerprint} in the store is damaged: delete the key {key} and "
            "build with that vocabulary again"
        )

    def vocabularies(self) -> Iterator[tuple[str, str]]:
        """Yield tenant and fingerprint of all vocabularies of all tenants, as ``users`` does."""
        pattern = keys.all_vocabularies(self._installation)
        return self._scan(pattern, keys.owned_vocabulary)

    # Below here: keys, scripts, connections

    def _publish(
        self,
        user: str,
        parent: Head,
        blob: bytes | None,
        fields: Mapping[str, str | int | float] | None = None,
        *,
        announce: str = "publish",
    ) -> int:
        """Publish ``blob``, or without one what ``parent`` replaced, as it is in the store."""
        nonce = uuid.uuid4().hex
        for _ in range(_TRIES):
            words: list[str | int | float | bytes] = []
            key, replaces = None, b""
            if blob is None:
                announce = "rollback"
            else:
                key, replaces = self._data_key(user)
                new = max(parent.generation, parent.fence) + 1
                stored = blob if key is None else key.encrypt(blob, new)
                words = [
                    "blob",
                    stored,
                    *(word for pair in (fields or {}).items() for word in pair),
                ]
            verdict, generation = self._script(
                scripts.PUBLISH,
                user,
                parent.generation,
                parent.fence,
                nonce,
                self._keep,
                keys.channel(self._installation),
                announce,
                b"" if key is None else key.wrapped,
                replaces,
                *words,
            )
            if verdict == b"published":
                return int(generation)
            if verdict == b"forgotten":
                raise ForgottenError
            if verdict == b"conflict":
                raise PublishConflictError(parent.generation, generation)
            if verdict == b"nothing":
                raise NoModelError(_NOTHING_EARLIER)
            if verdict == b"encrypted":
                raise StoreError(
                    "the user's models are encrypted: name the file of the master keys, "
                    "PERSLM_MASTER_KEYS=FILE"
                )
        raise StoreError(_TOO_BUSY)  # another data key each time

    # Encryption

    def protect(
        self, user: str, *, renew: bool = False
    ) -> Literal["encrypted", "renewed", "rewrapped", "current", "absent"]:
        """Bring what is kept of a user under the current master key; say what was done.

        Models that are not encrypted become so, a data key of an older master key is wrapped anew.
        With ``renew`` the user gets another data key. Generations keep their numbers; readers and
        publishers may go on meanwhile.

        Raises:
            DecryptionError: something that is kept cannot be decrypted; nothing was changed.
            ArgumentError: the store was opened without master keys.
        """
        master_keys = self._master_keys
        if master_keys is None:
            raise ArgumentError("name the file of the master keys: PERSLM_MASTER_KEYS=FILE")
        for _ in range(_TRIES):
            generation, _, key, coming = self._script(scripts.HEAD, user)
            place = self._place(user)
            if generation == 0:
                return "absent"
            if key and not coming and not renew:
                if master_keys.is_current(key):
                    return "current"
                wrapped = master_keys.rewrapped(master_keys.data_key(key, place))
                if self._script(scripts.REWRAP, user, key, wrapped):
                    return "rewrapped"
                continue
            new = master_keys.data_key(coming, place) if coming else None
            new = new or master_keys.new_data_key(place)
            kept = (
                self.fetch(user, generation=n) for n in self._listed(user)[1] if n <= generation
            )
            words = [
                word
                for stored in kept
                if stored is not None  # not expired in this moment
                for word in (stored.generation, new.encrypt(stored.blob, stored.generation))
            ]
            if self._script(scripts.PROTECT, user, key, new.wrapped, *words):
                return "renewed" if key else "encrypted"
        raise StoreError(_TOO_BUSY)

    def _data_key(self, user: str) -> tuple[DataKey | None, bytes]:
        """Return the key to publish with, and the stored one that it may replace, if damaged."""
        if self._master_keys is None:
            return None, b""
        generation, _, key, coming = self._script(scripts.HEAD, user)
        place = self._place(user)
        try:
            if generation and (coming or not key):  # so that all that is kept stays readable
                self.protect(user)
                _, _, key, _ = self._script(scripts.HEAD, user)
            if key:
                return self._master_keys.data_key(key, place), b""
        except DamagedKeyError:
            return self._master_keys.new_data_key(place), key
        except DecryptionError as error:
            raise StoreError(str(error)) from None
        return self._master_keys.new_data_key(place), b""

    def _place(self, user: str) -> bytes:
        return place(self._namespace, user)

    def _listed(self, user: str) -> tuple[int, dict[int, UserInfo]]:
        current, *rows = self._script(scripts.LIST, user, *INFO_FIELDS)
        found = (UserInfo(*info_values(user, row)) for row in rows)
        return current, {info.generation: info for info in found}

    def _script(self, script: str, user: str, *arguments: str | bytes | int | float) -> Any:
        names = keys.of_user(self._namespace, user)
        # A reader would rather have no model than wait twice; a writer must know what happened.
        writes = script not in _READING
        return self._connection.run(
            lambda client: client.eval(script, len(names), *names, *arguments),
            repeat_timeouts=writes,
        )


def _null_reason(
    error: Exception,
) -> Literal["unknown_user", "bad_blob", "vocabulary_mismatch", "store_unavailable"]:
    if isinstance(error, NoModelError):
        return "unknown_user"
    if isinstance(error, BlobError):
        return "bad_blob"
    if isinstance(error, VocabularyMismatchError):
        return "vocabulary_mismatch"
    return "store_unavailable"
