"""What ``perslm.client`` needs of a way to the service, and the choice of one by URL.

``perslm._http_transport`` and ``perslm._grpc_transport`` are the ways. Both send what they are
given and return what they got, with the same types, unchecked; whatever goes wrong is one of the
errors that :func:`refuse` raises or that :func:`no_answer` returns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

from perslm.errors import ArgumentError, NoModelError, ServiceError

UNABLE: Final = ("store_unavailable", "bad_blob", "loading")
"""What a service says when there may be a model but not one to use."""


class UnableError(ServiceError):
    """The service answered that it has no model to use; ``reason`` is its word for why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the scoring service cannot use a model: {reason}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client is, and whom it trusts; see ``perslm.Client``."""

    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ArgumentError("a token is ASCII text without spaces: is a line end in it?")
        for path in self.tls.values():
            if not os.path.isfile(path):
                raise ArgumentError(
                    f"there is no file {path}, where a certificate or key should be"
                )

    @property
    def tls(self) -> dict[str, str]:
        """Return the files by what urllib3 calls them."""
        options = {} if self.ca is None else {"ca_certs": self.ca}
        if isinstance(self.cert, str):
            options["cert_file"] = self.cert
        elif self.cert is not None:
            options["cert_file"], options["key_file"] = self.cert
        return options


class Session(Protocol):
    """Sends the score requests of one model; thread-safe."""

    def scores(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """Send a score request and return the fields of its answer, neither of them checked.

        Fields are those of ``POST /v1/score``, arrays as ``perslm.wire`` packs them. Raises
        ServiceError, or NoModelError.
        """
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


def open_transport(url: str, timeout: float, credentials: Credentials) -> Transport:
    """Return the transport to the service at a URL.

    Raises ArgumentError if it is none, MissingExtraError if its transport is not installed.
    """
    if url.startswith(("grpc:", "grpcs:", "grpc+unix:")):
        from perslm._grpc_transport import GrpcTransport

        return GrpcTransport(url, timeout, credentials)
    from perslm._http_transport import HttpTransport

    return HttpTransport(url, timeout, credentials)


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
    raise ServiceError(
        f"the scoring service refused: {what}" + (f", {code}" if known else ""), status
    )


def no_answer(location: str, kind: str) -> ServiceError:
    """Return the error for a service that does not answer; ``kind`` says how, without content."""
    return ServiceError(
        f"no answer from the scoring service at {location} ({kind}): is perslm serve running "
        "there, and is the timeout long enough?"
    )
