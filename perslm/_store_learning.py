"""What ``perslm.store`` has beside the models: learned messages that wait for a build, and rules.

How they count is in ``perslm.learned``, what rules mean in ``perslm.rules``.
"""

from __future__ import annotations

import time
import zlib
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from perslm import _store_keys as keys
from perslm import _store_scripts as scripts
from perslm._store_base import (
    RULES_TOO_BUSY,
    TOO_BUSY,
    TRIES,
    Base,
    check_accepted,
    new_nonce,
)
from perslm._store_types import Pending, packed, packed_info, unpacked
from perslm.encryption import sealed
from perslm.errors import (
    ArgumentError,
    DecryptionError,
    StoreError,
    TooManyPendingError,
    VocabularyError,
    VocabularyMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from perslm.rules import Rules

MOST_PENDING: Final = 1000
"""How many messages of a user may wait for a build: they are all read with the model."""

VOCABULARY_BYTES: Final = 256 << 20  # what the tokenizers of large models have is a tenth of it

FIRST_ORDER: Final = 3  # of the model of a user who has none yet; the next build has its own


class Learning(Base):
    """Learned messages and rules of users. See ``perslm.store``."""

    # Learned messages

    def add_message(
        self, user: str, message: Pending, *, vocabulary: str, fence: int | None = None
    ) -> bool:
        """Keep a message that counts at once, beside the published model; False if it is there.

        A user without a model gets an empty one first. ``vocabulary`` is the fingerprint of the
        ids'. After a connection lost in the middle, False may mean that the first try had added it.

        Raises:
            ForgottenError: the user was deleted since ``fence`` was read, if it is given.
            OptedOutError: the user wants no model.
            VocabularyMismatchError: the user's model is over another vocabulary.
            VocabularyError: the user has no model, and the store no such vocabulary.
            TooManyPendingError: more messages wait for a build than may.
            ArgumentError: the message is too long, its mark is no mark, or ``sent`` is no time.
            DecryptionError: the user's data key is damaged.
            StoreError: as ``publish``.
        """
        data = message.to_bytes(vocabulary)
        base: bytes | None = None
        for _ in range(TRIES):
            key, damaged = self._data_key(user)
            if damaged:
                raise DecryptionError("the user's data key is damaged", "build the user again")
            words: list[str | bytes | int | float] = []
            if base is not None:
                new = self.head(user).fence + 1
                stored = base if key is None else key.encrypt(base, new)
                words = packed_info(
                    {"blob": stored, "previous": 0, "bytes": len(base), "created": time.time(),
                     "source_digest": "", "messages": 0, "tokens": 0, "vocabulary": vocabulary,
                     "nonce": new_nonce()}
                )  # fmt: skip
            verdict, found = self._script(
                scripts.ADD,
                user,
                "" if fence is None else fence,
                keys.channel(self._installation),
                MOST_PENDING,
                packed(vocabulary),
                b"" if key is None else key.wrapped,
                message.mark,
                data if key is None else key.encrypt(data, message.mark),
                *words,
            )
            if verdict in (b"added", b"known"):
                return bool(verdict == b"added")
            check_accepted(verdict)
            if verdict == b"vocabulary":
                raise VocabularyMismatchError(unpacked(found), vocabulary)
            if verdict == b"full":
                raise TooManyPendingError(MOST_PENDING)
            base = base or self._empty(vocabulary)
        raise StoreError(TOO_BUSY)

    def pending(self, user: str) -> list[Pending]:
        """Return the messages that wait for a build, oldest first.

        A build counts them with all others, and has ``publish`` take their marks away. Those of
        another vocabulary than the build's mean nothing to it; their mail does. Raises BlobError if
        one is damaged or cannot be decrypted: forget the user, and build again.
        """
        return self._messages(user, *self._script(scripts.PENDING, user))

    def learners(self) -> Iterator[str]:
        """Yield every user of whom messages wait for a build, as ``users`` does."""
        for tenant, user in self._scan(keys.all_pending(self._namespace), keys.learner):
            if keys.namespace(self._installation, tenant) == self._namespace:
                yield user

    def _empty(self, vocabulary: str) -> bytes:
        """Return the blob of a user who wrote nothing yet."""
        from perslm import blob, counts  # numpy: only the first message of somebody needs it
        from perslm.vocabulary import Vocabulary

        data = self.vocabulary(vocabulary)
        if data is None:
            raise VocabularyError(
                f"the vocabulary {vocabulary} is not in the store: perslm build puts it there"
            )
        words = Vocabulary.from_bytes(data)
        specials = counts.Specials(words.size, words.bos, words.eos)
        return blob.encode(counts.empty(FIRST_ORDER, specials), blob.Metadata(vocabulary))

    def _use_vocabulary(self, fingerprint: str, *, always: bool) -> None:
        """Remember which vocabulary is that of new users; not ``always``: if none is yet."""
        key = keys.current_vocabulary(self._namespace)
        how = () if always else ("NX",)
        self._connection.at(key, "SET", key, fingerprint, *how, writes=True)

    # Rules

    def rules(self, user: str | None) -> Rules:
        """Return what must not be learned of a user, or (None) of anybody of the tenant.

        Raises DecryptionError if they cannot be decrypted, RulesError if they are damaged.
        """
        opted_out, stored, _ = self._script(scripts.RULES, _owner(user))
        return self._rules(user or "", opted_out, stored)

    def set_rules(self, user: str | None, rules: Rules) -> None:
        """Keep rules of a user, or (None) of everybody of the tenant, in the place of all before.

        They are encrypted if the store is. A deletion leaves the user's wish to have no model, and
        nothing else of them. Rules that go by those before are for ``change_rules``. Raises
        ArgumentError if everybody is to opt out.
        """
        self._put_rules(user, rules)

    def change_rules(self, user: str | None, change: Callable[[Rules], Rules]) -> Rules:
        """Keep what ``change`` makes of the rules of a user, or (None) of everybody; return it.

        Nothing that others change in the same moment is lost, an opt-out least of all: ``change``
        is then called again, with what they left. Raises what it raises, StoreError if others
        never stop, and as ``rules`` and ``set_rules``.
        """
        for _ in range(TRIES):
            opted_out, stored, revision = self._script(scripts.RULES, _owner(user))
            new = change(self._rules(user or "", opted_out, stored))
            if self._put_rules(user, new, opted_out or b"", revision or b""):
                return new
        raise StoreError(RULES_TOO_BUSY)

    def _put_rules(self, user: str | None, rules: Rules, *as_read: bytes) -> bool:
        if user is None and rules.opted_out:
            raise ArgumentError("a user opts out, not everybody: delete the models instead")
        data = b""
        if rules.phrases or rules.blocked:
            data = rules.to_bytes()
            if self._master_keys is not None:
                data = sealed(self._master_keys, data, self._place_of_rules(user or ""))
        done = self._script(
            scripts.SET_RULES,
            _owner(user),
            keys.channel(self._installation),
            "1" if rules.opted_out else "",
            data,
            token_hex(8) if rules else "",
            *as_read,
        )
        return bool(done)

    def ruled(self) -> Iterator[tuple[str, str]]:
        """Yield tenant and user id (empty: everybody) of all who have rules, as ``users`` does."""
        return self._scan(keys.all_rules(self._installation), keys.ruled)

    # Vocabularies

    def put_vocabulary(self, data: bytes, fingerprint: str) -> None:
        """Keep ``data``, a vocabulary's bytes, for readers of models, and for users to come."""
        if len(data) > VOCABULARY_BYTES:
            raise ArgumentError(f"a vocabulary has at most {VOCABULARY_BYTES} bytes")
        key = keys.vocabulary(self._namespace, fingerprint)
        packed = zlib.compress(data)
        self._connection.at(key, "SET", key, packed, "NX", writes=True)
        self._use_vocabulary(fingerprint, always=True)

    def current_vocabulary(self) -> str | None:
        """Return the fingerprint of the vocabulary that was put here last, by a build."""
        key = keys.current_vocabulary(self._namespace)
        found = self._connection.at(key, "GET", key, writes=False)
        return None if found is None else found.decode()

    def vocabulary(self, fingerprint: str) -> bytes | None:
        """Return the bytes of a vocabulary, or None if it was never put here."""
        key = keys.vocabulary(self._namespace, fingerprint)
        packed = self._connection.at(key, "GET", key, writes=False)
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


def _owner(user: str | None) -> str:
    if user == "":
        raise ArgumentError("a user id is text of 1 to 256 bytes, and this one is empty")
    return user or ""
