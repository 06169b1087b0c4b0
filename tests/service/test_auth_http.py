"""Who may do what over HTTP, on real servers; who is told nothing; and what is written down."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from perslm.store import Store
from service import keyfile
from service.audit import Pseudonyms, configure
from service.auth import AuthenticationError, ForbiddenError
from service.settings import Settings
from tests.service.server import Caller, Reply, running
from tests.service.support import (
    FINGERPRINT,
    HISTORIES,
    NEW_MAIL,
    USER,
    blob_of,
    local,
    publish,
    settings,
)

OTHER = "other@example.com"
SECRET = "a-secret-long-enough-for-every-algorithm-that-could-be-tried-on-it"
SCORE: dict[str, Any] = {"vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}


class Service:
    """A server that wants credentials, its key file, and ways to ask it for everything."""

    def __init__(self, url: str, keys: Path) -> None:
        self.call = Caller(url)
        self.keys = keys

    def key(self, name: str, *scopes: str, **limits: Any) -> str:
        token, _ = keyfile.create(self.keys, name, scopes, **limits)
        return f"Bearer {token}"

    def score(self, authorization: str | None, user: str = USER) -> Reply:
        headers = {} if authorization is None else {"authorization": authorization}
        return self.call.score({**SCORE, "user": user}, "json", **headers)

    def about(self, authorization: str | None, method: str, rest: str, user: str = USER) -> Reply:
        headers = {} if authorization is None else {"authorization": authorization}
        return self.call(method, f"/v1/users/{quote(user, safe='')}{rest}", **headers)

    def everything(self, authorization: str | None, user: str = USER) -> dict[str, Reply]:
        return {
            "score": self.score(authorization, user),
            "info": self.about(authorization, "GET", "", user),
            "model:read": self.about(authorization, "GET", "/model", user),
            "forget": self.about(authorization, "DELETE", "", user),
        }


@pytest.fixture
def limits(tmp_path: Path) -> Settings:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    keyfile.create(tmp_path / "keys.json", "first", ["admin"])
    return settings(keys=str(tmp_path / "keys.json"), jwt_secret=str(secret), fresh_seconds=3600.0)


@pytest.fixture
def service(limits: Settings, store: Store) -> Iterator[Service]:
    publish(store, OTHER, blob_of(NEW_MAIL))
    with running(limits, store) as url:
        assert limits.keys is not None
        found = Service(url, Path(limits.keys))
        yield found
        found.call.close()


def started(service: Service, authorization: str) -> None:
    """Wait until a new key counts, which a file that is looked at once a second delays."""
    until = time.monotonic() + 30
    while service.score(authorization).status == 401:
        assert time.monotonic() < until


def token(**changes: Any) -> str:
    claims = {"exp": time.time() + 600, "scope": "score model:read forget", **changes}
    return "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")


def assert_refused(reply: Reply) -> None:
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="perslm"'
    assert reply.json == {"error": "unauthenticated", "message": str(AuthenticationError())}


def assert_forbidden(reply: Reply) -> None:
    assert reply.status == 403
    assert "www-authenticate" not in reply.headers
    assert reply.json == {"error": "forbidden", "message": str(ForbiddenError())}


def test_strangers_get_nothing_and_learn_nothing(service: Service, store: Store) -> None:
    good = service.key("good", "score")
    started(service, good)
    for bad in (
        None,
        "",
        "Basic cGVyc2xtOng=",
        f"{good}x",
        good.replace("Bearer", "Token"),
        "Bearer perslm_000000000000_x",
        service.key("late", "score", lifetime=0),
        token(exp=time.time() - 60),
        token(nbf=time.time() + 60),
        token(aud="others"),
        "Bearer " + jwt.encode({"exp": time.time() + 60, "scope": "score"}, None, "none"),
        token()[:-4] + "AAAA",
    ):
        for user in (USER, "nobody", "%FF", "x" * 300):
            for reply in service.everything(bad, user).values():
                assert_refused(reply)
    assert_refused(service.call("POST", "/v1/score", b"no body that could be read"))
    assert store.head(USER).generation == 1


def test_probes_and_documents_are_for_all(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert service.call("GET", path).status == 200


def test_a_scope_allows_its_routes_and_no_other(service: Service, store: Store) -> None:
    allowed = {
        "score": {"score", "info"},
        "model:read": {"info", "model:read"},
        "forget": {"forget"},
        "write": set(),
        "admin": set(),
    }
    assert set(allowed) == set(keyfile.SCOPES)
    keys = {scope: service.key(scope.replace(":", "-"), scope) for scope in allowed}
    started(service, keys["admin"])
    for scope, key in keys.items():
        publish(store, USER, blob_of([]))
        for credential in (key, token(scope=scope)):
            for name, reply in service.everything(credential).items():
                if name in allowed[scope]:
                    assert reply.status in (200, 204, 404)
                else:
                    assert_forbidden(reply)


def test_who_is_limited_to_a_user_reaches_no_other(service: Service, store: Store) -> None:
    key = service.key("me", "score", "model:read", "forget", user=USER)
    started(service, key)
    for credential in (key, token(user=USER)):
        for user in (OTHER, "nobody", USER.upper(), USER + " "):
            for reply in service.everything(credential, user).values():
                assert_forbidden(reply)
        publish(store, USER, blob_of([]))
        assert {r.status for r in service.everything(credential).values()} == {200, 204}
    assert store.head(OTHER).generation == 1


def test_tenants_never_see_each_others_models(service: Service, store: Store) -> None:
    """Two tenants have the same user id, and a third has nobody."""
    publish(store.of_tenant("acme"), USER, blob_of(NEW_MAIL))
    scopes = ("score", "model:read", "forget")
    ours, theirs = service.key("ours", *scopes), service.key("theirs", *scopes, tenant="acme")
    started(service, theirs)
    for our, their in ((ours, theirs), (token(), token(tenant="acme"))):
        for _ in range(2):  # the second time from the cache
            assert service.about(our, "GET", "").json["ngrams"][0] == local().ngrams[0]
            assert service.about(their, "GET", "").json["ngrams"][0] == local(NEW_MAIL).ngrams[0]
            assert service.score(our).json != service.score(their).json
            assert service.score(token(tenant="third")).json["reason"] == "unknown_user"
        assert service.about(our, "GET", "/model").body == blob_of([*NEW_MAIL[:-1]])
        assert service.about(their, "GET", "/model").body == blob_of(NEW_MAIL)
        assert service.about(token(tenant="third"), "GET", "/model").status == 404
    assert service.score(theirs, OTHER).json["reason"] == "unknown_user"
    assert service.about(theirs, "DELETE", "").status == 204
    assert service.score(theirs).json["reason"] == "unknown_user"
    assert service.score(ours).json["status"] == "ok"
    assert store.head(USER).generation == 1


def test_a_revoked_key_is_refused_while_the_server_runs(service: Service) -> None:
    key, other = service.key("gone", "score"), service.key("stays", "score")
    started(service, other)
    assert service.score(key).status == 200
    keyfile.revoke(service.keys, "gone")
    until = time.monotonic() + 30
    while service.score(key).status != 401:
        assert time.monotonic() < until
    assert_refused(service.score(key))
    assert service.score(other).status == 200


def test_without_settings_everybody_is_served(store: Store) -> None:
    with running(settings(), store) as url:
        open_service = Service(url, Path())
        for authorization in (None, "Bearer whatever"):
            assert open_service.score(authorization).status == 200
        open_service.call.close()


# Audit


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(r.getMessage()) for r in caplog.records if r.name == "perslm.audit"]


def test_exports_and_deletions_are_written_down(
    service: Service, limits: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    key = service.key("ops", "score", "model:read", "forget")
    started(service, key)
    with caplog.at_level(logging.DEBUG):
        replies = [
            service.score(key),
            service.about(key, "GET", "/model"),
            service.about(token(scope="score", sub=OTHER), "GET", "/model"),
            service.about(key, "GET", "/model", "nobody"),
            service.about(key, "GET", "/model", "x" * 300),
            service.about(token(tenant="acme"), "DELETE", ""),
            service.about(key, "DELETE", ""),
        ]
    assert [reply.status for reply in replies] == [200, 200, 403, 404, 422, 404, 204]
    written = records(caplog)
    assert [(r["action"], r["outcome"], r["tenant"]) for r in written] == [
        ("export", "ok", "default"),
        ("export", "forbidden", "default"),
        ("export", "nothing", "default"),
        ("export", "failed", "default"),
        ("forget", "nothing", "acme"),
        ("forget", "ok", "default"),
    ]
    assert {r["principal"] for r in written if r["outcome"] != "forbidden"} == {"key:ops", "jwt"}
    assert written[0]["request_id"] == replies[1].headers["x-request-id"]
    assert written[-1]["request_id"] == replies[-1].headers["x-request-id"]
    assert len({r["request_id"] for r in written}) == len(written)
    names = Pseudonyms(limits)
    assert written[0]["user"] == written[-1]["user"] == names.of("default", USER)
    assert written[4]["user"] == names.of("acme", USER) != names.of("default", USER)


def test_no_id_and_no_credential_reaches_a_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    key = service.key("frontend", "score", "model:read", "forget", user=USER)
    started(service, key)
    with caplog.at_level(logging.DEBUG):
        credentials = (key, token(user=USER, sub=USER), f"{key}x", token(exp=1))
        for credential in credentials:
            for user in (USER, OTHER):
                service.everything(credential, user)
        service.keys.write_text("{")
        until = time.monotonic() + 30
        while "last good keys" not in caplog.text:
            assert time.monotonic() < until
            service.score(key)
    secrets = [USER, OTHER, quote(USER, safe=""), SECRET]
    secrets += [word for credential in credentials for word in (credential, credential[-20:])]
    ours = [r for r in caplog.records if r.name.split(".")[0] in ("perslm", "service")]
    assert {record.name for record in ours} == {"perslm.audit", "service.auth", "service.logs"}
    for record in ours:
        said = f"{record.getMessage()} {record.__dict__}"
        assert not any(secret in said for secret in secrets)


def test_pseudonyms_are_stable_with_a_key_only(tmp_path: Path) -> None:
    keys = [tmp_path / "a", tmp_path / "b"]
    for path in keys:
        path.write_text(path.name * 40)
    one, two = (Pseudonyms(Settings(audit_key=str(path))) for path in keys)
    again = Pseudonyms(Settings(audit_key=str(keys[0])))
    assert one.of("t", "ann") == again.of("t", "ann") != two.of("t", "ann")
    assert len({one.of(*name) for name in (("t", "ann"), ("ta", "nn"), ("t", "bob"))}) == 3
    assert Pseudonyms(Settings()).of("t", "ann") not in (one.of("t", "ann"), two.of("t", "ann"))


def test_records_go_to_a_file_that_may_be_rotated(
    tmp_path: Path, store: Store, limits: Settings
) -> None:
    log = logging.getLogger("perslm.audit")
    earlier = [*log.handlers]  # of a server that another test ran in this process
    log.handlers.clear()
    path = tmp_path / "audit.log"
    configure(Settings(audit_log=str(path)))
    handlers = list(log.handlers)
    configure(Settings())
    assert log.handlers == handlers
    try:
        with running(limits, store) as url:
            call = Caller(url)
            for _ in range(2):
                call("DELETE", "/v1/users/nobody", authorization=token())
                written = json.loads(path.read_text())
                assert (written["action"], written["outcome"]) == ("forget", "nothing")
                path.rename(tmp_path / "audit.log.1")
            call.close()
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.handlers += earlier
        log.setLevel(logging.NOTSET)
        log.propagate = True
