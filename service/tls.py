"""TLS: certificates from files, taken anew when they change.

A handshake begins with a look at the files (once a second at most), so a renewed certificate is
used from the next connection on, and connections that are open stay so. Files that cannot be used
leave the last good ones in place, and an error in the log. HTTP and gRPC have the same settings.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from typing import Final

import grpc
import uvicorn

from perslm.errors import ArgumentError
from service.settings import Settings

_LOOK_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


def secure(config: uvicorn.Config, settings: Settings) -> None:
    """Make the server of ``config`` speak TLS only, as ``settings`` say; see server_context."""
    config.load()  # which would else come later, and replace what is set here
    config.ssl = server_context(settings)


def server_context(settings: Settings, *, look_seconds: float = _LOOK_SECONDS) -> ssl.SSLContext:
    """Return the context to accept connections with; ``settings`` must have a certificate.

    With ``tls_client_ca`` only callers with a certificate of one of its authorities are accepted.
    TLS 1.2 and 1.3. Raises ArgumentError if the files cannot be used.
    """
    files = _Files(settings)
    current = files.context()
    seen, looked = files.marks(), time.monotonic()

    def on_hello(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        nonlocal current, seen, looked
        now = time.monotonic()
        if now - looked >= look_seconds:
            looked, marks = now, files.marks()
            if marks != seen:
                seen = marks
                try:
                    current = files.context()
                except ArgumentError as error:
                    _log.error("%s; the last good ones stay in use", error)
        connection.context = current

    accepting = current
    accepting.sni_callback = on_hello  # called for every handshake, also without a name
    return accepting


def grpc_credentials(
    settings: Settings, *, look_seconds: float = _LOOK_SECONDS
) -> grpc.ServerCredentials:
    """Return the same for gRPC; raises ArgumentError if the files cannot be used."""
    files = _Files(settings)
    files.context()  # raises what is wrong with them, which gRPC would only log
    seen, looked = files.marks(), time.monotonic()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Return what is new; called by gRPC's threads at every handshake."""
        nonlocal seen, looked
        now = time.monotonic()
        if now - looked < look_seconds:
            return None
        looked, marks = now, files.marks()
        if marks == seen:
            return None
        seen = marks
        try:
            files.context()
            return files.grpc_configuration()
        except (ArgumentError, OSError) as error:
            _log.error("%s; the last good ones stay in use", error)
            return None

    return grpc.dynamic_ssl_server_credentials(
        files.grpc_configuration(),
        renewed,  # type: ignore[arg-type] # the stubs do not know that None means "as before"
        require_client_authentication=settings.tls_client_ca is not None,
    )


class _Files:
    def __init__(self, settings: Settings) -> None:
        assert settings.tls_cert is not None
        self._certificate = settings.tls_cert
        self._key = settings.tls_key
        self._authorities = settings.tls_client_ca

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # an encrypted key must not wait for somebody to type at a terminal
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            if self._authorities is not None:
                context.load_verify_locations(self._authorities)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            raise ArgumentError(
                "the TLS certificate, its key or the client authorities cannot be used "
                f"({type(error).__name__}): they are PEM files, the key without a password and of "
                "the same pair as the certificate"
            ) from error
        return context

    def grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate = _read(self._certificate)
        key = certificate if self._key is None else _read(self._key)
        authorities = None if self._authorities is None else _read(self._authorities)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    def marks(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in (self._certificate, self._key, self._authorities):
            try:
                at = os.stat(path) if path is not None else None
            except OSError:
                at = None
            found.append(None if at is None else (at.st_ino, at.st_size, at.st_mtime_ns))
        return found


def _no_password() -> str:
    raise ValueError


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
