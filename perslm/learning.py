"""A message that was just sent, learned at once: what the service and ``perslm learn`` do.

The message is kept beside the user's model (``Store.add_message``) and counts from then on
(``perslm.learned``); the next build counts it with all others. What is learned of it is for a
``Prepare`` to say: ``perslm.cli.learning`` has the one that cleans as a build does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from perslm.errors import (
    ArgumentError,
    ForgottenError,
    OptedOutError,
    VocabularyError,
    VocabularyMismatchError,
)
from perslm.store import Pending, Store
from perslm.vocabulary import Vocabulary

Prepare: TypeAlias = Callable[[str, Vocabulary], Pending | str]
"""Makes of a message what counts of it, for a user and over a vocabulary; or says why nothing."""

Status: TypeAlias = Literal["learned", "known", "nothing", "opted_out"]

_TEXTS: Final = ("message_id", "date", "subject", "body", "raw")
_ADDRESSES: Final = ("from", "to", "cc")
_VOCABULARIES: Final = 8
_TRIES: Final = 3  # while builds change the vocabulary


@dataclass(frozen=True, slots=True)
class Learned:
    """What became of a message.

    ``learned``: it counts from now on; ``known``: it did already; ``nothing``: there is nothing to
    learn in it, and ``reason`` is a word for why; ``opted_out``: the user wants no model. The
    ``reason`` of the others is ``ok``.
    """

    status: Status
    reason: str = "ok"


class Vocabularies:
    """The vocabularies that were used last, read once. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._read: OrderedDict[str, Vocabulary] = OrderedDict()

    def get(self, store: Store, fingerprint: str) -> Vocabulary:
        """Return a vocabulary of a store; raises VocabularyError if it is not there."""
        with self._mutex:
            found = self._read.get(fingerprint)
            if found is not None:
                self._read.move_to_end(fingerprint)
                return found
        data = store.vocabulary(fingerprint)
        if data is None:
            raise VocabularyError(
                f"the vocabulary {fingerprint} is not in the store: perslm build puts it there"
            )
        found = Vocabulary.from_bytes(data)
        with self._mutex:
            self._read[fingerprint] = found
            if len(self._read) > _VOCABULARIES:
                self._read.popitem(last=False)
        return found


def known_fields(message: Mapping[str, object]) -> dict[str, Any]:
    """Return those fields of a message that are looked at; raises ArgumentError if they are none.

    They are those of a JSON lines source: ``message_id``, ``date``, ``subject`` and ``body`` or
    ``raw`` (a whole message, also bytes) are text; ``from``, ``to`` and ``cc`` are text or lists of
    text.
    """
    found = {
        name: message[name] for name in (*_TEXTS, *_ADDRESSES) if message.get(name) is not None
    }
    for name, value in found.items():
        values = value if name in _ADDRESSES and isinstance(value, list | tuple) else [value]
        kinds = (str, bytes) if name == "raw" else (str,)
        if not all(isinstance(one, kinds) for one in values):
            raise ArgumentError(f"the field {name} of a message is text")
    if not found.keys() & {"body", "raw"}:
        raise ArgumentError("a message has the field body, or raw")
    return found


def learn(store: Store, user: str, prepare: Prepare, vocabularies: Vocabularies) -> Learned:
    """Learn a message of a user; the same message twice is learned once.

    It is prepared for the vocabulary of the user's model, or of the last build if there is none.
    If the user is deleted meanwhile, nothing is learned.

    Raises:
        VocabularyError: there is no vocabulary yet, or it cannot be read.
        TooManyPendingError, DecryptionError, StoreError: as ``Store.add_message``.
        ArgumentError: the message is too long to be learned by itself.
    """
    fence = store.head(user).fence
    for again in range(_TRIES):
        info = store.info(user)
        fingerprint = (info and info.vocabulary) or store.current_vocabulary()
        if fingerprint is None:
            raise VocabularyError("the store has no vocabulary: perslm build puts one there")
        message = prepare(user, vocabularies.get(store, fingerprint))
        if isinstance(message, str):
            return Learned("nothing", message)
        try:
            new = store.add_message(user, message, vocabulary=fingerprint, fence=fence)
        except OptedOutError:
            return Learned("opted_out")
        except ForgottenError:
            return Learned("nothing", "forgotten")
        except VocabularyMismatchError:  # a build with another came between
            if again == _TRIES - 1:
                raise
            continue
        break
    return Learned("learned" if new else "known")
