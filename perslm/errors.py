"""Every exception that perslm raises on purpose, in one tree.

::

    PerslmError
    ├── ArgumentError            a call was given what it cannot take (also a ValueError)
    ├── MissingExtraError        an optional dependency is not installed
    ├── VocabularyError          a vocabulary file cannot be read or built
    │   └── VocabularyMismatchError   two vocabularies meet that are not the same
    ├── BlobError                bytes are not a model that this version reads
    │   └── DecryptionError           an encrypted model, and no key for it
    ├── RulesError               bytes are not the rules of a user
    ├── AutomatonError           an automaton breaks one of its invariants
    ├── InteropError             an ARPA or OpenFst file cannot be read or written
    ├── SourceError              a mail source cannot be read
    ├── LedgerError              a builder's ledger cannot be used
    ├── StoreError               the store answered, and the answer is no
    │   ├── StoreUnavailableError     the store cannot be reached, or cannot write
    │   ├── NoModelError              the user has no published model
    │   ├── PublishConflictError      another builder published first
    │   ├── ForgottenError            the user was deleted while the build ran
    │   ├── OptedOutError             the user wants no model
    │   └── TooManyPendingError       too many messages were learned since the last build
    └── ServiceError             the scoring service failed (strict clients only)

Messages name the remedy. They never hold a word that a user wrote: positions, lengths and digests
only. ``exit_code`` is what the command line returns for the class; ``perslm --help`` lists them.
"""

from __future__ import annotations

from typing import ClassVar


class PerslmError(Exception):
    """Base class of every error that perslm raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Let worker processes pass errors on: a class may make its message of other arguments."""
        return _restored, (type(self), str(self), dict(vars(self)))


def _restored(kind: type[PerslmError], message: str, attributes: dict[str, object]) -> PerslmError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    vars(error).update(attributes)
    return error


class ArgumentError(PerslmError, ValueError):
    """An argument has the wrong shape, type or range."""

    exit_code: ClassVar[int] = 2


class MissingExtraError(PerslmError, ImportError):
    """An optional dependency is missing; ``extra`` names what to install."""

    exit_code: ClassVar[int] = 2

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} needs an extra: pip install 'perslm[{extra}]'")


class VocabularyError(PerslmError):
    """A vocabulary cannot be read, written or built."""

    exit_code: ClassVar[int] = 5


class VocabularyMismatchError(VocabularyError):
    """A model or request was made with another vocabulary than the one at hand.

    ``expected`` and ``got`` are fingerprints.
    """

    def __init__(self, expected: str, got: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(
            f"vocabulary {got} was given where {expected} is needed: "
            "use the vocabulary the model was built with, or build the model again with this one"
        )


class BlobError(PerslmError):
    """Bytes are not a model blob that this version can read.

    ``reason`` is one of the numbered rejection rules of FORMAT.md, ``offset`` the byte where the
    reader stopped, or None if the rule concerns the whole.
    """

    exit_code: ClassVar[int] = 5

    def __init__(self, reason: str, offset: int | None = None) -> None:
        self.reason = reason
        self.offset = offset
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(
            f"not a readable model{where}: {reason}; build the user again, or roll back to the "
            "previous generation"
        )


class DecryptionError(BlobError):
    """A stored model is encrypted and cannot be decrypted: the key is missing, or does not fit."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.offset = None
        Exception.__init__(self, f"the model cannot be decrypted: {reason}; {remedy}")


class RulesError(PerslmError):
    """Bytes are not what ``perslm.rules`` wrote, so what must not be learned is not known."""

    exit_code: ClassVar[int] = 5

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"the rules in the store cannot be read: {problem}; upgrade perslm, or put others in "
            "their place with Store.set_rules"
        )


class AutomatonError(PerslmError):
    """An automaton breaks an invariant; ``state`` is the first offending state, if one does."""

    def __init__(self, problem: str, state: int | None = None) -> None:
        self.problem = problem
        self.state = state
        where = "" if state is None else f" at state {state}"
        super().__init__(f"invalid automaton{where}: {problem}")


class InteropError(PerslmError):
    """A file of another toolkit cannot be read or written; ``line`` is 1-based, if known."""

    exit_code: ClassVar[int] = 5

    def __init__(self, problem: str, line: int | None = None) -> None:
        self.problem = problem
        self.line = line
        super().__init__(problem if line is None else f"line {line}: {problem}")


class SourceError(PerslmError):
    """A mail source cannot be read; ``path`` names it and ``remedy`` the way on."""

    exit_code: ClassVar[int] = 5

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class LedgerError(PerslmError):
    """A ledger cannot be used: another build has it, it is damaged, or holds too little."""

    exit_code: ClassVar[int] = 5


class StoreError(PerslmError):
    """The store refused an operation."""

    exit_code: ClassVar[int] = 4


class StoreUnavailableError(StoreError):
    """The store cannot be reached, timed out, or cannot accept writes."""


class NoModelError(StoreError):
    """The user has no published model (or no earlier one to roll back to)."""

    exit_code: ClassVar[int] = 3


class PublishConflictError(StoreError):
    """The published generation is not the parent that the build started from."""

    def __init__(self, expected: int, found: int) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"generation {found} is published, the build started from {expected}: "
            "another builder came first; read the head again and rebuild"
        )


class ForgottenError(StoreError):
    """The user was deleted after this build read its head; its result must not be published."""

    def __init__(self) -> None:
        super().__init__(
            "the user was deleted while the build ran, so nothing was published; "
            "start a new build if the user is to have a model again"
        )


class OptedOutError(StoreError):
    """The user wants no model: nothing is learned, and nothing published."""

    def __init__(self) -> None:
        super().__init__(
            "the user has opted out, so nothing was stored; perslm opt-in takes that back"
        )


class TooManyPendingError(StoreError):
    """So many messages of the user were learned since the last build that no more are taken."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(
            f"{most} messages of the user wait for a build: run perslm build, which folds them in"
        )


class ServiceError(PerslmError):
    """The scoring service could not be reached or refused; raised to strict clients only."""

    exit_code: ClassVar[int] = 4

    def __init__(self, problem: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(problem)
