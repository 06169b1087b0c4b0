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
* Positions in the text move λ here, as in a local model: they are not sent, and need no request.
  The service has said before, with the order, whether its λ is by state, which alone is moved.

A :class:`RemoteModel` numbers its states itself: state i stands for the i-th different context that
it met, the last order − 1 ids of a history after its last ``<s>`` or ``</s>``. The context travels
with each request; so the service keeps nothing between steps, and any replica can answer. The table
of contexts grows with their number (some 200 bytes each): make a model for each compose session.

**Do no harm.** Whatever goes wrong with the service, a beam search sees weights of 0 and gets its
own array back from ``mix``; ``reason`` says why, and for ``pause`` seconds nothing is asked again,
so that a service that hangs costs one timeout and not one per step. ``strict=True`` raises instead.
The caller's own mistakes (shapes, negative ids) are ArgumentErrors always, as with a local model.

**Deadlines.** ``timeout`` bounds every call as a whole, from the connection to the last byte of the
answer, with all that is tried again; only looking up a host's name can take longer. The service is
told how long the caller waits. A request is sent a second time at most, within that time: if the
connection was kept open and turned out to be closed, or if the service says that it is overloaded
and when to come back. A deletion is sent once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perslm._asking import Asking, ClientBase, credentials_of
from perslm._steps import Steps, T, run
from perslm._transport import open_transport
from perslm.model import DEFAULT_ESTIMATOR, Estimator, NullModel, PersonalModel
from perslm.remote import RemoteModel

if TYPE_CHECKING:
    from perslm.vocabulary import Vocabulary


class Client(ClientBase):
    """A connection to a scoring service; thread-safe, keeps connections open.

    ``url`` is what ``perslm serve`` prints: ``http://HOST:PORT``, ``https://…``, ``unix:/path`` or
    ``http+unix://%2Fpath`` for HTTP; ``grpc://HOST:PORT``, ``grpcs://…`` (TLS) or
    ``grpc+unix:/path`` for gRPC, which needs ``perslm[grpc]`` and gives the same answers. Nothing
    is connected before the first request. ``timeout`` is how many seconds a call may take in all.
    ``strict`` raises ServiceError, NoModelError and VocabularyMismatchError where else a model
    would abstain. ``pause`` is for how many seconds a model that cannot be had is not asked for
    again. ``stale_seconds`` is how long after the service last vouched for it a fetched model is
    used while the service does not answer: so long can a client that is cut off go on with a model
    that was deleted.

    ``token`` is the API key or JSON Web Token to show (default: the environment's
    ``PERSLM_TOKEN``). For TLS, ``ca`` is a PEM file with the authorities to trust instead
    of those of the system, and ``cert`` the client's own certificate with its key: one PEM file, or
    the two files. Raises ArgumentError for files that are not there, or not PEM.
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
        calls, wire = open_transport(url, credentials_of(token, ca, cert))
        self._wire = wire
        self._asking = Asking(
            calls, timeout=timeout, strict=strict, pause=pause, stale_seconds=stale_seconds
        )

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
        self._wire.close()

    def model(self, user: str, vocabulary: str | Vocabulary | None = None) -> RemoteModel:
        """Return the user's model as the service has it; one request for its order.

        With ``vocabulary`` (or its fingerprint) the model must have been built with that one;
        without, the caller vouches for the ids. Raises what ``strict`` says, if so.
        """
        return RemoteModel(self._asking, self._wire, user, vocabulary)

    def fetch(
        self,
        user: str,
        vocabulary: str | Vocabulary | None = None,
        *,
        weight: float | None = None,
        estimator: Estimator = DEFAULT_ESTIMATOR,
    ) -> PersonalModel | NullModel:
        """Download the user's model, to score in process; a null model if it cannot be had.

        ``weight`` and ``estimator`` are those of ``Store.load``, whatever the service scores with.
        The last models are kept: one that is still the latest is not sent again, and one is used
        as it is while the service does not answer, for ``stale_seconds``. Raises ArgumentError for
        a bad ``weight`` or an unknown ``estimator``, and what ``strict`` says, or BlobError for a
        model that cannot be read, if so.
        """
        return self._run(self._asking.fetch(user, vocabulary, weight, estimator))

    def info(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model.

        ``order``, ``ngrams`` (a list by order), ``bytes`` (of the blob), ``generation``,
        ``messages``, ``tokens``, ``vocabulary`` (its fingerprint), ``vocabulary_size``, ``created``
        (a POSIX time), ``weight_by_state`` (whether λ depends on the state), ``pending`` (how many
        of the messages were learned since the last build). Raises NoModelError or ServiceError,
        strict or not.
        """
        return self._run(self._asking.info(user))

    def learn(self, user: str, message: Mapping[str, Any]) -> str:
        """Have the service learn a message that the user just sent; return what became of it.

        ``message`` has the fields of a JSON lines source: ``message_id``, ``date``, ``from``,
        ``to``, ``cc``, ``subject`` and ``body`` (or ``raw``, a whole message), all text, addresses
        also lists of it. It counts at once; the same message twice is learned once. ``learned``:
        it counts from now on; ``known``: it did already; ``nothing``: there is nothing to learn in
        it; ``opted_out``: the user wants no model. Raises ServiceError, strict or not.
        """
        return self._run(self._asking.learn(user, message))

    def forget(self, user: str) -> bool:
        """Delete every generation of the user's model; say whether there was one.

        Raises ServiceError, strict or not, if the service did not say that it is done. If it may be
        done all the same (there was no answer, say), a model that was fetched before is used again
        only after the service has vouched for it.
        """
        return self._run(self._asking.forget(user))

    def health(self) -> str:
        """Return "ok", or why models cannot be loaded: ``store_unavailable`` or ``degraded``."""
        return self._run(self._asking.health())

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._wire, self._asking.timeout)
