"""Credentials to principals: keys and tokens of every kind, and all that must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from perslm.errors import ArgumentError
from service import auth, keyfile
from service.auth import ANYONE, AuthenticationError, Authenticator, ForbiddenError, Principal
from service.settings import Settings
from tests.service.certificates import private_pem

SECRET = "a-secret-long-enough-for-every-algorithm-that-could-be-tried-on-it"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public_pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def claims(**changes: Any) -> dict[str, Any]:
    return {"exp": time.time() + 60, "scope": "score forget", **changes}


def signed(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    payload = json.dumps(claims(**changes)).encode()
    return "Bearer " + jwt.PyJWS().encode(payload, key, algorithm=algorithm, headers=headers)


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    kind = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else (jwt.algorithms.ECAlgorithm)
    )
    return {**kind.to_jwk(key.public_key(), as_dict=True), **fields}


def refused(authenticator: Authenticator, authorization: str | None) -> None:
    """Refused, in the words that every refusal has."""
    with pytest.raises(AuthenticationError) as caught:
        authenticator.authenticate(authorization)
    assert (str(caught.value), caught.value.code) == (str(AuthenticationError()), "unauthenticated")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def hs256(tmp_path: Path) -> Settings:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return Settings(jwt_secret=str(path))


def files(tmp_path: Path, content: bytes, **more: Any) -> Settings:
    path = tmp_path / "public"
    path.write_bytes(content)
    return Settings(jwt_keys=str(path), **more)


def test_without_settings_everybody_may_everything() -> None:
    assert Authenticator(Settings()).authenticate(None) is ANYONE
    assert Principal("default", frozenset(keyfile.SCOPES), None, "anyone") == ANYONE


# API keys


def test_a_key_is_its_principal(keys: Path) -> None:
    token, _ = keyfile.create(keys, "frontend", ["score"])
    limited, _ = keyfile.create(keys, "me", ["forget", "score"], tenant="acme", user="ann")
    authenticator = Authenticator(Settings(keys=str(keys)))
    for scheme in ("Bearer", "bearer", "BEARER"):
        found = authenticator.authenticate(f"{scheme} {token}")
        assert found == Principal("default", frozenset({"score"}), None, "key:frontend")
    found = authenticator.authenticate(f"Bearer {limited}")
    assert found == Principal("acme", frozenset({"score", "forget"}), "ann", "key:me")


def test_a_secret_is_not_in_the_file_nor_open_to_others(keys: Path) -> None:
    token, key = keyfile.create(keys, "frontend", ["score"])
    prefix, key_id, secret = token.split("_", 2)
    assert (prefix, key_id, len(secret)) == ("perslm", key.id, 43)
    assert secret not in keys.read_text()
    assert keys.stat().st_mode & 0o777 == 0o600
    assert list(keys.parent.iterdir()) == [keys]


def test_wrong_keys_are_all_refused_alike(keys: Path) -> None:
    token, key = keyfile.create(keys, "frontend", ["score"])
    other, _ = keyfile.create(keys, "other", ["score"])
    revoked, _ = keyfile.create(keys, "gone", ["score"])
    assert keyfile.revoke(keys, "gone").name == "gone"
    late, _ = keyfile.create(keys, "late", ["score"], lifetime=0)
    authenticator = Authenticator(Settings(keys=str(keys)))
    secret = token.split("_", 2)[2]
    for bad in (
        None,
        "",
        "Bearer",
        "Bearer ",
        token,
        f"Basic {token}",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Bearer {token.upper()}",
        f"Bearer perslm_{key.id}_",
        f"Bearer perslm_{key.id}",
        f"Bearer perslm_{other.split('_', 2)[1]}_{secret}",
        f"Bearer perslm_000000000000_{secret}",
        f"Bearer perslm_{key.id}_{key.sha256}",
        f"Bearer {revoked}",
        f"Bearer {late}",
        f"Bearer {'x' * 9000}",
        "Bearer \ud800",
        signed(SECRET, "HS256"),
    ):
        refused(authenticator, bad)
    assert authenticator.authenticate(f"Bearer {token}").name == "key:frontend"


def test_a_key_that_was_used_expires_too(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, key = keyfile.create(keys, "frontend", ["score"], lifetime=60)
    authenticator = Authenticator(Settings(keys=str(keys)))
    authenticator.authenticate(f"Bearer {token}")
    assert key.expires == key.created + 60
    monkeypatch.setattr(time, "time", lambda: float(key.created + 60))
    refused(authenticator, f"Bearer {token}")


def test_a_changed_file_counts(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = keyfile.create(keys, "first", ["score"])
    authenticator = Authenticator(Settings(keys=str(keys)), look_seconds=0)
    authenticator.authenticate(f"Bearer {first}")
    second, _ = keyfile.create(keys, "second", ["score"])
    authenticator.authenticate(f"Bearer {second}")
    keyfile.revoke(keys, "first")
    refused(authenticator, f"Bearer {first}")
    good = keys.read_bytes()
    for bad in (b"", b"{", good.replace(b'"keys"', b'"keyz"')):
        keys.write_bytes(bad)
        with caplog.at_level(logging.ERROR):
            authenticator.authenticate(f"Bearer {second}")
        assert "last good keys" in caplog.messages.pop()
        caplog.clear()
    keys.unlink()
    authenticator.authenticate(f"Bearer {second}")
    keys.write_bytes(good)
    keyfile.revoke(keys, "second")
    refused(authenticator, f"Bearer {second}")


def test_many_credentials_are_not_all_remembered(
    hs256: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_REMEMBERED", 10)
    authenticator = Authenticator(hs256)
    tokens = [signed(SECRET, "HS256", user=str(number)) for number in range(50)]
    for _ in range(2):
        found = [authenticator.authenticate(token).user for token in tokens]
        assert found == [str(number) for number in range(50)]
    assert len(authenticator._known.remembered) == 10


def test_keys_made_at_once_are_all_there(keys: Path) -> None:
    threads = [
        threading.Thread(target=keyfile.create, args=(keys, f"key{number}", ["score"]))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keyfile.read(keys)) == 16


def test_the_mode_that_an_operator_gave_stays(keys: Path) -> None:
    keyfile.create(keys, "first", ["score"])
    keys.chmod(0o640)
    keyfile.create(keys, "second", ["score"])
    assert keys.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "with space"},
        {"scopes": []},
        {"scopes": ["score", "everything"]},
        {"tenant": "a:b"},
        {"tenant": ""},
    ],
)
def test_keys_that_make_no_sense(keys: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        keyfile.create(keys, **{"name": "frontend", "scopes": ["score"], **wrong})
    assert not keys.exists()


def test_names_are_not_used_twice_nor_revoked_twice(keys: Path) -> None:
    _, key = keyfile.create(keys, "frontend", ["score"])
    with pytest.raises(ArgumentError, match="revoke"):
        keyfile.create(keys, "frontend", ["score"])
    keyfile.revoke(keys, key.id)
    with pytest.raises(ArgumentError, match="keys list"):
        keyfile.revoke(keys, key.id)


def test_files_that_are_none(keys: Path) -> None:
    _, key = keyfile.create(keys, "frontend", ["score"])
    good = json.loads(keys.read_text())
    entry = good["keys"][0]
    for bad in (
        [],
        {},
        {**good, "version": 2},
        {**good, "keys": {}},
        {**good, "keys": [None]},
        {**good, "keys": [entry, entry]},
        *(
            {**good, "keys": [{**entry, **change}]}
            for change in (
                {"more": 1},
                {"scopes": "score"},
                {"scopes": []},
                {"sha256": "ab"},
                {"sha256": None},
                {"user": 3},
                {"expires": "never"},
                {"tenant": "a:b"},
                {"id": "short"},
            )
        ),
        {**good, "keys": [{name: entry[name] for name in entry if name != "expires"}]},
    ):
        keys.write_text(json.dumps(bad))
        with pytest.raises(ArgumentError) as caught:
            Authenticator(Settings(keys=str(keys)))
        assert key.sha256 not in str(caught.value)
    keys.write_bytes(b"\xff[")
    with pytest.raises(ArgumentError):
        Authenticator(Settings(keys=str(keys)))
    with pytest.raises(OSError, match=r"none\.json"):
        Authenticator(Settings(keys=str(keys.with_name("none.json"))))


# Tokens


def test_a_token_is_its_principal(hs256: Settings) -> None:
    authenticator = Authenticator(hs256)
    found = authenticator.authenticate(signed(SECRET, "HS256"))
    assert found == Principal("default", frozenset({"score", "forget"}), None, "jwt")
    token = signed(SECRET, "HS256", scope=["admin", "others:too"], tenant="acme", user="ann")
    found = authenticator.authenticate(token)
    assert found == Principal("acme", frozenset({"admin"}), "ann", "jwt")
    assert authenticator.authenticate(signed(SECRET, "HS256", scope="")).scopes == frozenset()


def test_a_subject_limits_only_where_that_is_set_and_is_never_a_name(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    token = signed(SECRET, "HS256", sub="ann@example.com")
    for setting, user in (("user", None), ("sub", "ann@example.com")):
        settings = Settings(jwt_secret=str(path), jwt_user_claim=setting)
        found = Authenticator(settings).authenticate(token)
        assert found.user == user
        assert found.name.startswith("jwt:")
        assert "ann" not in found.name


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256")])
def test_public_keys_in_both_kinds_of_files(tmp_path: Path, key: Any, algorithm: str) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for content, headers in (
        (public_pem(key), None),
        (public_pem(key), {"kid": "any"}),
        (json.dumps({"keys": [jwk(key)]}).encode(), None),
        (json.dumps({"keys": [jwk(key, kid="a", alg=algorithm, use="sig")]}).encode(), None),
        (json.dumps({"keys": [jwk(key, kid="a"), jwk(other, kid="b")]}).encode(), {"kid": "a"}),
    ):
        authenticator = Authenticator(files(tmp_path, content))
        assert authenticator.authenticate(signed(key, algorithm, headers)).name == "jwt"
        refused(authenticator, signed(other, "RS256", headers))


def test_a_set_chooses_by_id(tmp_path: Path) -> None:
    content = {
        "keys": [
            jwk(RSA, kid="a"),
            jwk(EC, kid="b"),
            jwk(RSA, kid="encrypts", use="enc"),
            jwk(RSA, kid="other", alg="RS512"),
            {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
            {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "edwards"},
        ]
    }
    authenticator = Authenticator(files(tmp_path, json.dumps(content).encode()))
    assert authenticator.authenticate(signed(EC, "ES256", {"kid": "b"})).name == "jwt"
    for bad in (
        signed(RSA, "RS256"),
        signed(RSA, "RS256", {"kid": "b"}),
        signed(RSA, "RS256", {"kid": "encrypts"}),
        signed(RSA, "RS256", {"kid": "other"}),
        signed(RSA, "RS512", {"kid": "a"}),
        signed(b"secret" * 8, "HS256", {"kid": "secret"}),
    ):
        refused(authenticator, bad)


def forged(key: bytes, algorithm: str) -> str:
    """A token whose HMAC key is a public key, which PyJWT would not sign."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    message = part(header) + b"." + part(json.dumps(claims()).encode())
    signature = hmac.new(key, message, hashlib.sha256).digest()
    return f"Bearer {(message + b'.' + part(signature)).decode()}"


def test_algorithms_cannot_be_confused(tmp_path: Path, hs256: Settings) -> None:
    secret = Authenticator(hs256)
    assert secret.authenticate(forged(SECRET.encode(), "HS256")).name == "jwt"  # it does forge
    nothing = "Bearer " + jwt.encode(claims(), None, algorithm="none")
    for key in (RSA, EC):
        pem = public_pem(key)
        for content in (pem, json.dumps({"keys": [jwk(key)]}).encode()):
            public = Authenticator(files(tmp_path, content))
            for token in (
                nothing,
                nothing.replace("Bearer", "bearer"),
                *(forged(bits, "HS256") for bits in (pem, pem.strip(), content, b"")),
                *(forged(pem, name) for name in ("RS256", "ES256", "none", "None", "")),
                signed(SECRET, "HS256"),
                signed(SECRET, "HS512"),
            ):
                refused(public, token)
    for token in (
        nothing,
        nothing + "AAAA",
        signed(SECRET, "HS512"),
        signed(SECRET, "HS384"),
        signed(RSA, "RS256"),
        forged(b"", "HS256"),
        forged(b"None", "HS256"),
    ):
        refused(secret, token)


def test_times_are_kept_to_with_a_leeway(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    now = time.time()
    exact = Authenticator(Settings(jwt_secret=str(path), jwt_leeway_seconds=0))
    lenient = Authenticator(Settings(jwt_secret=str(path), jwt_leeway_seconds=30))
    for wrong in ({"exp": now - 10}, {"nbf": now + 20}, {"iat": now + 20}):
        token = signed(SECRET, "HS256", **wrong)
        refused(exact, token)
        assert lenient.authenticate(token).name == "jwt"
    refused(lenient, signed(SECRET, "HS256", exp=now - 60))
    refused(lenient, signed(SECRET, "HS256", nbf=now + 60))
    refused(lenient, "Bearer " + jwt.encode({"scope": "score"}, SECRET, algorithm="HS256"))


def test_a_token_that_was_used_expires_too(
    hs256: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator(hs256)
    now = time.time()
    token = signed(SECRET, "HS256", exp=int(now) + 60)
    authenticator.authenticate(token)
    monkeypatch.setattr(time, "time", lambda: now + 89)
    authenticator.authenticate(token)
    monkeypatch.setattr(time, "time", lambda: now + 91)
    refused(authenticator, token)


def test_audience_and_issuer(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    names = {"jwt_audience": "perslm", "jwt_issuer": "https://login.example"}
    strict = Authenticator(Settings(jwt_secret=str(path), **names))
    good = {"aud": ["other", "perslm"], "iss": "https://login.example"}
    assert strict.authenticate(signed(SECRET, "HS256", **good)).name == "jwt"
    for wrong in (
        {},
        {"aud": "perslm"},
        {"iss": good["iss"]},
        {**good, "aud": "other"},
        {**good, "aud": []},
        {**good, "iss": "https://login.example.net"},
        {**good, "iss": 3},
        {**good, "iss": ["https://login.example"]},
    ):
        refused(strict, signed(SECRET, "HS256", **wrong))
    refused(Authenticator(Settings(jwt_secret=str(path))), signed(SECRET, "HS256", aud="other"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": 3},
        {"scope": [3]},
        {"scope": None},
        {"tenant": "a:b"},
        {"tenant": ""},
        {"tenant": None},
        {"tenant": 3},
        {"user": ""},
        {"user": 3},
        {"user": ["ann"]},
        {"exp": "soon"},
        {"exp": 1e400},
        {"exp": None},
        {"nbf": []},
        {"sub": 3},
    ],
)
def test_claims_of_the_wrong_kind(hs256: Settings, wrong: dict[str, Any]) -> None:
    refused(Authenticator(hs256), signed(SECRET, "HS256", **wrong))


def test_what_is_critical_and_unknown_is_refused(hs256: Settings) -> None:
    headers = {"crit": ["exp"], "exp": 1}
    refused(Authenticator(hs256), signed(SECRET, "HS256", headers))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_CLAIMS = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "scope", "tenant", "user"]),
    _JSON,
)


@fuzzing(max_examples=300, deadline=None)
@given(content=st.binary() | _CLAIMS.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_signed_is_known_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "secret"
    path.write_text(SECRET)
    authenticator = Authenticator(Settings(jwt_secret=str(path)))
    try:
        token = jwt.PyJWS().encode(content, SECRET, algorithm="HS256")
        authenticator.authenticate(f"Bearer {token}")
    except AuthenticationError:
        pass


@fuzzing(max_examples=300, deadline=None)
@given(text=st.text() | st.from_regex(r"Bearer [A-Za-z0-9_=-]*(\.[A-Za-z0-9_=-]*){0,4}"))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "secret"
    path.write_text(SECRET)
    refused(Authenticator(Settings(jwt_secret=str(path))), text)


def test_key_files_of_tokens_that_are_none(tmp_path: Path) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    curve = ec.generate_private_key(ec.SECP384R1())
    for content in (
        b"",
        b"{}",
        b'{"keys": []}',
        b'{"keys": 3}',
        b'{"keys": [3]}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        b'{"keys": [{"kty": "RSA", "n": "", "e": ""}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        SECRET.encode(),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        public_pem(small),
        public_pem(curve),
        private_pem(EC),
        json.dumps({"keys": [jwk(small), jwk(curve)]}).encode(),
    ):
        with pytest.raises(ArgumentError, match="public key"):
            Authenticator(files(tmp_path, content))
    secret = tmp_path / "secret"
    for content in (b"short", b" " * 40, public_pem(RSA), private_pem(EC)):
        secret.write_bytes(content)
        with pytest.raises(ArgumentError, match="openssl rand"):
            Authenticator(Settings(jwt_secret=str(secret)))


def test_new_keys_of_the_issuer_count(tmp_path: Path) -> None:
    settings = files(tmp_path, public_pem(RSA))
    authenticator = Authenticator(settings, look_seconds=0)
    authenticator.authenticate(signed(RSA, "RS256"))
    files(tmp_path, public_pem(EC))
    authenticator.authenticate(signed(EC, "ES256"))
    refused(authenticator, signed(RSA, "RS256"))


# What a principal may do


def test_scopes_and_users() -> None:
    anybody = Principal("default", frozenset({"score"}), None, "key:a")
    anybody.require("score")
    anybody.require("score", "ann")
    ann = Principal("default", frozenset({"score", "admin"}), "ann", "key:b")
    ann.require("score", "ann")
    for principal, scope, user in (
        (anybody, "forget", None),
        (anybody, "forget", "ann"),
        (ann, "score", "bob"),
        (ann, "score", None),
        (ann, "admin", None),
        (ann, "forget", "ann"),
    ):
        with pytest.raises(ForbiddenError) as caught:
            principal.require(scope, user)
        assert (str(caught.value), caught.value.code) == (str(ForbiddenError()), "forbidden")
