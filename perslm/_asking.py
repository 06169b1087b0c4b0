"""What clients ask and keep, without the waiting: ``perslm.Client`` and ``perslm.AsyncClient``.

Both are documented where they are; what they have in common is here, as steps of ``perslm._steps``.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from perslm._steps import Steps, Work
from perslm._transport import UNABLE, Calls, Credentials, UnableError, is_certainly_undone
from perslm.counts import MAX_ORDER
from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    PerslmError,
    ServiceError,
    VocabularyMismatchError,
)
from perslm.learning import known_fields
from perslm.model import (
    Estimator,
    NullModel,
    PersonalModel,
    check_estimator,
    check_vocabulary,
)

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary

_Wanted: TypeAlias = tuple[str, float | None, Estimator]
"""A user, the weight and the estimator that a model was asked for with."""

_FETCHED_MODELS: Final = 64
_LEARNED: Final = ("learned", "known", "nothing", "opted_out")
_LONGEST_TIMEOUT: Final = 1_000_000  # sockets take no more than 2³¹ ms


class Asking:
    """The state of a client, and its conversations with the service.

    Its methods are those of ``perslm.Client`` by their names; they return steps.
    """

    def __init__(
        self, calls: Calls, *, timeout: float, strict: bool, pause: float, stale_seconds: float
    ) -> None:
        if not 0 < timeout <= _LONGEST_TIMEOUT or not pause >= 0 or not stale_seconds >= 0:
            raise ArgumentError(
                f"a timeout is above 0 and at most {_LONGEST_TIMEOUT} seconds, a pause and "
                "stale_seconds are not below 0"
            )
        self.calls = calls
        self.timeout = timeout
        self.strict = strict
        self.pause = pause
        self.stale_seconds = stale_seconds
        # the model, when the service last vouched for it, and its tag
        self._fetched: OrderedDict[_Wanted, tuple[PersonalModel, float, str]] = OrderedDict()
        self._forgets = 0  # how many may have been done
        self._mutex = threading.Lock()

    def fetch(
        self,
        user: str,
        vocabulary: str | Vocabulary | None,
        weight: float | None,
        estimator: Estimator,
    ) -> Steps[PersonalModel | NullModel]:
        """Download the user's model."""
        wanted = user, weight, check_estimator(estimator)
        try:
            model = yield from self._download(wanted)
        except (ServiceError, NoModelError, BlobError) as error:
            if self.strict:
                raise
            kept = self._usable(wanted) if isinstance(error, ServiceError) else None
            if kept is None:
                return NullModel(reason_of(error))
            model = kept
        try:
            check_vocabulary(vocabulary, model.vocabulary_fingerprint, model.vocabulary_size)
        except VocabularyMismatchError as error:
            if self.strict:
                raise
            return NullModel(reason_of(error))
        return model

    def info(self, user: str) -> Steps[dict[str, Any]]:
        """Return metadata of the user's model."""
        facts = yield from self.calls.user(checked(user))
        sound = isinstance(facts.get("vocabulary"), str) and all(
            type(facts.get(name)) is int for name in ("order", "generation", "vocabulary_size")
        )
        sound = sound and type(facts.get("weight_by_state", False)) is bool
        if not sound or not 1 <= facts["order"] <= MAX_ORDER:
            raise ServiceError("the scoring service sent metadata that cannot be")
        return facts

    def learn(self, user: str, message: Mapping[str, Any]) -> Steps[str]:
        """Have a message of the user learned."""
        status = yield from self.calls.learn(checked(user), known_fields(message))
        if status not in _LEARNED:
            raise ServiceError("the scoring service sent an answer that cannot be")
        return status

    def forget(self, user: str) -> Steps[bool]:
        """Delete every generation of the user's model."""
        try:
            yield from self.calls.forget(checked(user))
        except NoModelError:
            self._forget(user)
            return False
        except ServiceError as error:
            if not is_certainly_undone(error):
                self._doubt(user)
            raise
        except GeneratorExit:  # the caller was cancelled, and the service may do it all the same
            self._doubt(user)
            raise
        self._forget(user)
        return True

    def health(self) -> Steps[str]:
        """Return "ok", or why models cannot be loaded."""
        try:
            yield from self.calls.check()
        except ServiceError as error:
            reason = reason_of(error)
            return reason if reason in UNABLE else "degraded"
        return "ok"

    def _download(self, wanted: _Wanted) -> Steps[PersonalModel]:
        user, weight, estimator = wanted
        asked = monotonic()
        with self._mutex:
            kept, _, known = self._fetched.get(wanted, (None, 0.0, ""))
            forgets = self._forgets
        try:
            found = yield from self.calls.blob(checked(user), known or None)
        except NoModelError:
            self._drop(wanted)
            raise
        if found is None:
            assert kept is not None
            self._keep(wanted, kept, asked, known, forgets)
            return kept
        self._drop(wanted)
        generation, blob, tag = found

        def read() -> PersonalModel:
            return PersonalModel.from_blob(
                blob, generation=generation, weight=weight, estimator=estimator
            )

        model: PersonalModel = yield Work(read)
        self._keep(wanted, model, asked, tag or str(generation), forgets)
        return model

    def _usable(self, wanted: _Wanted) -> PersonalModel | None:
        """Return the model that was fetched before, if it may be used without being vouched for."""
        with self._mutex:
            model, vouched, _ = self._fetched.get(wanted, (None, 0.0, ""))
            if model is not None and monotonic() - vouched >= self.stale_seconds:
                del self._fetched[wanted]
                return None
        return model

    def _keep(
        self, wanted: _Wanted, model: PersonalModel, vouched: float, tag: str, forgets: int
    ) -> None:
        """Keep a model, unless a deletion came between."""
        with self._mutex:
            if forgets != self._forgets:
                return
            self._fetched[wanted] = model, vouched, tag
            self._fetched.move_to_end(wanted)
            if len(self._fetched) > _FETCHED_MODELS:
                self._fetched.popitem(last=False)

    def _drop(self, wanted: _Wanted) -> None:
        with self._mutex:
            self._fetched.pop(wanted, None)

    def _forget(self, user: str) -> None:
        with self._mutex:
            self._forgets += 1
            for key in [key for key in self._fetched if key[0] == user]:
                del self._fetched[key]

    def _doubt(self, user: str) -> None:
        """Use no kept model of the user before the service has vouched for it again."""
        with self._mutex:
            self._forgets += 1
            for key in [key for key in self._fetched if key[0] == user]:
                model, _, tag = self._fetched[key]
                self._fetched[key] = model, -math.inf, tag


class ClientBase:
    """What both clients show of themselves."""

    _asking: Asking

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._asking.calls.location!r})"

    @property
    def strict(self) -> bool:
        """Tell whether calls raise where else a model would abstain; may be set."""
        return self._asking.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self._asking.strict = strict

    @property
    def pause(self) -> float:
        """Return for how many seconds a model that cannot be had is not asked for; may be set."""
        return self._asking.pause

    @pause.setter
    def pause(self, seconds: float) -> None:
        self._asking.pause = seconds


def credentials_of(
    token: str | None, ca: str | None, cert: str | tuple[str, str] | None
) -> Credentials:
    """Return the credentials that a client was given, or finds in the environment."""
    return Credentials(token or os.environ.get("PERSLM_TOKEN") or None, ca, cert)


def checked(user: str) -> str:
    """Return a user id; raises ArgumentError if it cannot be sent."""
    try:
        user.encode()
    except (UnicodeEncodeError, AttributeError):  # the latter of what is no text
        raise ArgumentError("a user id must be valid Unicode text") from None
    return user


def reason_of(error: PerslmError) -> str:
    """Return the word for programs that an error becomes where it is not raised."""
    if isinstance(error, NoModelError):
        return "unknown_user"
    if isinstance(error, VocabularyMismatchError):
        return "vocabulary_mismatch"
    if isinstance(error, BlobError):
        return "bad_blob"
    if isinstance(error, UnableError):
        return error.reason
    refused = isinstance(error, ServiceError) and error.status and 400 <= error.status < 500
    return "refused" if refused else "degraded"
