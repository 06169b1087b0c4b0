"""A scoring service elsewhere, with the interface of a model here.

There are two ways to use one (``service`` is the other end; ``perslm serve`` starts it)::

    client = perslm.Client("http://127.0.0.1:8377")
    model = client.fetch("engineer@example.com")             # download once, score in process
    model = client.model("engineer@example.com", vocabulary)  # ask at every step

The first is some hundred times faster and is right wherever the model's megabyte may live in the
process that runs the beam. The second keeps nothing, always uses the published model, and costs one
request a beam step:

* ``score`` and ``mix`` bring the weights along: ``weights`` of the same states is then free.
  Asked before them, ``weights`` is a request of its own.
* ``mix`` asks for the log-probabilities of the words that the user ever wrote, once for all
  hypotheses, and mixes here: exactly what a local model does, bit for bit.

A :class:`RemoteModel` numbers its states itself: state i stands for the i-th different context that
it met, the last order − 1 ids of a history after its last ``<s>`` or ``</s>``. The context travels
with each request; so the service keeps nothing between steps, and any replica can answer. The table
of contexts grows with their number (some 200 bytes each): make a model for each compose session.

**Do no harm.** Whatever goes wrong with the service, a beam search sees weights of 0 and gets its
own array back from ``mix``; ``reason`` says why, and for ``pause`` seconds nothing is asked again,
so that a service that hangs costs one timeout and not one per step. ``strict=True`` raises instead.
The caller's own mistakes (shapes, negative ids) are ArgumentErrors always, as with a local model.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from perslm._transport import UNABLE, Credentials, open_transport
from perslm.counts import MAX_ORDER
from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    ServiceError,
    VocabularyMismatchError,
)
from perslm.interpolate import DEFAULT_WEIGHT
from perslm.model import NullModel, PersonalModel, check_vocabulary
from perslm.remote import RemoteModel, reason_of

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary

_FETCHED_MODELS: Final = 64


class Client:
    """A connection to a scoring service; thread-safe, keeps connections open.

    ``url`` is what ``perslm serve`` prints: ``http://HOST:PORT``, ``https://…``, ``unix:/path`` or
    ``http+unix://%2Fpath`` for HTTP; ``grpc://HOST:PORT``, ``grpcs://…`` (TLS) or
    ``grpc+unix:/path`` for gRPC, which needs ``perslm[grpc]`` and gives the same answers. Nothing
    is connected before the first request. ``timeout`` is how many seconds to wait for a connection,
    and for the answer to go on; over gRPC, for the whole answer. ``strict`` raises ServiceError,
    NoModelError and VocabularyMismatchError where else a model would abstain. ``pause`` is for how
    many seconds a model that cannot be had is not asked for again. ``stale_seconds`` is how long
    after the service last vouched for it a fetched model is used while the service does not answer:
    so long can a client that is cut off go on with a model that was deleted.

    ``token`` is the API key or JSON Web Token to show (default: the environment's
    ``PERSLM_TOKEN``). For TLS, ``ca`` is a PEM file with the authorities to trust instead
    of those of the system, and ``cert`` the client's own certificate with its key: one PEM file, or
    the two files. Raises ArgumentError for files that are not there.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1.0,
        strict: bool = False,
        pause: float = 1.0,
        stale_seconds: float = 3600.0,
        token: str | None = None,
        ca: str | None = None,
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        if not timeout > 0 or not pause >= 0 or not stale_seconds >= 0:
            raise ArgumentError("a timeout is above 0 seconds, a pause and stale_seconds not below")
        self.strict = strict
        self.pause = pause
        self.stale_seconds = stale_seconds
        credentials = Credentials(token or os.environ.get("PERSLM_TOKEN") or None, ca, cert)
        self._transport = open_transport(url, timeout, credentials)
        # by user and weight: the model, and when the service last vouched for it
        self._fetched: OrderedDict[tuple[str, float], tuple[PersonalModel, float]] = OrderedDict()
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self._transport.location!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def model(self, user: str, vocabulary: str | Vocabulary | None = None) -> RemoteModel:
        """Return the user's model as the service has it; one request for its order.

        With ``vocabulary`` (or its fingerprint) the model must have been built with that one;
        without, the caller vouches for the ids. Raises what ``strict`` says, if so.
        """
        return RemoteModel(self, self._transport.session(), user, vocabulary)

    def fetch(
        self,
        user: str,
        vocabulary: str | Vocabulary | None = None,
        *,
        weight: float = DEFAULT_WEIGHT,
    ) -> PersonalModel | NullModel:
        """Download the user's model, to score in process; a null model if it cannot be had.

        The last models are kept: one that is still the latest is not sent again, and one is used
        as it is while the service does not answer, for ``stale_seconds``. Raises ArgumentError for
        a bad ``weight``, and what ``strict`` says, or BlobError for a model that cannot be read, if
        so.
        """
        kept = self._kept(user, weight)
        try:
            model = self._download(user, weight, kept)
        except (ServiceError, NoModelError, BlobError) as error:
            if self.strict:
                raise
            kept = self._kept(user, weight)  # for it may have become too old by now
            if kept is None or not isinstance(error, ServiceError):
                return NullModel(reason_of(error))
            model = kept
        try:
            check_vocabulary(vocabulary, model.vocabulary_fingerprint, model.vocabulary_size)
        except VocabularyMismatchError as error:
            if self.strict:
                raise
            return NullModel(reason_of(error))
        return model

    def info(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model.

        ``order``, ``ngrams`` (a list by order), ``bytes`` (of the blob), ``generation``,
        ``messages``, ``tokens``, ``vocabulary`` (its fingerprint), ``vocabulary_size``, ``created``
        (a POSIX time). Raises NoModelError or ServiceError, strict or not.
        """
        facts = self._transport.user(_checked(user))
        sound = isinstance(facts.get("vocabulary"), str) and all(
            type(facts.get(name)) is int for name in ("order", "generation", "vocabulary_size")
        )
        if not sound or not 1 <= facts["order"] <= MAX_ORDER:
            raise ServiceError("the scoring service sent metadata that cannot be")
        return facts

    def forget(self, user: str) -> bool:
        """Delete every generation of the user's model; say whether there was one.

        Raises ServiceError, strict or not, if the service did not do it.
        """
        with self._mutex:
            for key in [key for key in self._fetched if key[0] == user]:
                del self._fetched[key]
        try:
            self._transport.forget(_checked(user))
        except NoModelError:
            return False
        return True

    def health(self) -> str:
        """Return "ok", or why models cannot be loaded: ``store_unavailable`` or ``degraded``."""
        try:
            self._transport.check()
        except ServiceError as error:
            reason = reason_of(error)
            return reason if reason in UNABLE else "degraded"
        return "ok"

    def _kept(self, user: str, weight: float) -> PersonalModel | None:
        """Return the model that was fetched before, if it may still be used."""
        with self._mutex:
            model, vouched = self._fetched.get((user, weight), (None, 0.0))
            if model is not None and monotonic() - vouched >= self.stale_seconds:
                del self._fetched[user, weight]
                return None
        return model

    def _download(self, user: str, weight: float, kept: PersonalModel | None) -> PersonalModel:
        asked = monotonic()
        try:
            found = self._transport.blob(_checked(user), None if kept is None else kept.generation)
        except NoModelError:
            self._drop(user, weight)
            raise
        if found is None:
            assert kept is not None
            self._keep(user, weight, kept, asked)
            return kept
        self._drop(user, weight)
        generation, blob = found
        model = PersonalModel.from_blob(blob, generation=generation, weight=weight)
        self._keep(user, weight, model, asked)
        return model

    def _keep(self, user: str, weight: float, model: PersonalModel, vouched: float) -> None:
        with self._mutex:
            self._fetched[user, weight] = model, vouched
            if len(self._fetched) > _FETCHED_MODELS:
                self._fetched.popitem(last=False)

    def _drop(self, user: str, weight: float) -> None:
        with self._mutex:
            self._fetched.pop((user, weight), None)


def _checked(user: str) -> str:
    try:
        user.encode()
    except UnicodeEncodeError:
        raise ArgumentError("a user id must be valid Unicode text") from None
    return user
