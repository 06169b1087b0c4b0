"""Where models live between builder and beam: a Redis-protocol store, one small set of keys a user.

``open_store`` takes ``embedded:`` (a private server, see ``perslm.embedded``), ``redis://``,
``rediss://``, ``unix://``, ``redis+cluster://`` or ``rediss+cluster://``. Any server does that
speaks the protocol of Redis 6.2: Redis, Valkey, either as a cluster, Kvrocks. What a blob means is
not known here (``perslm.blob``, ``perslm.model``); which failures become which error is in
``perslm._store_errors``, the scripts that run inside the server in ``perslm._store_scripts``.

Keys, with the default namespace. ``<user>`` is the user id with ``%``, braces, spaces and control
characters percent-encoded; as hash tag it puts all keys of a user on one node. The varying part
comes last because Kvrocks can only search for prefixes.

=========================  ======  ==========================================  ====================
key                        type    holds                                       lives
=========================  ======  ==========================================  ====================
``perslm:head:{<user>}``   hash    ``generation``, ``fence``: the pointer      while published
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
since what follows a namespace is a colon, which no tenant's name may hold.

**Deletion.** ``forget`` removes everything and leaves a *fence*: one integer above every number
the user ever had. A build publishes only against the fence that it read at its start, so one that
was running cannot bring the user back; one begun later can, and goes on with higher numbers.
The fence goes after 30 days, far longer than any build or cached model lives, because it
carries the user's id in its key; then nothing is left, and numbers would start from 1.

**Lost replies.** Every operation may be sent twice. A publish carries a nonce; if the first try
arrived, the second finds it and returns the same number. redis-py's own retries are off.
"""

from __future__ import annotations

import copy
import os
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from perslm import _store_scripts as scripts
from perslm._store_errors import FAILURES, explain, worth_repeating
from perslm.errors import (
    ArgumentError,
    BlobError,
    ForgottenError,
    NoModelError,
    PublishConflictError,
    StoreError,
    StoreUnavailableError,
    VocabularyMismatchError,
)

if TYPE_CHECKING:
    from perslm.embedded import EmbeddedServer
    from perslm.model import NullModel, PersonalModel
    from perslm.vocabulary import Vocabulary

DEFAULT_URL: Final = "embedded:"
KEEP_GENERATIONS_SECONDS: Final = 7 * 86400
FENCE_SECONDS: Final = 30 * 86400
USER_ID_BYTES: Final = 256
NAMESPACE: Final = "perslm"
DEFAULT_TENANT: Final = "default"

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_INFO_FIELDS: Final = (
    "generation", "previous", "bytes", "created", "source_digest", "messages", "tokens",
    "vocabulary",
)  # fmt: skip

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Head:
    """What a build starts from: read it first, publish against it last.

    ``generation`` is 0 if nothing is published. ``fence`` changes when the user is deleted.
    """

    generation: int
    fence: int


@dataclass(frozen=True, slots=True)
class UserInfo:
    """What the store knows of one generation of a user's model.

    ``bytes`` is the size of the blob, ``created`` a POSIX time, ``previous`` the generation that a
    rollback would publish again (0: none). ``source_digest``, ``messages``, ``tokens`` and
    ``vocabulary`` (a fingerprint) are as the builder gave them.
    """

    user: str
    generation: int
    previous: int
    bytes: int
    created: float
    source_digest: str
    messages: int
    tokens: int
    vocabulary: str


@dataclass(frozen=True, slots=True)
class Stored(UserInfo):
    """A published model: the blob and what is known of it."""

    blob: bytes = field(repr=False)


def open_store(
    url: str | None = None,
    *,
    tenant: str | None = None,
    namespace: str = NAMESPACE,
    timeout: float = 5.0,
    keep_generations_seconds: int = KEEP_GENERATIONS_SECONDS,
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

    Raises:
        ArgumentError: the URL or another argument makes no sense.
    """
    return Store(
        url or os.environ.get("PERSLM_STORE") or DEFAULT_URL,
        tenant=tenant or os.environ.get("PERSLM_TENANT") or DEFAULT_TENANT,
        namespace=namespace,
        timeout=timeout,
        keep_generations_seconds=keep_generations_seconds,
    )


def check_tenant(name: str) -> None:
    """Raise ArgumentError unless ``name`` can be a tenant's."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise ArgumentError("a tenant is 1 to 40 letters, digits, '_' or '-'")


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
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", namespace):
            raise ArgumentError("a namespace is 1 to 64 letters, digits, '_', '.' or '-'")
        if not timeout > 0:
            raise ArgumentError(f"the timeout is {timeout} s: it must be above 0")
        if keep_generations_seconds < 0:
            raise ArgumentError("keep_generations_seconds must not be negative")
        check_tenant(tenant)
        self._installation = namespace
        self._namespace = _namespace(namespace, tenant)
        self._owner: Store | None = None  # whose connections these are, if another's
        self._timeout = timeout
        self._keep = int(keep_generations_seconds)
        self._mutex = threading.Lock()
        self._client: Any = None  # redis.Redis or redis.RedisCluster, whose types differ
        self._closed = False
        self._server: EmbeddedServer | None = None
        self._url = url
        self.location = self._locate(url)

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
        view._namespace = _namespace(self._installation, tenant)
        view._owner = self._owner or self
        return view

    def close(self) -> None:
        """Close all connections; an embedded server stops when its last user has closed."""
        if self._owner is not None:
            return
        with self._mutex:
            self._closed = True
            client, self._client = self._client, None
            if client is not None:
                client.close()
            if self._server is not None:
                self._server.close()

    def ping(self) -> None:
        """Return if the server answers; an embedded one is started."""
        self._run(lambda client: client.ping())

    # Publishing

    def head(self, user: str) -> Head:
        """Return what a build of ``user`` that begins now must publish against."""
        generation, fence = self._script(scripts.HEAD, user)
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
        """
        if not isinstance(blob, bytes):
            raise ArgumentError(f"a blob is bytes, not {type(blob).__name__}")
        values = (
            ("blob", blob),
            ("previous", parent.generation),
            ("bytes", len(blob)),
            ("created", repr(float(time.time() if created is None else created))),
            ("source_digest", source_digest),
            ("messages", int(messages)),
            ("tokens", int(tokens)),
            ("vocabulary", vocabulary),
        )
        return self._publish(user, parent, *(word for pair in values for word in pair))

    def rollback(self, user: str) -> int:
        """Publish again, under a new number, the model that the current one replaced.

        Returns the new generation. The model rolled back from stays as long as any replaced one.

        Raises:
            NoModelError: nothing is published, or no earlier generation is left.
            PublishConflictError: a build published in this very moment; look again.
        """
        parent = self.head(user)
        if parent.generation == 0:
            raise NoModelError("the user has no published model, so there is nothing to roll back")
        return self._publish(user, parent)

    def forget(self, user: str) -> bool:
        """Delete every generation, and fence off builds that are running; say if there was a model.

        After a connection lost in the middle, False may mean that the first try had deleted it.
        """
        return bool(self._script(scripts.FORGET, user, FENCE_SECONDS))

    # Reading

    def fetch(self, user: str, *, generation: int | None = None) -> Stored | None:
        """Return the published model, or that ``generation`` if it is still kept, else None.

        One round trip, whatever happens meanwhile.
        """
        if generation is not None and generation < 1:
            raise ArgumentError(f"generations count from 1, got {generation}")
        values = self._script(scripts.FETCH, user, generation or 0, *_INFO_FIELDS, "blob")
        if values is None:
            return None
        if values == b"lost":
            raise StoreError(
                "the store has lost a published model: it must not evict keys "
                "(maxmemory-policy noeviction); build the user again"
            )
        return Stored(*_info_values(user, values[:-1]), blob=values[-1])

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
        ``weight`` is λ, by default ``perslm.interpolate.DEFAULT_WEIGHT``. The null model's
        ``reason`` is ``unknown_user``, ``store_unavailable``, ``bad_blob`` or
        ``vocabulary_mismatch``.

        Raises:
            ArgumentError: ``weight`` is not within 0 and 1, or the user id cannot be one.
            NoModelError, StoreError, BlobError, VocabularyMismatchError: those four reasons, only
                if ``strict``.
        """
        from perslm.interpolate import DEFAULT_WEIGHT

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
                weight=DEFAULT_WEIGHT if weight is None else weight,
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
        self.ping()  # a stale connection is replaced here, since a scan cannot be repeated halfway
        prefix = f"{self._namespace}:head:{{"
        seen = set()
        try:
            for key in self._connect().scan_iter(match=prefix + "*", count=1000):
                if key not in seen:  # a server that grows its table may name a key twice
                    seen.add(key)
                    yield unquote(key[len(prefix) : -1].decode())
        except FAILURES as error:
            self._raise(error)

    # Vocabularies

    def put_vocabulary(self, data: bytes, fingerprint: str) -> None:
        """Keep ``data``, a vocabulary's bytes, for readers of models; a second time is a no-op."""
        key = self._vocabulary_key(fingerprint)
        packed = zlib.compress(data)
        self._run(lambda client: client.set(key, packed, nx=True))

    def vocabulary(self, fingerprint: str) -> bytes | None:
        """Return the bytes of a vocabulary, or None if it was never put here."""
        key = self._vocabulary_key(fingerprint)
        packed = self._run(lambda client: client.get(key))
        if packed is None:
            return None
        try:
            return zlib.decompress(packed)
        except zlib.error as error:
            raise StoreError(
                f"the vocabulary {fingerprint} in the store is damaged: delete the key {key} and "
                "build with that vocabulary again"
            ) from error

    # Below here: keys, scripts, connections

    def _keys(self, user: str) -> list[str]:
        if not isinstance(user, str) or not user:
            raise ArgumentError("a user id is text of 1 to 256 bytes, and this one is empty")
        try:
            size = len(user.encode())
        except UnicodeEncodeError:
            raise ArgumentError("a user id must be valid Unicode text") from None
        if size > USER_ID_BYTES:
            raise ArgumentError(f"a user id has at most {USER_ID_BYTES} bytes, this has {size}")
        tag = "{" + re.sub(r"[%{}\x00-\x20\x7f]", lambda c: f"%{ord(c[0]):02X}", user) + "}"
        slots = [f"{self._namespace}:slot:{tag}:{i}" for i in range(scripts.SLOTS)]
        return [f"{self._namespace}:head:{tag}", f"{self._namespace}:fence:{tag}", *slots]

    def _vocabulary_key(self, fingerprint: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.:+=-]{1,128}", fingerprint):
            raise ArgumentError("a fingerprint is 1 to 128 letters, digits, or any of _.:+=-")
        return f"{self._namespace}:vocabulary:{fingerprint}"

    def _publish(self, user: str, parent: Head, *fields: str | bytes | int) -> int:
        nonce = uuid.uuid4().hex
        verdict, generation = self._script(
            scripts.PUBLISH, user, parent.generation, parent.fence, nonce, self._keep, *fields
        )
        if verdict == b"forgotten":
            raise ForgottenError
        if verdict == b"conflict":
            raise PublishConflictError(parent.generation, generation)
        if verdict == b"nothing":
            raise NoModelError(
                "no earlier generation is left: each is kept for a limited time after it was "
                "replaced; build the user again instead"
            )
        return int(generation)

    def _listed(self, user: str) -> tuple[int, dict[int, UserInfo]]:
        current, *rows = self._script(scripts.LIST, user, *_INFO_FIELDS)
        found = (UserInfo(*_info_values(user, row)) for row in rows)
        return current, {info.generation: info for info in found}

    def _script(self, script: str, user: str, *arguments: str | bytes | int) -> Any:
        keys = self._keys(user)
        # A reader would rather have no model than wait twice; a writer must know what happened.
        writes = script in (scripts.PUBLISH, scripts.FORGET)
        return self._run(
            lambda client: client.eval(script, len(keys), *keys, *arguments),
            repeat_timeouts=writes,
        )

    def _run(self, operation: Callable[[Any], _T], *, repeat_timeouts: bool = False) -> _T:
        """Run ``operation``, a second time if the connection was lost: all of ours allow that."""
        try:
            return operation(self._connect())
        except FAILURES as error:
            if not worth_repeating(error, timeouts=repeat_timeouts):
                self._raise(error)
        if self._server is not None:
            self._server.ensure()
        try:
            return operation(self._connect())
        except FAILURES as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        trouble = None if self._server is None else self._server.trouble()
        # Not chained: a server's message may repeat arguments, and with them blobs and user ids.
        raise explain(error, self.location, trouble) from None

    def _connect(self) -> Any:
        if self._owner is not None:
            return self._owner._connect()
        with self._mutex:
            if self._closed:
                raise StoreUnavailableError("this store was closed: open it again")
            if self._client is None:
                if self._server is not None:
                    self._server.ensure()
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
        }
        if "+cluster://" in self._url:
            # A cluster client repeats by itself while slots move; every operation allows that.
            return redis.RedisCluster.from_url(self._url.replace("+cluster", "", 1), **options)
        options["retry"] = Retry(NoBackoff(), 0)
        if self._server is not None:
            return redis.Redis(unix_socket_path=str(self._server.socket), **options)
        return redis.Redis.from_url(self._url, **options)

    def _locate(self, url: str) -> str:
        """Check ``url`` and return it without credentials; set up the embedded server if it is."""
        scheme, _, rest = url.partition(":")
        if scheme == "embedded":
            from pathlib import Path

            from perslm.embedded import EmbeddedServer  # needs fcntl, which Windows lacks

            self._server = EmbeddedServer(Path(rest).expanduser() if rest else None)
            return f"embedded:{self._server.directory}"
        if scheme not in _SCHEMES or not rest.startswith("//"):
            schemes = ", ".join(f"{known}://" for known in _SCHEMES)
            raise ArgumentError(
                f"a store's URL is embedded:, embedded:/some/dir, or one of {schemes}"
            )
        try:
            parts = urlsplit(url)
            redis.ConnectionPool.from_url(url.replace("+cluster", "", 1))  # parses, no more
            port = parts.port
        except ValueError:
            raise ArgumentError(
                f"this {scheme}:// URL cannot be read: check host and port"
            ) from None
        host = parts.hostname or ""
        masked = "***@" if "@" in parts.netloc else ""
        return f"{scheme}://{masked}{host}{f':{port}' if port else ''}{parts.path}"


def _namespace(installation: str, tenant: str) -> str:
    return installation if tenant == DEFAULT_TENANT else f"{installation}.{tenant}"


def _info_values(
    user: str, values: list[bytes]
) -> tuple[str, int, int, int, float, str, int, int, str]:
    """Return the values of ``_INFO_FIELDS`` with their types, in the order of ``UserInfo``."""
    generation, previous, size, created, digest, messages, tokens, vocabulary = values
    return (
        user, int(generation), int(previous), int(size), float(created), digest.decode(),
        int(messages), int(tokens), vocabulary.decode(),
    )  # fmt: skip


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
