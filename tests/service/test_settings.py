"""Settings from the environment, and addresses that are safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perslm.errors import ArgumentError
from service.settings import Settings, TcpAddress, UnixAddress


def test_arguments_win_over_the_environment_over_defaults() -> None:
    environment = {"PERSLM_HTTP": "127.0.0.1:1", "PERSLM_WEIGHT": "0.2", "PERSLM_STORE": ""}
    read = Settings.from_environment(environment, http="127.0.0.1:2", weight=None)
    assert read == Settings(http="127.0.0.1:2", weight=0.2)


def test_every_setting_can_come_from_the_environment() -> None:
    environment = {
        "PERSLM_STORE": "redis://localhost",
        "PERSLM_MASTER_KEYS": "master.json",
        "PERSLM_HTTP": "unix:/run/s",
        "PERSLM_GRPC": "unix:/run/g",
        "PERSLM_WEIGHT": "0.5",
        "PERSLM_ESTIMATOR": "katz",
        "PERSLM_INSECURE": "yes",
        "PERSLM_CACHE_BYTES": "1",
        "PERSLM_FRESH_SECONDS": "2.5",
        "PERSLM_STALE_SECONDS": "3",
        "PERSLM_LOAD_SECONDS": "0.5",
        "PERSLM_MAX_BODY_BYTES": "4",
        "PERSLM_MAX_HISTORIES": "5",
        "PERSLM_MAX_ANSWER_VALUES": "6",
        "PERSLM_MAX_INFLIGHT": "7",
        "PERSLM_MAX_WAITING": "8",
        "PERSLM_TURN_SECONDS": "0.25",
        "PERSLM_KEYS": "keys.json",
        "PERSLM_JWT_SECRET": "secret",
        "PERSLM_JWT_KEYS": "",
        "PERSLM_JWT_AUDIENCE": "perslm",
        "PERSLM_JWT_ISSUER": "login",
        "PERSLM_JWT_LEEWAY_SECONDS": "7",
        "PERSLM_JWT_USER_CLAIM": "sub",
        "PERSLM_TLS_CERT": "cert.pem",
        "PERSLM_TLS_KEY": "key.pem",
        "PERSLM_TLS_CLIENT_CA": "ca.pem",
        "PERSLM_BEHIND_PROXY": "1",
        "PERSLM_AUDIT_LOG": "audit.log",
        "PERSLM_AUDIT_KEY": "audit.key",
        "PERSLM_LOG_FORMAT": "json",
        "PERSLM_TRACES": "http://127.0.0.1:4318",
        "PERSLM_WORKERS": "3",
    }
    assert set(environment) == {f"PERSLM_{name.upper()}" for name in Settings.__dataclass_fields__}
    wanted = Settings(
        *("redis://localhost", "master.json", "unix:/run/s", "unix:/run/g", 0.5, "katz"),
        *(True, 1, 2.5, 3.0, 0.5, 4, 5, 6, 7, 8, 0.25),
        *("keys.json", "secret", None, "perslm", "login", 7.0, "sub"),
        *("cert.pem", "key.pem", "ca.pem", True, "audit.log", "audit.key", "json"),
        *("http://127.0.0.1:4318", 3),
    )
    assert Settings.from_environment(environment) == wanted


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PERSLM_WEIGHT", "much"),
        ("PERSLM_WEIGHT", "1.5"),
        ("PERSLM_WEIGHT", "nan"),
        ("PERSLM_INSECURE", "perhaps"),
        ("PERSLM_CACHE_BYTES", "1.5"),
        ("PERSLM_FRESH_SECONDS", "-1"),
        ("PERSLM_STALE_SECONDS", "nan"),
        ("PERSLM_LOAD_SECONDS", "-1"),
        ("PERSLM_TURN_SECONDS", "-1"),
        ("PERSLM_MAX_HISTORIES", "0"),
        ("PERSLM_MAX_INFLIGHT", "0"),
        ("PERSLM_MAX_WAITING", "-1"),
        ("PERSLM_LOG_FORMAT", "xml"),
        ("PERSLM_ESTIMATOR", "guess"),
        ("PERSLM_TRACES", "127.0.0.1:4318"),
        ("PERSLM_WORKERS", "0"),
    ],
)
def test_values_that_make_no_sense(variable: str, value: str) -> None:
    with pytest.raises(ArgumentError):
        Settings.from_environment({variable: value})


@pytest.mark.parametrize(
    ("http", "address"),
    [
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("127.8.9.10:80", TcpAddress("127.8.9.10", 80)),
        ("localhost:8377", TcpAddress("localhost", 8377)),
        ("[::1]:8377", TcpAddress("::1", 8377)),
        ("unix:/run/perslm.sock", UnixAddress(Path("/run/perslm.sock"))),
        ("unix:///run/perslm.sock", UnixAddress(Path("/run/perslm.sock"))),
    ],
)
def test_addresses_on_this_machine(http: str, address: Any) -> None:
    assert Settings(http=http).address() == address


def test_either_transport_can_be_served_alone() -> None:
    assert Settings().address() == TcpAddress("127.0.0.1", 8377)
    assert Settings().address("grpc") is None
    alone = Settings(grpc="127.0.0.1:1")
    assert (alone.address(), alone.address("grpc")) == (None, TcpAddress("127.0.0.1", 1))
    with pytest.raises(ArgumentError, match="gRPC"):
        Settings(grpc="127.0.0.1").address("grpc")
    with pytest.raises(ArgumentError, match="--insecure"):
        Settings(grpc="0.0.0.0:1").address("grpc")


@pytest.mark.parametrize("http", ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "example.com:80"])
def test_where_others_reach_it_callers_are_known_and_lines_encrypted(http: str) -> None:
    for unsafe, remedy in (
        (Settings(http=http), "--keys"),
        (Settings(http=http, tls_cert="c", tls_key="k"), "--keys"),
        (Settings(http=http, behind_proxy=True), "--keys"),
        (Settings(http=http, keys="f"), "--tls-cert"),
        (Settings(http=http, jwt_secret="f"), "--tls-cert"),
        (Settings(http=http, jwt_keys="f"), "--tls-cert"),
    ):
        with pytest.raises(ArgumentError, match=f"{remedy}.*--insecure"):
            unsafe.address()
    for safe in (
        Settings(http=http, insecure=True),
        Settings(http=http, keys="f", tls_cert="c"),
        Settings(http=http, keys="f", behind_proxy=True),
        Settings(http=http, tls_cert="c", tls_client_ca="a"),
    ):
        assert isinstance(safe.address(), TcpAddress)


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_secret": "s", "jwt_keys": "k"},
        {"jwt_audience": "a"},
        {"jwt_issuer": "i", "keys": "k"},
        {"tls_key": "k"},
        {"tls_client_ca": "a"},
        {"jwt_leeway_seconds": -1.0},
    ],
)
def test_settings_that_do_not_fit_together(given: Any) -> None:
    with pytest.raises(ArgumentError):
        Settings(**given)


@pytest.mark.parametrize(
    "http", ["", ":80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "unix:s"]
)
def test_addresses_that_are_none(http: str) -> None:
    with pytest.raises(ArgumentError):
        Settings(http=http).address()
