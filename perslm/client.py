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

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from urllib.parse import quote

import msgpack

from perslm._transport import Credentials, Transport
from perslm.counts import MAX_ORDER
from perslm.errors import (
    ArgumentError,
    BlobError,
    NoModelError,
    ServiceError,
    VocabularyMismatchError,
)
from perslm.interpolate import DEFAULT_WEIGHT
from perslm.model import NullModel, PersonalModel
from perslm.remote import UNABLE, RemoteModel, UnableError, check_vocabulary, reason_of

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary

_FETCHED_MODELS: Final = 64
_MSGPACK: Final = {"content-type": "application/msgpack", "accept": "application/msgpack"}


class Client:
    """A connection to a scoring service; thread-safe, keeps connections open.

    ``url`` is what ``perslm serve`` prints: ``http://HOST:PORT``, ``https://…``, ``unix:/path`` or
    ``http+unix://%2Fpath``; nothing is connected before the first request. ``timeout`` is how many
    seconds to wait for a connection, and for the answer to go on. ``strict`` raises ServiceError,
    NoModelError and VocabularyMismatchError where else a model would abstain. ``pause`` is for how
    many seconds a model that cannot be had is not asked for again.

    ``token`` is the API key or JSON Web Token to show (default: the environment's
    ``PERSLM_TOKEN``). For ``https://``, ``ca`` is a PEM file with the authorities to trust instead
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
        token: str | None = None,
        ca: str | None = None,
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        if not timeout > 0 or not pause >= 0:
            raise ArgumentError("a timeout is above 0 seconds, a pause not below")
        self.strict = strict
        self.pause = pause
        credentials = Credentials(token or os.environ.get("PERSLM_TOKEN") or None, ca, cert)
        self._http = Transport(url, timeout, credentials)
        self._fetched: OrderedDict[tuple[str, float], tuple[str, PersonalModel]] = OrderedDict()
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self._http.location!r})"

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
        self._http.close()

    def model(self, user: str, vocabulary: str | Vocabulary | None = None) -> RemoteModel:
        """Return the user's model as the service has it; one request for its order.

        With ``vocabulary`` (or its fingerprint) the model must have been built with that one;
        without, the caller vouches for the ids. Raises what ``strict`` says, if so.
        """
        return RemoteModel(self, user, vocabulary)

    def fetch(
        self,
        user: str,
        vocabulary: str | Vocabulary | None = None,
        *,
        weight: float = DEFAULT_WEIGHT,
    ) -> PersonalModel | NullModel:
        """Download the user's model, to score in process; a null model if it cannot be had.

        The last models are kept: one that is still the latest is not sent again, and one is used
        as it is while the service does not answer. Raises ArgumentError for a bad ``weight``, and
        what ``strict`` says, or BlobError for a model that cannot be read, if so.
        """
        with self._mutex:
            kept = self._fetched.get((user, weight))
        try:
            model = self._download(user, weight, kept)
        except (ServiceError, NoModelError, BlobError) as error:
            if self.strict:
                raise
            if kept is None or not isinstance(error, ServiceError):
                return NullModel(reason_of(error))
            model = kept[1]
        try:
            check_vocabulary(vocabulary, model.vocabulary_fingerprint)
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
        status, _, body = self._http.send("GET", _user_path(user))
        facts = _json(body)
        if status != 200:
            _refuse(status, facts)
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
        status, _, body = self._http.send("DELETE", _user_path(user))
        if status == 204:
            return True
        try:
            _refuse(status, _json(body))
        except NoModelError:
            return False

    def health(self) -> str:
        """Return "ok", or why models cannot be loaded: ``store_unavailable`` or ``degraded``."""
        try:
            status, _, body = self._http.send("GET", "/readyz")
            if status == 200:
                return "ok"
            code = _json(body).get("error")
        except ServiceError as error:
            return reason_of(error)
        return code if isinstance(code, str) else "degraded"

    def _download(
        self, user: str, weight: float, kept: tuple[str, PersonalModel] | None
    ) -> PersonalModel:
        known = {} if kept is None else {"if-none-match": kept[0]}
        status, headers, body = self._http.send("GET", _user_path(user) + "/model", headers=known)
        if status == 304 and kept is not None:
            return kept[1]
        with self._mutex:
            self._fetched.pop((user, weight), None)
        if status != 200:
            _refuse(status, _json(body))
        tag, generation = headers.get("etag", ""), headers.get("perslm-generation", "")
        if not tag or not re.fullmatch(r"[0-9]{1,18}", generation):
            raise ServiceError("the scoring service sent a model without its generation")
        model = PersonalModel.from_blob(body, generation=int(generation), weight=weight)
        with self._mutex:
            self._fetched[user, weight] = (tag, model)
            if len(self._fetched) > _FETCHED_MODELS:
                self._fetched.popitem(last=False)
        return model

    def request_scores(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """Send a score request and return the fields of its answer, neither of them checked.

        What they are is in the service's ``/docs``. Raises ServiceError.
        """
        status, _, body = self._http.send("POST", "/v1/score", msgpack.packb(fields), _MSGPACK)
        if status != 200:
            _refuse(status, _json(body))
        try:
            answer = msgpack.unpackb(body)
        except ValueError as error:
            raise ServiceError("the scoring service sent what is no msgpack") from error
        if not isinstance(answer, dict):
            raise ServiceError("the scoring service sent an answer that is no map")
        return answer


def _refuse(status: int, facts: Mapping[str, object]) -> NoReturn:
    """Raise the error that an HTTP status other than success stands for."""
    code = facts.get("error")
    if status == 404 and code == "unknown_user":
        raise NoModelError("the user has no published model")
    if code in UNABLE:
        raise UnableError(str(code))
    known = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code)
    raise ServiceError(
        f"the scoring service refused: HTTP status {status}" + (f", {code}" if known else ""),
        status,
    )


def _json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``, an empty one if it is something else."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):  # a proxy's error page, for one
        return {}
    return facts if isinstance(facts, dict) else {}


def _user_path(user: str) -> str:
    try:
        return "/v1/users/" + quote(user, safe="", errors="strict")
    except UnicodeEncodeError:
        raise ArgumentError("a user id must be valid Unicode text") from None
