"""What an operator can set: one frozen dataclass, filled from ``PERSLM_…`` variables.

Every field has a variable of its name in capitals: ``http`` is ``PERSLM_HTTP``. Keyword arguments
win over the environment, the environment over the defaults. Whether an address may be served
without authentication is decided here too, by :meth:`Settings.address`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from perslm.errors import ArgumentError
from perslm.interpolate import check_weight
from perslm.model import DEFAULT_ESTIMATOR, check_estimator

_PREFIX: Final = "PERSLM_"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen: a host and a port; port 0 lets the system choose one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where to listen: the path of a unix socket, which only this user will be able to open."""

    path: Path


Address: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the scoring service; see :meth:`from_environment`.

    ``store`` is a store URL (None: the embedded one), ``master_keys`` a file of master keys if its
    models are encrypted. ``http`` and ``grpc`` are ``HOST:PORT`` or ``unix:/path``, or None for a
    transport that is not served; if neither is given, ``http`` is 127.0.0.1:8377. ``estimator`` is
    how counts become probabilities (``perslm.model``), and says λ unless ``weight`` gives one of
    every model. ``insecure`` allows to listen where other machines can connect although nothing
    authenticates them.

    ``cache_bytes`` bounds the models kept in memory. A model is used for ``fresh_seconds`` before
    the store is asked again whether it is the latest; while the store is away it is used for at
    most ``stale_seconds`` after the store last vouched for it. A request to score waits for the
    store for at most ``load_seconds``; then it goes on without, and the model is loaded behind.

    A request may have ``max_body_bytes``, ``max_histories``, and need ``max_answer_values``
    log-probabilities: its histories times its candidates, or times the vocabulary. Of the requests
    that must ask the store or compute for long, ``max_inflight`` are worked on at a time and
    ``max_waiting`` wait; those beyond are refused. To answer the others that have arrived may take
    ``turn_seconds``; where it takes longer again and again, some are refused.

    Who may call, which docs/operations.md tells at length: ``keys`` is a file of API keys. Tokens
    are checked with one of the files ``jwt_secret`` (HS256) and ``jwt_keys`` (a PEM public key or a
    JWK set: RS256, ES256); they must be for ``jwt_audience`` and from ``jwt_issuer`` if those are
    set, with ``jwt_leeway_seconds`` for clocks that differ, and the claim ``jwt_user_claim``, where
    it is there, limits a token to one user. ``tls_cert`` and ``tls_key`` are PEM files (one may
    hold both) and switch TLS on; with ``tls_client_ca`` callers need a certificate of one of its
    authorities. ``behind_proxy`` says that a proxy does TLS in front. ``audit_log`` is the file
    that audit records go to instead of standard error, ``audit_key`` that with the key which user
    ids are hashed with in them.

    ``log_format`` is ``text`` or ``json``: how the lines of the log look. ``traces`` is the URL of
    an OTLP receiver that gets a trace of every request (``service.tracing``).

    ``workers`` processes share the addresses (``service.supervisor``). Each has models in memory of
    its own, and ``cache_bytes`` is divided among them; the bounds of requests are those of each.
    """

    store: str | None = None
    master_keys: str | None = None
    http: str | None = None
    grpc: str | None = None
    weight: float | None = None
    estimator: str = DEFAULT_ESTIMATOR
    insecure: bool = False
    cache_bytes: int = 512 * _MIB
    fresh_seconds: float = 1.0
    stale_seconds: float = 3600.0
    load_seconds: float = 0.05
    max_body_bytes: int = 8 * _MIB
    max_histories: int = 1024
    max_answer_values: int = 8 * _MIB
    max_inflight: int = 32
    max_waiting: int = 64
    turn_seconds: float = 0.001

    keys: str | None = None
    jwt_secret: str | None = None
    jwt_keys: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_leeway_seconds: float = 30.0
    jwt_user_claim: str = "user"
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    behind_proxy: bool = False
    audit_log: str | None = None
    audit_key: str | None = None

    log_format: str = "text"
    traces: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        if self.http is None and self.grpc is None:
            object.__setattr__(self, "http", "127.0.0.1:8377")
        if self.weight is not None:
            check_weight(self.weight)
        check_estimator(self.estimator)
        for name in (
            "cache_bytes",
            "fresh_seconds",
            "stale_seconds",
            "load_seconds",
            "turn_seconds",
            "max_waiting",
            "jwt_leeway_seconds",
        ):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"the setting {name} cannot be negative")
        for name in (
            "max_body_bytes",
            "max_histories",
            "max_answer_values",
            "max_inflight",
            "workers",
        ):
            if getattr(self, name) < 1:
                raise ArgumentError(f"the setting {name} must be at least 1")
        if self.log_format not in ("text", "json"):
            raise ArgumentError("the setting log_format must be text or json")
        if self.jwt_secret is not None and self.jwt_keys is not None:
            raise ArgumentError("tokens have one issuer: set jwt_secret or jwt_keys, not both")
        tokens = self.jwt_secret is not None or self.jwt_keys is not None
        if not tokens and (self.jwt_audience is not None or self.jwt_issuer is not None):
            raise ArgumentError("to check tokens, set jwt_secret or jwt_keys, too")
        if self.tls_cert is None and (self.tls_key is not None or self.tls_client_ca is not None):
            raise ArgumentError("TLS needs a certificate: set tls_cert, too")
        if self.traces is not None and not self.traces.startswith(("http://", "https://")):
            raise ArgumentError("the setting traces is a URL, such as http://127.0.0.1:4318")

    @property
    def authenticates(self) -> bool:
        """Tell whether a caller must prove who it is: with a key, a token or a certificate."""
        proofs = (self.keys, self.jwt_secret, self.jwt_keys, self.tls_client_ca)
        return any(proof is not None for proof in proofs)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **given: Any
    ) -> Settings:
        """Return the settings of ``environment`` (default: the process's), overridden by ``given``.

        Arguments that are None count as not given, so that command-line options can be passed on
        as they are. Raises ArgumentError, naming the variable, for a value that cannot be read.
        """
        source = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = _PREFIX + field.name.upper()
            if given.get(field.name) is not None:
                values[field.name] = given[field.name]
            elif source.get(variable):
                values[field.name] = _parse(variable, source[variable], field.type)
        return cls(**values)

    def address(self, transport: Literal["http", "grpc"] = "http") -> Address | None:
        """Return where to listen for HTTP or gRPC; None if that is not served.

        Raises ArgumentError if the setting is neither ``HOST:PORT`` nor ``unix:/path``, or is not
        safe (``safe_address``).
        """
        if transport == "http":
            return None if self.http is None else self.safe_address(self.http, "HTTP")
        return None if self.grpc is None else self.safe_address(self.grpc, "gRPC")

    def safe_address(self, text: str, what: str) -> Address:
        """Return the address that ``text`` is, of the transport ``what``.

        Where other machines can connect, callers must be authenticated (``authenticates``) and
        what is sent must be encrypted, by ``tls_cert`` or by a proxy in front (``behind_proxy``);
        ``insecure`` does without both. Raises ArgumentError for an address where that does not
        hold, and for what is neither ``HOST:PORT`` nor ``unix:/path``.
        """
        if text.startswith("unix:"):
            path = Path(text.removeprefix("unix:").removeprefix("//"))
            if not path.is_absolute():
                raise ArgumentError("a unix socket needs an absolute path: unix:/run/perslm.sock")
            return UnixAddress(path)
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ArgumentError(
                f"the {what} address must be HOST:PORT or unix:/path, such as 127.0.0.1:8377"
            )
        if not self.insecure and not _is_loopback(host):
            if not self.authenticates:
                raise ArgumentError(
                    "other machines could connect to this address, and nothing authenticates "
                    "them: make keys with perslm keys create and name their file with --keys, or "
                    "listen on 127.0.0.1 or unix:/path, or accept the risk with --insecure "
                    "(PERSLM_INSECURE=1)"
                )
            if self.tls_cert is None and not self.behind_proxy:
                raise ArgumentError(
                    "other machines could connect to this address, and nothing encrypts what they "
                    "send: give a certificate with --tls-cert, or say --behind-proxy if a proxy "
                    "does TLS in front, or accept the risk with --insecure (PERSLM_INSECURE=1)"
                )
        return TcpAddress(host, int(port))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: only this one is known to stay on the machine
        return host == "localhost"


def _boolean(text: str) -> bool:
    try:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
            text.lower()
        ]
    except KeyError as error:
        raise ValueError from error


# by annotation, which is text in this module
_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "str | None": str,
    "int": int,
    "float": float,
    "float | None": float,
    "bool": _boolean,
}


def _parse(variable: str, text: str, annotation: Any) -> Any:
    try:
        return _PARSERS[annotation](text)
    except ValueError as error:
        raise ArgumentError(f"{variable} must be of type {annotation}") from error
