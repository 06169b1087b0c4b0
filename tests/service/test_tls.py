"""TLS on real sockets: who is let in, with which certificates, and what happens to new ones."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3

import perslm
from perslm.errors import ArgumentError, ServiceError
from perslm.store import Store
from service import keyfile
from service.settings import Settings
from service.tls import server_context
from tests.blocking import BlockingClient
from tests.service.certificates import Authority, authority
from tests.service.grpc_server import RunningServer
from tests.service.server import Caller, running
from tests.service.support import FINGERPRINT, USER, local, settings


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def strangers(tmp_path: Path) -> Authority:
    return authority(tmp_path, "strangers")


def subject(url: str, ca: Path) -> str:
    """The name in the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = int(url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        shown: Any = connection.getpeercert()
        return dict(part[0] for part in shown["subject"])["commonName"]


def test_only_tls_is_spoken_and_the_client_checks_who_it_is(
    store: Store, ours: Authority, strangers: Authority
) -> None:
    with running(settings(tls_cert=str(ours.issue("server"))), store) as url:
        assert url.startswith("https://")
        plain = Caller(url.replace("https", "http"))
        with pytest.raises(urllib3.exceptions.ProtocolError):
            plain("GET", "/healthz")
        secure = Caller(url, ca_certs=str(ours.path))
        assert secure("GET", "/healthz").status == 200
        with pytest.raises(urllib3.exceptions.SSLError):
            Caller(url, ca_certs=str(strangers.path))("GET", "/healthz")
        plain.close()
        secure.close()


def test_a_certificate_can_be_required_of_callers(
    store: Store, ours: Authority, strangers: Authority
) -> None:
    files = {"tls_cert": str(ours.issue("server")), "tls_client_ca": str(ours.path)}
    with running(settings(**files), store) as url:
        for refused in ({}, {"cert_file": str(strangers.issue("stranger"))}):
            call = Caller(url, ca_certs=str(ours.path), **refused)
            with pytest.raises(urllib3.exceptions.HTTPError):
                call("GET", "/healthz")
            call.close()
        call = Caller(url, ca_certs=str(ours.path), cert_file=str(ours.issue("caller")))
        assert call("GET", "/healthz").status == 200
        call.close()


@pytest.mark.parametrize("client_of", [perslm.Client, BlockingClient])
def test_the_client_has_all_it_needs(
    client_of: Any, store: Store, ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = keyfile.create(tmp_path / "keys.json", "beam", ["score", "model:read", "forget"])
    pair = ours.issue("caller")
    limits = settings(
        tls_cert=str(ours.issue("server")),
        tls_client_ca=str(ours.path),
        keys=str(tmp_path / "keys.json"),
    )
    trust = {"ca": str(ours.path), "strict": True, "timeout": 30}
    with running(limits, store) as url:
        for cert in (str(pair), (str(pair), str(pair))):
            with client_of(url, token=token, cert=cert, **trust) as client:
                model = client.model(USER, FINGERPRINT)
                states = model.states([[0, 2]])
                expected = local().score(local().states([[0, 2]]), [[3, 4]])[0]
                assert (model.score(states, [[3, 4]])[0] == expected).all()
                assert client.fetch(USER).generation == 1
                assert token not in repr(client)
        with client_of(url, token=token, **trust) as client, pytest.raises(ServiceError):
            client.fetch(USER)
        for wrong in (None, token + "x"):
            with (
                client_of(url, token=wrong, cert=str(pair), **trust) as client,
                pytest.raises(ServiceError, match=r"401, unauthenticated") as caught,
            ):
                client.fetch(USER)
            assert token not in str(caught.value)
        monkeypatch.setenv("PERSLM_TOKEN", token)
        with client_of(url, cert=str(pair), **trust) as client:
            assert client.forget(USER)
        lenient = {**trust, "strict": False}
        with client_of(url, token="wrong", cert=str(pair), **lenient) as client:
            assert client.fetch(USER).reason == "refused"


def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    store: Store, ours: Authority, strangers: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"tls_cert": str(ours.issue("server")), "tls_client_ca": None}
    with running(settings(**files), store) as url:
        kept = Caller(url, ca_certs=str(ours.path))
        assert kept("GET", "/healthz").status == 200
        assert subject(url, ours.path) == "server"
        renewed = ours.issue("renewed").read_bytes()
        Path(str(files["tls_cert"])).write_bytes(renewed)
        until = time.monotonic() + 30
        while subject(url, ours.path) != "renewed":
            assert time.monotonic() < until
        Path(str(files["tls_cert"])).write_bytes(b"-----BEGIN NOTHING-----\n")
        with caplog.at_level(logging.ERROR):
            while "last good ones" not in caplog.text:
                assert subject(url, ours.path) == "renewed"
                assert time.monotonic() < until
        assert kept("GET", "/healthz").status == 200  # all the while on the first connection
        kept.close()


def test_another_authority_for_callers_counts_from_the_next_connection_on(
    store: Store, ours: Authority, strangers: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(ours.path.read_bytes())
    files = {"tls_cert": str(ours.issue("server")), "tls_client_ca": str(trusted)}
    cert = str(strangers.issue("stranger"))

    def status() -> int | None:
        call = Caller(url, ca_certs=str(ours.path), cert_file=cert)
        try:
            return call("GET", "/healthz").status
        except urllib3.exceptions.HTTPError:
            return None
        finally:
            call.close()

    with running(settings(**files), store) as url:
        assert status() is None
        trusted.write_bytes(strangers.path.read_bytes())
        until = time.monotonic() + 30
        while status() is None:
            assert time.monotonic() < until
        cert = str(ours.issue("caller"))
        assert status() is None


def test_grpc_takes_renewed_certificates_and_authorities_too(
    store: Store,
    ours: Authority,
    strangers: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate, trusted = tmp_path / "shown.pem", tmp_path / "trusted.pem"
    certificate.write_bytes(ours.issue("server").read_bytes())
    trusted.write_bytes(ours.path.read_bytes())

    def answers(caller: bytes) -> bool:
        credentials = grpc.ssl_channel_credentials(ours.path.read_bytes(), caller, caller)
        with grpc.secure_channel(server.url.removeprefix("grpcs://"), credentials) as channel:
            try:
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False
        return True

    caller, stranger = ours.issue("caller").read_bytes(), strangers.issue("other").read_bytes()
    limits = settings(tls_cert=str(certificate), tls_client_ca=str(trusted))
    with RunningServer(limits, store) as server, caplog.at_level(logging.ERROR):
        until = time.monotonic() + 60
        assert answers(caller)
        assert not answers(stranger)
        trusted.write_bytes(strangers.path.read_bytes())
        while not answers(stranger):
            assert time.monotonic() < until
        assert not answers(caller)
        certificate.write_bytes(ours.issue("renewed").read_bytes())
        while subject(server.url, ours.path) != "renewed":
            assert time.monotonic() < until
        certificate.write_bytes(b"-----BEGIN NOTHING-----\n")
        while "last good ones" not in caplog.text:
            assert answers(stranger)
            assert time.monotonic() < until


def test_old_versions_are_not_spoken(ours: Authority) -> None:
    context = server_context(Settings(tls_cert=str(ours.issue("server"))))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_files_that_cannot_be_used(ours: Authority, strangers: Authority, tmp_path: Path) -> None:
    server, other = str(ours.issue("server")), str(ours.issue("other"))
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for wrong in (
        {"tls_cert": str(tmp_path / "none")},
        {"tls_cert": str(empty)},
        {"tls_cert": str(ours.path)},
        {"tls_cert": server, "tls_key": other},
        {"tls_cert": server, "tls_client_ca": str(empty)},
        {"tls_cert": server, "tls_client_ca": str(tmp_path / "none")},
    ):
        with pytest.raises(ArgumentError, match="PEM"):
            server_context(Settings(**wrong))


def test_a_client_is_told_of_its_mistakes(ours: Authority, tmp_path: Path) -> None:
    for url, wrong in (
        ("http://127.0.0.1:1", {"ca": str(ours.path)}),
        ("unix:/run/s", {"ca": str(ours.path)}),
        ("https://127.0.0.1:1", {"ca": str(tmp_path / "none")}),
        ("https://127.0.0.1:1", {"cert": (str(ours.path), str(tmp_path / "none"))}),
        ("http://127.0.0.1:1", {"token": "with a space"}),
        ("http://127.0.0.1:1", {"token": "line\n"}),
        ("http://me:secret@127.0.0.1:1", {"token": "t"}),
    ):
        with pytest.raises(ArgumentError) as caught:
            perslm.Client(url, **wrong)
        assert "secret" not in str(caught.value)
