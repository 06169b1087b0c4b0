"""JSON Web Tokens: signatures and claims, checked with PyJWT; a principal is ``service.auth``'s.

The algorithm of a token is that of the key which the operator gave, never the one that the token
names; so ``none``, and a public key taken for a secret, have no way in. HS256 needs a file with the
shared secret, RS256 and ES256 a file with a PEM public key or a JWK set, of which keys of other
kinds are left out. A token must have ``exp``; ``nbf``, ``iat`` and, when set, ``aud`` and ``iss``
are checked with a leeway for clocks that differ. A token for an audience is refused where none is
set: it was not meant for this service.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from perslm.errors import ArgumentError
from service.settings import Settings

_SECRET_BYTES: Final = 32
_RSA_BITS: Final = 2048
_PEM: Final = b"-----BEGIN "

_PublicKey = RSAPublicKey | EllipticCurvePublicKey


class BadTokenError(Exception):
    """A token is not to be trusted; never tells why."""


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: str
    key: bytes | _PublicKey


class Verifier:
    """Checks tokens with the keys that the files named in ``settings`` have now.

    Raises ArgumentError if a file has no key that can be used, OSError if it cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._leeway = settings.jwt_leeway_seconds
        self._by_id: dict[str, _Key] = {}
        self._only: _Key | None = None  # for tokens that name no key
        if settings.jwt_secret is not None:
            self._only = _Key("HS256", _secret(Path(settings.jwt_secret)))
        elif settings.jwt_keys is not None:
            self._read(Path(settings.jwt_keys))

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token; raises BadTokenError unless all of it is in order."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header)
            if key is None or "crit" in header:
                raise BadTokenError
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["exp"]},
            )
        except (
            jwt.PyJWTError,
            ValueError,  # what the rest is: JSON that the library did not expect
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            raise BadTokenError from None
        return claims

    def valid_until(self, claims: dict[str, Any]) -> float:
        """Return the POSIX time after which ``claims`` are worth nothing."""
        return int(claims["exp"]) + self._leeway

    def _key(self, header: dict[str, Any]) -> _Key | None:
        name = header.get("kid")
        if name is None or not self._by_id:  # a single key may have any name at the issuer's
            return self._only
        return self._by_id.get(name) if isinstance(name, str) else None

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        if data.lstrip().startswith(_PEM):
            try:
                self._only = _public(load_pem_public_key(data))
            except (ValueError, UnsupportedAlgorithm) as error:
                raise _unusable(path) from error
            if self._only is None:
                raise _unusable(path)
            return
        try:
            entries = json.loads(data)["keys"]
            found = [(entry.get("kid"), _of_set(entry)) for entry in entries]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _unusable(path) from None
        usable = [(name, key) for name, key in found if key is not None]
        self._by_id = {name: key for name, key in usable if isinstance(name, str)}
        if len(usable) == 1:
            self._only = usable[0][1]
        if not self._by_id and self._only is None:
            raise _unusable(path)


def _secret(path: Path) -> bytes:
    secret = path.read_bytes().strip()
    if len(secret) < _SECRET_BYTES or _PEM in secret:
        raise ArgumentError(
            f"{path} must hold a secret of at least {_SECRET_BYTES} bytes, such as "
            "openssl rand -base64 48 makes; public keys go to jwt_keys (PERSLM_JWT_KEYS)"
        )
    return secret


def _of_set(entry: dict[str, Any]) -> _Key | None:
    """Return the key that an entry of a JWK set is, None if it is not for us to use."""
    if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC"):
        return None
    try:
        public = jwt.PyJWK({**entry, "alg": "RS256" if entry["kty"] == "RSA" else "ES256"}).key
    except (jwt.PyJWTError, ValueError):
        return None
    key = _public(public)
    return key if key is not None and entry.get("alg", key.algorithm) == key.algorithm else None


def _public(key: object) -> _Key | None:
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS:
        return _Key("RS256", key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return _Key("ES256", key)
    return None


def _unusable(path: Path) -> ArgumentError:
    return ArgumentError(
        f"{path} must hold a PEM public key or a JWK set with public keys: RSA of at least "
        f"{_RSA_BITS} bits for RS256, P-256 for ES256"
    )
