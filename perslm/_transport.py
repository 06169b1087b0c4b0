"""What ``perslm.client`` needs of a way to the service, and the choice of one by URL.

``perslm._http_transport`` and ``perslm._grpc_transport`` are the ways. Both send what they are
given and return what they got, with the same types, unchecked; whatever goes wrong is one of the
errors that :func:`refuse` raises or that :func:`no_answer` returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

from perslm.errors import NoModelError, ServiceError

UNABLE: Final = ("store_unavailable", "bad_blob")
"""What a service says when there may be a model but not one to use."""


class UnableError(ServiceError):
    """The service answered that it has no model to use; ``reason`` is its word for why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the scoring service cannot use a model: {reason}")


class Session(Protocol):
    """Sends the score requests of one model; thread-safe."""

    def scores(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """Send a score request and return the fields of its answer, neither of them checked.

        Fields are those of ``POST /v1/score``, arrays as ``perslm.wire`` packs them. Raises
        ServiceError, or NoModelError.
        """
        ...

    def close(self) -> None:
        """Close what only this session uses; it may be used again."""
        ...


class Transport(Protocol):
    """Connections to a service; thread-safe; nothing is connected before the first use.

    ``location`` is the URL without credentials, fit to be shown. All calls raise ServiceError if
    there is no proper answer, and NoModelError if it is that there is no such user. A connection
    that was kept open can turn out to be dead, so a request may be sent twice.
    """

    location: str

    def user(self, user: str) -> dict[str, Any]:
        """Return metadata of the user's model."""
        ...

    def blob(self, user: str, unless: int | None) -> tuple[int, bytes] | None:
        """Return generation and bytes of the user's model; None if that is still ``unless``."""
        ...

    def forget(self, user: str) -> None:
        """Delete every generation of the user's model."""
        ...

    def check(self) -> None:
        """Return if models can be loaded."""
        ...

    def session(self) -> Session:
        """Return a session for the score requests of one model."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def open_transport(url: str, timeout: float) -> Transport:
    """Return the transport to the service at a URL.

    Raises ArgumentError if it is none, MissingExtraError if its transport is not installed.
    """
    if url.startswith(("grpc:", "grpcs:", "grpc+unix:")):
        from perslm._grpc_transport import GrpcTransport

        return GrpcTransport(url, timeout)
    from perslm._http_transport import HttpTransport

    return HttpTransport(url, timeout)


def refuse(what: str, status: int, code: object) -> NoReturn:
    """Raise the error that a refusal stands for.

    ``what`` names the status for people, ``status`` is the one of HTTP, or the one that HTTP would
    have; ``code`` is the service's word, if it is one.
    """
    if status == 404 and code == "unknown_user":
        raise NoModelError("the user has no published model")
    if code in UNABLE:
        raise UnableError(str(code))
    known = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code)
    raise ServiceError(
        f"the scoring service refused: {what}" + (f", {code}" if known else ""), status
    )


def no_answer(location: str, kind: str) -> ServiceError:
    """Return the error for a service that does not answer; ``kind`` says how, without content."""
    return ServiceError(
        f"no answer from the scoring service at {location} ({kind}): is perslm serve running "
        "there, and is the timeout long enough?"
    )
