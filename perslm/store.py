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

===========================  ======  ========================================  ====================
key                          type    holds                                     lives
===========================  ======  ========================================  ====================
``perslm:head:{<user>}``     hash    the generation that is published: its     while published
                                     blob, number, nonce, what it replaced,
                                     and what ``UserInfo`` shows; the fence;
                                     the data key, if encrypted
``perslm:slot:{<user>}:i``   hash    the replaced generation n, where          7 days, at most 8
                                     i = n mod 8                               of them
``perslm:fence:{<user>}``    string  the fence that a deletion put up          30 days after it
``perslm:pending:{<user>}``  hash    learned messages, by their mark           until a build's
``perslm:rules:{<user>}``    hash    ``out``: the user wants no model;         until set anew;
                                     ``rules``: what is blocked;               ``out`` beyond a
                                     ``revision``: changes with them           deletion, too
``perslm:rules``             hash    the same for everybody                    until set anew
``perslm:vocabulary:<f>``    string  a vocabulary, zlib; f is its fingerprint  until removed by hand
``perslm:vocabulary``        string  the fingerprint that was put here last    until the next
===========================  ======  ========================================  ====================

**Small.** Of a user who is built once there is one key, in which everything but the blob takes some
190 bytes, the id among them, where the server keeps small hashes in one piece up to 64 KiB
(``hash-max-listpack-value 65536``, which the embedded server has).

**Atomic.** Every operation on a user is one script over that fixed set of keys, all declared. The
old generation is copied aside, and one write puts the new one in its place; so readers see one
whole generation, in one round trip, even on a server where a crash can cut a script short.

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

**Learned messages** wait beside the model until a build has counted them (``folded``). Until then
who reads the model reads them with it, in the same round trip (``perslm.learned``). As long as a
generation stays they only become more: the two numbers say which model it is. A message is known by
its *mark*, so that it can be sent twice.

**Rules** say what must not be learned (``perslm.rules``). Of somebody who opted out nothing is
taken, by the scripts themselves. Rules have a data key of their own, for whoever has no model.

**Encryption.** A store with master keys encrypts blobs before they go to the server, each for one
user and generation, with a data key that lies, wrapped, in the user's head (``perslm.encryption``).
What changes a data key is compared with what it was made from, as publishing is. A user's data key
is deleted with the user.

**Announcements.** Every publish, rollback, deletion, learned message and change of rules is told on
one channel of the installation, by the script that does it (``perslm._changes`` reads them). Nobody
has to listen. A subscriber gets some 60 bytes for each user that a nightly build publishes; one
that is too slow for that is cut off by the server (``client-output-buffer-limit``), and learns that
it missed some.

**Lost replies.** Every operation may be sent twice. A publish carries a nonce; if the first try
arrived, the second finds it and returns the same number. redis-py's own retries are off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal

from perslm import _store_keys as keys
from perslm import _store_scripts as scripts
from perslm._changes import Change, Changes
from perslm._store_base import FENCE_SECONDS, TOO_BUSY, TRIES, check_accepted, new_nonce
from perslm._store_keys import DEFAULT_TENANT, USER_ID_BYTES, check_tenant
from perslm._store_learning import MOST_PENDING, VOCABULARY_BYTES, Learning
from perslm._store_types import INFO_FIELDS, Head, Pending, Stored, UserInfo, packed_info
from perslm.encryption import MasterKeys
from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    PublishConflictError,
    RulesError,
    StoreError,
    VocabularyMismatchError,
)

if TYPE_CHECKING:
    from perslm.model import Estimator, NullModel, PersonalModel
    from perslm.vocabulary import Vocabulary

__all__ = [
    "DEFAULT_TENANT", "DEFAULT_URL", "FENCE_SECONDS", "KEEP_GENERATIONS_SECONDS", "MOST_PENDING",
    "NAMESPACE", "USER_ID_BYTES", "VOCABULARY_BYTES", "Change", "Changes", "Head", "Pending",
    "Store", "Stored", "UserInfo", "check_tenant", "open_store",
]  # fmt: skip

DEFAULT_URL: Final = "embedded:"
KEEP_GENERATIONS_SECONDS: Final = 7 * 86400
NAMESPACE: Final = "perslm"

_NOTHING_EARLIER: Final = (
    "no earlier generation is left: each is kept for a limited time after it was replaced; build "
    "the user again instead"
)


def open_store(
    url: str | None = None,
    *,
    tenant: str | None = None,
    namespace: str = NAMESPACE,
    timeout: float = 5.0,
    keep_generations_seconds: int | None = None,
    master_keys: str | os.PathLike[str] | None = None,
    patient: bool = False,
) -> Store:
    """Return the store at ``url``; nothing is connected or started before the first operation.

    Args:
        url: see the module; None means the environment's ``PERSLM_STORE``, else ``embedded:``.
            ``embedded:/some/dir`` names the embedded store's directory.
        tenant: whose users these are; None means the environment's ``PERSLM_TENANT``, else
            ``default``.
        namespace: first part of every key, so that several installations can share a server.
        timeout: seconds for connecting and for each reply.
        keep_generations_seconds: how long a superseded generation stays for ``rollback``. None
            means the environment's ``PERSLM_KEEP_GENERATIONS_SECONDS``, else 7 days.
        master_keys: a file of master keys (``perslm.encryption``): models are encrypted with them
            before they go to the server. None means the environment's ``PERSLM_MASTER_KEYS``, else
            no encryption.
        patient: whether reading waits, too, while a cluster fails over, as writing always does: for
            up to half a minute. Right for builds, wrong for who waits for a model.

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
        keep_generations_seconds=_kept(keep_generations_seconds),
        master_keys=MasterKeys(master_keys) if master_keys else None,
        patient=patient,
    )


class Store(Learning):
    """Models by user. Made by ``open_store``; a context manager; safe to use from many threads.

    Every method that reaches the server raises StoreUnavailableError if it cannot be reached, does
    not answer in time or cannot write, and StoreError if it refuses for another reason; both say
    what to do. User ids are Unicode text of 1 to 256 bytes in UTF-8, taken as they are: no case
    folding, no normalization; others are an ArgumentError.
    """

    # Publishing

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
        folded: Collection[bytes] = (),
        alone: bool = False,
    ) -> int:
        """Publish ``blob`` as the user's model and return its generation number.

        ``parent`` is the ``head`` read before the build began. The replaced generation stays for a
        while (see ``open_store``) or, with ``alone``, no earlier one does. ``folded`` are the marks
        of pending messages that the blob has, which wait no longer; others wait on. The other
        arguments come back in ``info``.

        Raises:
            PublishConflictError: another build published in between.
            ForgottenError: the user was deleted in between.
            OptedOutError: the user wants no model.
            StoreError: the user's models are encrypted, and the store was opened without master
                keys, or without the one that is needed.
        """
        if not isinstance(blob, bytes):
            raise ArgumentError(f"a blob is bytes, not {type(blob).__name__}")
        fields: dict[str, str | int | float] = {
            "previous": 0 if alone else parent.generation,
            "bytes": len(blob),
            "created": float(time.time() if created is None else created),
            "source_digest": source_digest,
            "messages": int(messages),
            "tokens": int(tokens),
            "vocabulary": vocabulary,
        }
        return self._publish(user, parent, blob, fields, folded=folded, alone=alone)

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

        Learned messages and blocked phrases go, too; the wish to have no model stays.
        After a connection lost in the middle, False may mean that the first try had deleted it.
        """
        return bool(
            self._script(scripts.FORGET, user, FENCE_SECONDS, keys.channel(self._installation))
        )

    # Reading

    def load(
        self,
        user: str,
        *,
        vocabulary: str | Vocabulary | None = None,
        weight: float | None = None,
        estimator: Estimator = "backoff",
        strict: bool = False,
    ) -> PersonalModel | NullModel:
        """Return the user's model, ready to score, or the null model that says why there is none.

        With ``vocabulary`` (or its fingerprint) the model must have been built with that one.
        ``estimator`` is how counts become probabilities (``perslm.model``), and says λ unless
        ``weight`` gives one of every state. The null model's ``reason`` is ``unknown_user``,
        ``store_unavailable``, ``bad_blob`` or ``vocabulary_mismatch``.

        Raises:
            ArgumentError: there is no such weight, estimator or user id.
            NoModelError, StoreError, BlobError or RulesError, VocabularyMismatchError: those four
                reasons, only if ``strict``.
        """

        # numpy and more: only who loads needs it
        from perslm.learned import current
        from perslm.model import NullModel, PersonalModel, check_vocabulary

        try:
            stored = self.fetch(user)
            if stored is None or (stored.rules is not None and stored.rules.opted_out):
                raise NoModelError(
                    "the user has no published model: build one, or check the user's id with "
                    "perslm users"
                )
            model = PersonalModel.from_blob(
                current(stored, self.rules(None)),
                generation=stored.generation,
                weight=weight,
                estimator=estimator,
            )
            check_vocabulary(vocabulary, model.vocabulary_fingerprint, model.vocabulary_size)
        except (StoreError, BlobError, RulesError, VocabularyMismatchError) as error:
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

    def changes(self) -> Changes:
        """Return what tells, as it happens, whose model is published, rolled back or deleted.

        Of all tenants, whichever this store is for. Nothing is connected before it is iterated
        over, which is for a thread of its own: see ``Changes``.
        """
        return Changes(self._connection, self._installation)

    def _publish(
        self,
        user: str,
        parent: Head,
        blob: bytes | None,
        fields: Mapping[str, str | int | float] | None = None,
        *,
        announce: str = "publish",
        folded: Collection[bytes] = (),
        alone: bool = False,
    ) -> int:
        """Publish ``blob``, or without one what ``parent`` replaced, as it is in the store."""
        nonce = new_nonce()
        for _ in range(TRIES):
            words: list[str | int | float | bytes] = []
            key, replaces = None, b""
            if blob is None:
                announce = "rollback"
            else:
                key, replaces = self._data_key(user)
                new = max(parent.generation, parent.fence) + 1
                stored = blob if key is None else key.encrypt(blob, new)
                words = packed_info({"blob": stored, **(fields or {})})
            verdict, generation = self._script(
                scripts.PUBLISH,
                user,
                parent.generation,
                parent.fence,
                nonce,
                -1 if alone else self._keep,
                keys.channel(self._installation),
                announce,
                b"" if key is None else key.wrapped,
                replaces,
                len(folded),
                *folded,
                *words,
            )
            if verdict == b"published":
                return int(generation)
            check_accepted(verdict)
            if verdict == b"conflict":
                raise PublishConflictError(parent.generation, generation)
            if verdict == b"nothing":
                raise NoModelError(_NOTHING_EARLIER)
        raise StoreError(TOO_BUSY)  # another data key each time


def _kept(seconds: int | None) -> int:
    if seconds is not None:
        return seconds
    said = os.environ.get("PERSLM_KEEP_GENERATIONS_SECONDS") or str(KEEP_GENERATIONS_SECONDS)
    if not said.isascii() or not said.isdigit():
        raise ArgumentError("PERSLM_KEEP_GENERATIONS_SECONDS must be a whole number of seconds")
    return int(said)


def _null_reason(
    error: Exception,
) -> Literal["unknown_user", "bad_blob", "vocabulary_mismatch", "store_unavailable"]:
    if isinstance(error, NoModelError):
        return "unknown_user"
    if isinstance(error, BlobError | RulesError):
        return "bad_blob"
    if isinstance(error, VocabularyMismatchError):
        return "vocabulary_mismatch"
    return "store_unavailable"
