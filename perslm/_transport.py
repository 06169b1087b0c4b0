"""What a client needs of a way to the service, and the choice of one by URL.

A way has two halves. *Calls* say what is asked and read the replies, as steps of ``perslm._steps``:
``perslm._http_transport`` and ``perslm._grpc_transport`` have them. A *wire* carries requests: one
that blocks beside the calls, one that awaits in ``perslm._http_async`` and ``perslm._grpc_async``.
Whatever goes wrong is one of the errors of this module, or NoModelError.

**What is sent twice.** :func:`exchange` alone decides. A request that may be sent again (all but
``forget``) is, once, if the connection had been kept open and turned out to be closed, or if the
service is overloaded and says when to come back; never after the deadline.
"""

from __future__ import annotations

import os
import random
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol, Self, TypeVar

from perslm._steps import AsyncWire, Pause, Send, Steps, Wire
from perslm.errors import ArgumentError, NoModelError, ServiceError

UNABLE: Final = ("store_unavailable", "bad_blob", "loading")
"""What a service says when there may be a model but not one to use."""

_NOTHING_DONE: Final = ("overloaded", "draining")  # refused before anything is looked at
_JITTER: Final = 0.25  # so that those who were refused together do not come back together


class UnableError(ServiceError):
    """The service answered that it has no model to use; ``reason`` is its word for why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the scoring service cannot use a model: {reason}")


class RefusedError(ServiceError):
    """The service said no; ``code`` is its word, if it is one."""

    def __init__(self, what: str, status: int, code: str | None) -> None:
        self.code = code
        said = "" if code is None else f", {code}"
        super().__init__(f"the scoring service refused: {what}{said}", status)


class UnansweredError(ServiceError):
    """There is no answer; ``kind`` says how, without content.

    ``sent`` tells whether the service may have got the request, ``stale`` whether the connection
    was one that had been kept open, and was closed before anything came back.
    """

    def __init__(self, location: str, kind: str, *, sent: bool = True, stale: bool = False) -> None:
        self.sent = sent
        self.stale = stale
        super().__init__(
            f"no answer from the scoring service at {location} ({kind}): is perslm serve running "
            "there, and is the timeout long enough?"
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client is, and whom it trusts; see ``perslm.Client``."""

    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ArgumentError("a token is ASCII text without spaces: is a line end in it?")
        for path in self.files.values():
            if not os.path.isfile(path):
                raise ArgumentError(
                    f"there is no file {path}, where a certificate or key should be"
                )

    @property
    def files(self) -> dict[str, str]:
        """Return the PEM files that are given: ``ca``, ``cert``, and ``key`` if it is another."""
        found = {} if self.ca is None else {"ca": self.ca}
        if isinstance(self.cert, str):
            found["cert"] = self.cert
        elif self.cert is not None:
            found["cert"], found["key"] = self.cert
        return found

    def context(self) -> ssl.SSLContext:
        """Return how to speak TLS; raises ArgumentError for files that are not PEM."""
        files = self.files
        try:
            context = ssl.create_default_context(cafile=files.get("ca"))
            if "cert" in files:
                context.load_cert_chain(files["cert"], files.get("key"))
        except (ssl.SSLError, OSError) as error:
            raise ArgumentError(
                f"a certificate or key cannot be used ({type(error).__name__}): are ca and cert "
                "PEM files, and is the key that of the certificate?"
            ) from None
        return context


class Calls(Protocol):
    """What can be asked of a service.

    ``location`` is the URL without credentials, fit to be shown. All raise ServiceError if there is
    no proper answer, and NoModelError if it is that there is no such user. Answers are not checked
    here.
    """

    location: str

    def user(self, user: str) -> Steps[dict[str, Any]]:
        """Return metadata of the user's model."""
        ...

    def blob(self, user: str, unless: str | None) -> Steps[tuple[int, bytes, str] | None]:
        """Return generation, bytes and tag of the user's model; None if it is still ``unless``.

        The tag is another for each model that the user ever had.
        """
        ...

    def learn(self, user: str, message: Mapping[str, Any]) -> Steps[str]:
        """Have a message learned; return what became of it."""
        ...

    def forget(self, user: str) -> Steps[None]:
        """Delete every generation of the user's model."""
        ...

    def check(self) -> Steps[None]:
        """Return if models can be loaded."""
        ...

    def scores(self, line: Any, fields: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        """Return the fields of the answer to a score request, by a line of the wire.

        Fields are those of ``POST /v1/score``, arrays as ``perslm.wire`` packs them.
        """
        ...


class Request(Protocol):
    """What a wire sends. ``again`` tells whether it may be sent twice."""

    @property
    def again(self) -> bool: ...

    def afresh(self) -> Self:
        """Return the same request for a connection that was not kept open."""
        ...


class Reply(Protocol):
    """What a wire brings."""

    @property
    def pause(self) -> float | None:
        """After how many seconds to come back, if the service is overloaded; else None."""
        ...


_R = TypeVar("_R", bound=Reply)


def exchange(request: Request, kind: type[_R]) -> Steps[_R]:
    """Send a request, and once more if that is safe and may help; return the reply."""
    try:
        reply = yield Send(request)
    except UnansweredError as error:
        if not error.stale or not request.again:
            raise
        reply = yield Send(request.afresh())
        return _of(kind, reply)
    first = _of(kind, reply)
    if first.pause is not None and request.again:
        waited = yield Pause(first.pause * random.uniform(1, 1 + _JITTER))
        if waited:
            reply = yield Send(request)
            return _of(kind, reply)
    return first


def _of(kind: type[_R], reply: Any) -> _R:
    assert isinstance(reply, kind)
    return reply


def open_transport(url: str, credentials: Credentials) -> tuple[Calls, Wire]:
    """Return the calls to the service at a URL, and a wire that blocks.

    Raises ArgumentError if it is none, MissingExtraError if its transport is not installed.
    """
    if _is_grpc(url):
        from perslm._grpc_transport import GrpcCalls, GrpcWire

        calls = GrpcCalls(url, credentials)
        return calls, GrpcWire(calls)
    from perslm._http_transport import HttpCalls, HttpWire

    spoken = HttpCalls(url, credentials)
    return spoken, HttpWire(spoken)


def open_async_transport(url: str, credentials: Credentials) -> tuple[Calls, AsyncWire]:
    """Return the calls to the service at a URL, and a wire that awaits; raises as the other."""
    if _is_grpc(url):
        from perslm._grpc_transport import GrpcCalls

        calls = GrpcCalls(url, credentials)
        from perslm._grpc_async import AsyncGrpcWire

        return calls, AsyncGrpcWire(calls)
    from perslm._http_transport import HttpCalls

    spoken = HttpCalls(url, credentials)
    from perslm._http_async import AsyncHttpWire

    return spoken, AsyncHttpWire(spoken)


def _is_grpc(url: str) -> bool:
    return url.startswith(("grpc:", "grpcs:", "grpc+unix:"))


def refuse(what: str, status: int, code: object) -> NoReturn:
    """Raise the error that a refusal stands for.

    ``what`` names the status for people, ``status`` is the one of HTTP, or the one that HTTP would
    have; ``code`` is the service's word, if it is one.
    """
    if status == 404 and code == "unknown_user":
        raise NoModelError("the user has no published model")
    if code in UNABLE:
        raise UnableError(str(code))
    if code == "overloaded":  # a matter of the moment, not of the request, whatever the status
        status = 503
    known = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code)
    raise RefusedError(what, status, str(code) if known else None)


def is_certainly_undone(error: ServiceError) -> bool:
    """Tell whether what was asked did certainly not happen."""
    if isinstance(error, UnansweredError):
        return not error.sent
    if not isinstance(error, RefusedError) or error.code is None:
        return False
    return error.code in _NOTHING_DONE or 400 <= (error.status or 0) < 500
