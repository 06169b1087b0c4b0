"""What everything that ``perslm.store`` does is made of: a user's keys, scripts, and data keys."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from perslm import _store_keys as keys
from perslm import _store_scripts as scripts
from perslm._connection import Connection
from perslm._store_errors import FAILURES
from perslm._store_keys import DEFAULT_TENANT, check_tenant
from perslm._store_types import (
    STORED_FIELDS,
    Head,
    Pending,
    Stored,
    UserInfo,
    info_values,
    unpacked,
)
from perslm.encryption import (
    ENCRYPTED_BYTES,
    DamagedKeyError,
    DataKey,
    MasterKeys,
    decrypted,
    is_sealed,
    place,
    sealed,
    unsealed,
)
from perslm.errors import (
    ArgumentError,
    DecryptionError,
    ForgottenError,
    OptedOutError,
    StoreError,
)

if TYPE_CHECKING:
    from perslm.rules import Rules

FENCE_SECONDS: Final = 30 * 86400
TRIES: Final = 100  # against others that change a user's data key or rules in the same moment
RULES_TOO_BUSY: Final = "others keep changing these rules: try again"
TOO_BUSY: Final = "others keep changing this user's data key: try again"

_READING: Final = (
    scripts.HEAD, scripts.FETCH, scripts.LIST, scripts.SNAPSHOT, scripts.SNAPSHOT_RULES,
    scripts.PENDING, scripts.RULES,
)  # fmt: skip
_OF_EVERYBODY: Final = (
    scripts.RULES, scripts.SET_RULES, scripts.RESEAL, scripts.SNAPSHOT_RULES, scripts.RESTORE_RULES,
)  # fmt: skip
_HEADS_AT_ONCE: Final = 500


class Base:
    """Keys of users on a server, read and kept under the master keys. See ``perslm.store``."""

    def __init__(
        self,
        url: str,
        *,
        tenant: str = DEFAULT_TENANT,
        namespace: str,
        timeout: float,
        keep_generations_seconds: int,
        master_keys: MasterKeys | None = None,
        patient: bool = False,
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
        self.tenant = tenant
        self._installation = namespace
        self._namespace = keys.namespace(namespace, tenant)
        self._keep = int(keep_generations_seconds)
        self._connection = Connection(url, timeout, patient=patient)
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

    def of_tenant(self, tenant: str) -> Self:
        """Return the same store with the keys of another tenant.

        It has the connections of this one, which stays the one to close. Raises ArgumentError if
        ``tenant`` cannot be a tenant's name.
        """
        check_tenant(tenant)
        view = copy.copy(self)
        view.tenant = tenant
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

    # Reading

    def head(self, user: str) -> Head:
        """Return what a build of ``user`` that begins now must publish against."""
        generation, fence, _, _, *rest = self._script(scripts.HEAD, user)
        pending, left, rules, digest = rest
        return Head(generation, fence, pending, unpacked(digest), rules.decode(), _since(left))

    def heads(self, users: Sequence[str]) -> list[Head]:
        """Return the ``head`` of each of many users, in few round trips.

        Each was true at some moment of the call.
        """
        found: list[Head] = []
        for i in range(0, len(users), _HEADS_AT_ONCE):
            names = [keys.of_heads(self._namespace, user) for user in users[i : i + _HEADS_AT_ONCE]]

            def ask(client: Any, names: list[list[str]] = names) -> list[bytes]:
                pipeline = client.pipeline(transaction=False)
                for of_user in names:
                    pipeline.eval(scripts.HEADS, len(of_user), *of_user)
                lines: list[bytes] = pipeline.execute()
                return lines

            for line in self._connection.run(ask):
                *numbers, rules, digest = line.split(b" ", 5)
                generation, fence, pending, left = map(int, numbers)
                since = _since(left)
                found.append(
                    Head(generation, fence, pending, unpacked(digest), rules.decode(), since)
                )
        return found

    def fetch(self, user: str, *, generation: int | None = None) -> Stored | None:
        """Return the published model, or that ``generation`` if it is still kept, else None.

        One round trip, whatever happens meanwhile. The published model comes with the messages that
        were learned since, and with the user's rules: ``perslm.learned`` puts them together. Raises
        DecryptionError if something is encrypted and cannot be decrypted, BlobError if a learned
        message or the rules are damaged.
        """
        if generation is not None and generation < 1:
            raise ArgumentError(f"generations count from 1, got {generation}")
        blob_of_it = scripts.FIELDS["blob"]
        values = self._script(scripts.FETCH, user, generation or 0, *STORED_FIELDS, blob_of_it)
        if values is None:
            return None
        key, coming, (*rest, stored), waiting, ruled = values
        number = int(rest[0])
        blob = decrypted(self._master_keys, stored, number, self._place(user), key, coming)
        info = info_values(user, rest, len(blob))
        pending = self._messages(user, key, coming, waiting)
        opted_out, rules, revision = ruled or (None, None, None)
        return Stored(
            *info,
            blob=blob,
            pending=tuple(pending),
            rules=self._rules(user, opted_out, rules) if opted_out or rules else None,
            revision=(revision or b"").decode(),
        )

    def _messages(self, user: str, key: bytes, coming: bytes, flat: list[bytes]) -> list[Pending]:
        """Return the messages of a reply, oldest first; raises BlobError."""
        place = self._place(user)
        found = [
            Pending.from_bytes(mark, decrypted(self._master_keys, value, mark, place, key, coming))
            for mark, value in zip(flat[::2], flat[1::2], strict=True)
        ]
        return sorted(found, key=lambda message: (message.sent, message.mark))

    def _listed(self, user: str) -> tuple[int, dict[int, UserInfo]]:
        current, sealed, *rows = self._script(scripts.LIST, user, *STORED_FIELDS)
        more = ENCRYPTED_BYTES if sealed else 0
        found = (UserInfo(*info_values(user, row, size - more)) for *row, size in rows)
        return current, {info.generation: info for info in found}

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

    # Encryption

    def protect(
        self, user: str, *, renew: bool = False
    ) -> Literal["encrypted", "renewed", "rewrapped", "current", "absent"]:
        """Bring what is kept of a user under the current master key; say what was done.

        Models that are not encrypted become so, a data key of an older master key is wrapped anew.
        With ``renew`` the user gets another data key. Generations keep their numbers; readers and
        publishers may go on meanwhile. Messages that wait for a build and rules are treated alike;
        the empty user id stands for everybody's rules.

        Raises:
            DecryptionError: something that is kept cannot be decrypted; it was not changed.
            ArgumentError: the store was opened without master keys.
        """
        master_keys = self._master_keys
        if master_keys is None:
            raise ArgumentError("name the file of the master keys: PERSLM_MASTER_KEYS=FILE")
        ruled = self._protect_rules(user, master_keys, renew=renew)
        if not user:
            return ruled
        place = self._place(user)
        for _ in range(TRIES):
            generation, _, key, coming, *_ = self._script(scripts.HEAD, user)
            if generation == 0:
                return ruled
            if key and not coming and not renew:
                if master_keys.is_current(key):
                    return "current" if ruled == "absent" else ruled
                wrapped = master_keys.rewrapped(master_keys.data_key(key, place))
                if self._script(scripts.REWRAP, user, key, wrapped):
                    return "rewrapped"
                continue
            new = master_keys.data_key(coming, place) if coming else None
            new = new or master_keys.new_data_key(place)
            words = self._encrypted(user, generation, new)
            if self._script(scripts.PROTECT, user, key, new.wrapped, *words):
                return "renewed" if key else "encrypted"
        raise StoreError(TOO_BUSY)

    def _encrypted(self, user: str, generation: int, new: DataKey) -> list[int | bytes]:
        """Return all that is kept of a user as PROTECT takes it, under another data key."""
        kept = [self.fetch(user, generation=n) for n in self._listed(user)[1] if n <= generation]
        found = [stored for stored in kept if stored is not None]  # not expired in this moment
        words: list[int | bytes] = [len(found)]
        for stored in found:
            words += [stored.generation, new.encrypt(stored.blob, stored.generation)]
        key, coming, waiting = self._script(scripts.PENDING, user)
        place = self._place(user)
        for mark, value in zip(waiting[::2], waiting[1::2], strict=True):
            data = decrypted(self._master_keys, value, mark, place, key, coming)
            words += [mark, new.encrypt(data, mark)]
        return words

    def _data_key(self, user: str) -> tuple[DataKey | None, bytes]:
        """Return the key to publish with, and the stored one that it may replace, if damaged."""
        if self._master_keys is None:
            return None, b""
        generation, _, key, coming, *_ = self._script(scripts.HEAD, user)
        place = self._place(user)
        try:
            if generation and (coming or not key):  # so that all that is kept stays readable
                self.protect(user)
                _, _, key, *_ = self._script(scripts.HEAD, user)
            if key:
                return self._master_keys.data_key(key, place), b""
        except DamagedKeyError:
            return self._master_keys.new_data_key(place), key
        except DecryptionError as error:
            raise StoreError(str(error)) from None
        return self._master_keys.new_data_key(place), b""

    def _place(self, user: str) -> bytes:
        return place(self._namespace, user)

    # Rules, which have a data key of their own: who has some may have no model

    def _rules(self, user: str, opted_out: bytes | None, stored: bytes | None) -> Rules:
        """Return what a reply says; raises BlobError if it cannot be read."""
        from perslm.rules import Rules  # and with it numpy: only who has rules needs it

        if stored is None:
            return Rules(opted_out=bool(opted_out))
        data = unsealed(self._master_keys, stored, self._place_of_rules(user))
        found = Rules.from_bytes(data)
        return replace(found, opted_out=bool(opted_out))

    def _protect_rules(
        self, user: str, master_keys: MasterKeys, *, renew: bool
    ) -> Literal["encrypted", "renewed", "rewrapped", "current", "absent"]:
        place = self._place_of_rules(user)
        for _ in range(TRIES):
            _, stored, _ = self._script(scripts.RULES, user)
            if stored is None:
                return "absent"
            was_sealed = is_sealed(stored)
            if was_sealed and not renew and master_keys.is_current(stored):
                return "current"
            new = sealed(master_keys, unsealed(master_keys, stored, place), place)
            if self._script(scripts.RESEAL, user, stored, new):
                if not was_sealed:
                    return "encrypted"
                return "renewed" if renew else "rewrapped"
        raise StoreError(RULES_TOO_BUSY)

    def _place_of_rules(self, user: str) -> bytes:
        return place(f"{self._namespace}:rules", user)

    def _script(self, script: str, user: str, *arguments: str | bytes | int | float) -> Any:
        """Run a script on the keys of a user, or of an empty one, which has everybody's rules."""
        everybodys = script in _OF_EVERYBODY and not user
        names = [keys.rules(self._namespace)] if everybodys else keys.of_user(self._namespace, user)
        # A reader would rather have no model than wait twice; a writer must know what happened.
        writes = script not in _READING
        return self._connection.at(
            names[0], "EVAL", script, len(names), *names, *arguments, writes=writes
        )


def _since(milliseconds: int) -> float | None:
    """Return how long ago a fence was put up that stays so long; None if there is none."""
    return FENCE_SECONDS - milliseconds / 1000 if milliseconds >= 0 else None


def check_accepted(verdict: bytes) -> None:
    """Raise the error of what PUBLISH or ADD answered, if both refuse so."""
    if verdict == b"forgotten":
        raise ForgottenError
    if verdict == b"opted out":
        raise OptedOutError
    if verdict == b"encrypted":
        raise StoreError(
            "the user's models are encrypted: name the file of the master keys, "
            "PERSLM_MASTER_KEYS=FILE"
        )


def new_nonce() -> bytes:
    """Return what a publish is known again by, if its reply is lost."""
    return secrets.token_bytes(6)
