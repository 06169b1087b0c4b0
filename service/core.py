"""The scoring service without a transport: plain requests in, plain answers out.

HTTP (``service.http``) and whatever comes after it translate between bytes and the dataclasses
here, and decide nothing. The rules:

* *Do no harm.* For a well-formed request there is always an answer. Without a model every weight
  is 0, candidates have −inf, and ``status`` and ``reason`` say why, for programs to read:

  =======================  ==========================================================
  ``status``               ``reason``
  =======================  ==========================================================
  ``ok``                   ``ok``, or ``stale``: the store is away or slow, the model
                           was good when it was last seen
  ``no_model``             ``unknown_user``
  ``vocabulary_mismatch``  ``vocabulary_mismatch``
  ``degraded``             ``store_unavailable``, ``bad_blob``, or ``loading``: the model
                           is not in memory yet, the next request may find it
  =======================  ==========================================================

* A request that is wrong in itself is a :class:`RequestError`, which names the field and the
  remedy, never the content.
* Management of users (metadata, blob, messages, deletion) is no beam search: its failures are
  exceptions of ``perslm.errors``.
* Nobody waits beyond a deadline. What a caller says is one (a time of time.monotonic());
  management has :data:`MANAGEMENT_SECONDS` at most.

Models come from ``service.cache``. A request is scored in one of two ways with the same answer:
:meth:`ScoringService.answer` is for the step of a beam search whose user's model is in memory, from
bytes to bytes; :meth:`ScoringService.score` is for all there can be.
"""

from __future__ import annotations

import asyncio
import copy
import math
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

from perslm._store_keys import of_user
from perslm.counts import AnyIntegers, UInt32Array
from perslm.errors import (
    ArgumentError,
    BlobError,
    MissingExtraError,
    NoModelError,
    StoreUnavailableError,
)
from perslm.interpolate import Float32Array
from perslm.learned import current
from perslm.learning import Learned, Vocabularies, known_fields, learn
from perslm.model import Candidates, Histories, NullModel, PersonalModel
from perslm.store import DEFAULT_TENANT, Pending, Store, UserInfo
from service.cache import ModelCache
from service.gate import Gate, OverloadedError, Turn
from service.metrics import Metrics, Transport, Watch
from service.settings import Settings

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary
    from perslm.wire import Query

Status: TypeAlias = Literal["ok", "no_model", "vocabulary_mismatch", "degraded"]

_STATUS: Final[dict[str, Status]] = {
    "unknown_user": "no_model",
    "vocabulary_mismatch": "vocabulary_mismatch",
    "store_unavailable": "degraded",
    "bad_blob": "degraded",
    "loading": "degraded",
}

QUICK_VALUES: Final = 1 << 16
"""An answer of at most so many log-probabilities, in bytes, takes well under a millisecond."""

MANAGEMENT_SECONDS: Final = 5.0
"""How long a request that is not for scores may take."""

_MINUS_INFINITY: Final = struct.pack("<f", -math.inf)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RequestError(ArgumentError):
    """A request cannot be answered as it is; ``code`` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def too_many_histories(most: int) -> RequestError:
    """Return the error for a request of more than ``most`` histories."""
    return RequestError(
        "too_many_histories", f"at most {most} histories fit into one request: send more requests"
    )


def deadline_exceeded() -> RequestError:
    """Return the error for a request whose caller waits no longer."""
    return RequestError("deadline_exceeded", "the deadline passed before there was an answer")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoreRequest:
    """What to score, for ``n`` hypotheses of one user.

    ``vocabulary`` is the fingerprint of the vocabulary that the ids are of. ``histories`` are n
    rows of token ids, oldest first, at least the last order − 1 of each. Exactly one of these says
    what is asked: ``candidates`` (integers[n, k]), ``top_k``, or ``dense``; ``compact`` changes the
    form of a dense answer. ``positions`` (integers[n], none negative) are how many tokens of the
    text came before each, as ``PersonalModel.weights`` takes them.
    """

    user: str
    vocabulary: str
    histories: Histories
    candidates: Candidates | None = None
    top_k: int | None = None
    dense: bool = False
    compact: bool = False
    positions: Sequence[int] | AnyIntegers | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreAnswer:
    """Scores of n histories: natural logarithms, with the weights λ to mix them in with.

    ``weights`` is float32[n], ``logprobs`` float32[n, k]. What the columns are depends on what was
    asked: the k candidates, in order; the k likeliest ids, best first, of which ``ids`` is
    uint32[n, k] (k can be less than ``top_k``); all ids of the vocabulary; or, compact, the ids
    uint32[k] that the user ever wrote, ascending, where all others have −inf. Without a model the
    last three have no columns. ``generation`` and ``order`` are those of the model, or 0.
    """

    status: Status
    reason: str
    generation: int
    order: int
    weights: Float32Array
    logprobs: Float32Array
    ids: UInt32Array | None = None


Frame: TypeAlias = Callable[[Status, str, int, int, int, int], tuple[bytes, bytes]]
"""What a format writes before an answer's weights, and between them and its log-probabilities.

Given are the answer's status, reason, generation and order, and the n and k of its arrays, which
are written as they are in memory, row after row and little-endian; nothing comes after them.
"""


@dataclass(frozen=True, slots=True)
class UserModel:
    """Metadata of a user's published model.

    ``ngrams`` has one number per order, ``bytes`` is the size of the blob, ``created`` a POSIX
    time, ``vocabulary`` a fingerprint and ``vocabulary_size`` the number of its ids.
    ``weight_by_state`` tells whether λ depends on the state, and so on positions. ``pending`` of
    the messages were learned since the last build.
    """

    order: int
    ngrams: tuple[int, ...]
    bytes: int
    generation: int
    messages: int
    tokens: int
    vocabulary: str
    vocabulary_size: int
    created: float
    weight_by_state: bool
    pending: int


@dataclass(frozen=True, slots=True)
class ModelBlob:
    """A user's model as bytes; ``tag`` is another for each that the user ever had.

    It is the generation, and a digest if messages were learned or something blocked since.
    """

    generation: int
    vocabulary: str
    tag: str
    blob: bytes


class Prepare(Protocol):
    """What makes of a message's fields (those of a JSON lines source) what counts of it.

    Returns a word if there is nothing to learn in it. Raises ArgumentError if they are no message,
    MissingExtraError if what it needs is not installed. It may go to another process.
    """

    def __call__(
        self, fields: Mapping[str, object], user: str, vocabulary: Vocabulary
    ) -> Pending | str:
        """Return what counts of a message of ``user``."""


class ScoringService:
    """Everything that the service does, for any transport. Thread-safe; all calls may block.

    ``score`` does so for at most the setting ``load_seconds``: a beam search does not wait.
    ``metrics`` has the figures of all that is done here, whoever transports it.
    ``gate`` is where transports run what blocks; ``turns`` say how much they may do
    at once.

    The store stays the caller's, to close after the service has stopped. Users are those of the
    default tenant; :meth:`of_tenant` has the others. Without ``prepare`` messages are not learned.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        cache: ModelCache | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._store = store.of_tenant(DEFAULT_TENANT)
        self._settings = settings
        self._cache = cache if cache is not None else ModelCache(store, settings)
        self._tenant = DEFAULT_TENANT
        self._prepare = prepare
        self._vocabularies = Vocabularies()
        # a write may wait for a store that fails over: never in all of the gate's threads
        self._learners = threading.BoundedSemaphore(max(1, settings.max_inflight // 2))
        self._quick_values = min(QUICK_VALUES, settings.max_answer_values)
        self._checking: asyncio.Task[None] | None = None
        self.metrics = Metrics(self._cache.figures)
        self.gate = Gate(settings)
        self.turns: dict[Transport, Turn] = {"http": Turn(settings), "grpc": Turn(settings)}

    def of_tenant(self, tenant: str) -> ScoringService:
        """Return the same service with the users of another tenant, in the same cache."""
        if tenant == self._tenant:
            return self
        other = copy.copy(self)
        other._tenant = tenant
        other._store = self._store.of_tenant(tenant)
        return other

    def answer(self, query: Query, frame: Frame, watch: Watch) -> bytes | None:
        """Score a plain request at once; return None if that needs the store, or long.

        Then :meth:`score` has the answer, or the reason why there is none. ``watch`` is told as
        there, and the answer has the same bits; only the phases are not told apart, for each takes
        less than the telling.
        """
        n, k = query.n, query.k
        if n * k > self._quick_values:
            return None
        entry = self._cache.hit(query.user, self._tenant)
        if entry is None:
            return None
        model = entry.model
        if isinstance(model, PersonalModel) and model.metadata.fingerprint == query.vocabulary:
            watch.reason = reason = "stale" if entry.stale else "ok"
            before, between = frame("ok", reason, entry.generation, model.order, n, k)
            encoded = model.answer(query, before, between)
        else:
            reason = model.reason if isinstance(model, NullModel) else "vocabulary_mismatch"
            watch.status, watch.reason = _STATUS[reason], reason
            before, between = frame(_STATUS[reason], reason, 0, 0, n, k)
            encoded = b"".join((before, bytes(4 * n), between, _MINUS_INFINITY * (n * k)))
        watch.lap("score")
        return encoded

    def score(
        self,
        request: ScoreRequest,
        deadline: float = math.inf,
        watch: Watch | None = None,
        *,
        wait: bool = True,
    ) -> ScoreAnswer:
        """Score a request. Raises RequestError if it is malformed or over a limit.

        ``deadline`` is when the caller stops waiting, of time.monotonic(). A model that is not in
        memory after ``load_seconds``, or half of the time left (an answer must get back, too), is
        loaded behind, for later requests; and so it is at once without ``wait``, for an event loop,
        which ``is_quick`` may have told of a model that is gone by now. ``watch`` is told what the
        answer is, and how long its phases took.
        """
        if watch is None:
            watch = self.metrics.watch("http")  # which nobody ends
        answer = self._score(request, deadline if wait else -math.inf, watch)
        watch.lap("score")
        watch.status, watch.reason = answer.status, answer.reason
        return answer

    def _score(self, request: ScoreRequest, deadline: float, watch: Watch) -> ScoreAnswer:
        n, columns = self._checked(request)
        positions = _positions(request, n)
        left = (deadline - time.monotonic()) / 2
        seconds = max(0.0, min(self._settings.load_seconds, left))
        try:
            entry = self._cache.get(request.user, self._tenant, seconds=seconds)
        except ArgumentError as error:
            raise RequestError("invalid_user", str(error)) from error
        watch.lap("model")
        model = entry.model
        if isinstance(model, NullModel):
            if model.reason == "loading":  # the store would have refused it, had it been asked
                _check_user(request.user)
            return _nothing(model.reason, n, columns, request)
        if model.vocabulary_fingerprint != request.vocabulary:
            return _nothing("vocabulary_mismatch", n, columns, request)
        if request.candidates is None:  # all that the user ever wrote is looked at
            self._limit_values(n, model.vocabulary_size)
        try:
            states = model.states(request.histories)
            logprobs, ids = _scores(model, states, request)
        except ArgumentError as error:
            raise RequestError("invalid_ids", str(error)) from error
        return ScoreAnswer(
            status="ok",
            reason="stale" if entry.stale else "ok",
            generation=entry.generation,
            order=model.order,
            weights=model.weights(states, positions),
            logprobs=logprobs,
            ids=ids,
        )

    def is_quick(self, request: ScoreRequest, most: int = QUICK_VALUES) -> bool:
        """Tell whether ``score`` would neither ask the store nor compute for long.

        ``most`` is how many log-probabilities an answer may have that is written soon.
        """
        entry = self._cache.peek(request.user, self._tenant)
        if entry is None:
            return False
        if request.candidates is not None:
            columns = len(request.candidates[0]) if len(request.candidates) else 0
        elif isinstance(entry.model, NullModel):
            columns = 0
        else:  # both look at everything that the user ever wrote
            columns = entry.model.vocabulary_size
        return len(request.histories) * columns <= most

    def following(self) -> AbstractContextManager[None]:
        """Hear of changes in the store as they happen, as long as the context lasts."""
        return self._cache.following()

    async def run(
        self, deadline: float, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Return what ``work`` returns, in a thread of the gate; for what scores.

        Raises RequestError at ``deadline``, whatever still runs then.
        """
        try:
            return await self.gate.run_until(deadline, work, *args, **kwargs)
        except TimeoutError:
            raise deadline_exceeded() from None

    async def manage(self, deadline: float, work: Callable[[str], _T], user: str) -> _T:
        """Return what ``work`` does for ``user``, in a thread of the gate; for what manages users.

        Raises RequestError for an impossible user id, and at ``deadline``, StoreUnavailableError
        after ``MANAGEMENT_SECONDS``. What has begun by then goes on: a deletion may yet be done.
        """
        _check_user(user)
        latest = time.monotonic() + MANAGEMENT_SECONDS
        try:
            return await self.gate.run_until(min(deadline, latest), work, user)
        except TimeoutError:
            if deadline <= latest:
                raise deadline_exceeded() from None
            raise StoreUnavailableError("the store takes too long") from None

    def model(self, user: str) -> UserModel:
        """Return what is known of the user's model.

        Raises NoModelError, StoreUnavailableError, BlobError, or RequestError for an impossible
        user id.
        """
        try:
            entry = self._cache.get(user, self._tenant)
        except ArgumentError as error:
            raise RequestError("invalid_user", str(error)) from error
        model, info = entry.model, entry.info
        if isinstance(model, PersonalModel) and info is not None:
            by_state = self._settings.weight is None
            return _metadata(model, info, entry.pending, weight_by_state=by_state)
        if model.reason == "bad_blob":
            raise BlobError("the published model cannot be read")
        if model.reason == "unknown_user":
            raise NoModelError("the user has no published model")
        raise StoreUnavailableError("the store cannot be reached")

    def blob(self, user: str, *, unless: str | None = None) -> ModelBlob | str:
        """Return the user's model as it is now, with what was learned since it was published.

        If its tag is ``unless``, return that instead. Raises NoModelError, StoreError, BlobError,
        RulesError, or RequestError for an impossible user id.
        """
        try:
            everybodys = self._cache.everybodys(self._tenant)
            if unless is not None and not everybodys:
                head = self._store.head(user)
                plain = not head.pending and not head.rules
                if plain and head.generation and unless == str(head.generation):
                    return unless
            stored = self._store.fetch(user)
        except ArgumentError as error:
            raise RequestError("invalid_user", str(error)) from error
        if stored is None or (stored.rules is not None and stored.rules.opted_out):
            raise NoModelError("the user has no published model")
        blob, tag = current(stored, everybodys), str(stored.generation)
        if blob is not stored.blob:
            tag += f"-{blake2b(blob, digest_size=8).hexdigest()}"
        if tag == unless:
            return tag
        return ModelBlob(stored.generation, stored.vocabulary, tag, blob)

    def learn(self, user: str, fields: Mapping[str, object]) -> Learned:
        """Learn a message that the user just sent; the same message twice is learned once.

        Raises RequestError if it is no message or too long, or the user id impossible;
        MissingExtraError, VocabularyError, TooManyPendingError, BlobError, StoreError;
        OverloadedError if half of ``max_inflight`` are being learned. Other replicas of the service
        are told by the store.
        """
        if self._prepare is None:
            raise MissingExtraError("learning messages", "builders")
        if not self._learners.acquire(blocking=False):
            raise OverloadedError
        try:
            prepare = partial(self._prepare, known_fields(fields))
            learned = learn(self._store, user, prepare, self._vocabularies)
        except ArgumentError as error:
            raise RequestError("invalid_message", str(error)) from error
        finally:
            self._learners.release()
        if learned.status == "learned":
            self._cache.outdate(user, self._tenant)
        return learned

    def forget(self, user: str) -> None:
        """Delete every generation of the user's model.

        Raises NoModelError if there was none, StoreError, or RequestError for an impossible user
        id. Other replicas of the service learn of it when their entry is due.
        """
        try:
            existed = self._store.forget(user)
        except ArgumentError as error:
            raise RequestError("invalid_user", str(error)) from error
        finally:  # also when the store's reply was lost: it may have done it
            self._cache.drop(user, self._tenant)
        if not existed:
            raise NoModelError("the user has no published model")

    async def check(self) -> None:
        """Return if the store answers; raises StoreError if not.

        It is asked once at a time, however many want to know: probes need not prove who they are.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(asyncio.to_thread(self._store.ping))
            self._checking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.shield(self._checking)

    def _checked(self, request: ScoreRequest) -> tuple[int, int]:
        """Return the number of histories, and of columns that an answer without a model has."""
        n = len(request.histories)
        if n > self._settings.max_histories:
            raise too_many_histories(self._settings.max_histories)
        asked = (request.candidates is not None, request.top_k is not None, request.dense)
        if sum(asked) != 1:
            raise RequestError(
                "invalid_request", "ask for exactly one of candidates, top_k and dense: true"
            )
        if request.compact and not request.dense:
            raise RequestError("invalid_request", "compact is a form of dense: true only")
        if request.top_k is not None:
            if request.top_k < 1:
                raise RequestError("invalid_request", "top_k must be at least 1")
            self._limit_values(n, request.top_k)
        if request.candidates is None:
            return n, 0
        columns = _columns(request.candidates, n)
        self._limit_values(n, columns)
        return n, columns

    def _limit_values(self, n: int, columns: int) -> None:
        if n * columns > self._settings.max_answer_values:
            raise RequestError(
                "answer_too_large",
                f"one request may need at most {self._settings.max_answer_values} "
                "log-probabilities: send fewer histories at a time, or ask for less",
            )


def _check_user(user: str) -> None:
    try:
        of_user(DEFAULT_TENANT, user)
    except ArgumentError as error:
        raise RequestError("invalid_user", str(error)) from error


def _columns(candidates: Candidates, n: int) -> int:
    if len(candidates) != n:
        raise RequestError("invalid_request", "candidates needs one row for every history")
    widths = {len(row) for row in candidates}
    if len(widths) > 1:
        raise RequestError("invalid_request", "all rows of candidates must have the same length")
    return widths.pop() if widths else 0


def _positions(request: ScoreRequest, n: int) -> AnyIntegers | None:
    if request.positions is None:
        return None
    positions = np.asarray(request.positions, np.uint32 if n == 0 else None)
    if positions.shape != (n,) or positions.dtype.kind not in "ui" or (positions < 0).any():
        raise RequestError(
            "invalid_request", "positions needs one integer, not below 0, for every history"
        )
    return positions


def _scores(
    model: PersonalModel, states: UInt32Array, request: ScoreRequest
) -> tuple[Float32Array, UInt32Array | None]:
    if request.candidates is not None:
        return model.score(states, request.candidates)[0], None
    if request.top_k is not None:
        ids, logprobs = model.continuations(states, request.top_k)
        return logprobs, ids
    if request.compact:
        return model.event_logprobs(states), model.events
    return model.distribution(states), None


def _nothing(reason: str, n: int, columns: int, request: ScoreRequest) -> ScoreAnswer:
    """Return the answer that changes nothing."""
    ids: UInt32Array | None = None
    if request.top_k is not None:
        ids = np.zeros((n, 0), np.uint32)
    elif request.compact:
        ids = np.zeros(0, np.uint32)
    return ScoreAnswer(
        status=_STATUS[reason],
        reason=reason,
        generation=0,
        order=0,
        weights=np.zeros(n, np.float32),
        logprobs=np.full((n, columns), -np.inf, np.float32),
        ids=ids,
    )


def _metadata(
    model: PersonalModel, info: UserInfo, pending: int, *, weight_by_state: bool
) -> UserModel:
    return UserModel(
        order=model.order,
        ngrams=model.ngrams,
        bytes=info.bytes,
        generation=info.generation,
        messages=model.metadata.messages,
        tokens=model.tokens,
        vocabulary=model.vocabulary_fingerprint,
        vocabulary_size=model.vocabulary_size,
        created=info.created,
        weight_by_state=weight_by_state,
        pending=pending,
    )
