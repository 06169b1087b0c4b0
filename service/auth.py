"""Who is calling, and what may they do: for every transport, knowing none of them.

A transport hands the ``Authorization`` value of a request to an :class:`Authenticator`, which
returns a :class:`Principal` or raises, and asks the principal to be allowed what the request wants
before anything is done. A credential is ``Bearer`` and an API key (``service.keyfile``) or a JSON
Web Token (``service.tokens``).

Without files of keys or secrets in the settings everybody is :data:`ANYONE`; where that is safe to
listen is decided by ``service.settings``.

**What is told.** One text for whatever is wrong with a credential, another for whatever it does not
allow: neither says which part was wrong, and nothing of a credential is logged.

**Files may change** while the service runs. They are looked at once a second; a file that cannot be
read or makes no sense leaves the last good keys in force, and an error in the log.

**Speed.** A credential that was checked is remembered by its keyed digest until it expires or a
file changes, so that a beam step pays for one digest and not for a signature.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perslm.errors import ArgumentError
from perslm.store import DEFAULT_TENANT, check_tenant
from service import keyfile
from service.audit import Pseudonyms
from service.core import RequestError
from service.keyfile import SCOPES, Key
from service.settings import Settings
from service.tokens import BadTokenError, Verifier

CHALLENGE: Final = 'Bearer realm="perslm"'
"""The value of WWW-Authenticate that goes with an AuthenticationError."""

_LOOK_SECONDS: Final = 1.0
_REMEMBERED: Final = 16384  # less than 1 KiB each
_LONGEST_TOKEN: Final = 8192

_log = logging.getLogger(__name__)
_DIGEST_KEY: Final = secrets.token_bytes(32)


class AuthenticationError(RequestError):
    """The caller showed no credential, or none that is valid."""

    def __init__(self) -> None:
        super().__init__(
            "unauthenticated",
            "send a valid API key or token as Authorization: Bearer …; perslm keys create makes "
            "keys",
        )


class ForbiddenError(RequestError):
    """The caller is known, and may not do this."""

    def __init__(self) -> None:
        super().__init__("forbidden", "this credential does not allow that: ask for one that does")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: a tenant, what is allowed in it, and to which user it is limited if to one.

    ``name`` is for audit records; it is never a user's id.
    """

    tenant: str
    scopes: frozenset[str]
    user: str | None
    name: str

    def require(self, scope: str, user: str | None = None) -> None:
        """Return if ``scope`` is allowed, for ``user`` if the request is about one.

        Who is limited to one user may do nothing that is not about that user. Raises
        ForbiddenError.
        """
        if scope not in self.scopes or (self.user is not None and self.user != user):
            raise ForbiddenError


ANYONE: Final = Principal(DEFAULT_TENANT, frozenset(SCOPES), None, "anyone")
"""Who everybody is where nothing authenticates."""


class Authenticator:
    """Turns credentials into principals, as the settings say. Thread-safe.

    ``look_seconds`` is how often the files are looked at. Raises ArgumentError for a file that
    cannot be used, OSError for one that cannot be read.
    """

    def __init__(self, settings: Settings, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self._settings = settings
        self._pseudonyms = Pseudonyms(settings)
        names = (settings.keys, settings.jwt_secret, settings.jwt_keys)
        self._files = [Path(name) for name in names if name is not None]
        self._open = not self._files
        self._look_seconds = look_seconds
        self._mutex = threading.Lock()
        self._seen = self._marks()
        self._known = self._read()
        self._next_look = time.monotonic() + look_seconds

    def authenticate(self, authorization: str | None) -> Principal:
        """Return who sent ``authorization``; raises AuthenticationError."""
        if self._open:
            return ANYONE
        if time.monotonic() >= self._next_look:
            self._look()
        if not authorization or len(authorization) > _LONGEST_TOKEN:
            raise AuthenticationError
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" and scheme.lower() != "bearer":
            raise AuthenticationError
        known = self._known  # with what it remembers, whatever is read meanwhile
        raw = token.encode("utf-8", "replace")
        digest = hashlib.blake2b(raw, digest_size=32, key=_DIGEST_KEY).digest()
        found = known.remembered.get(digest)
        if found is None:
            found = self._check(known, token.strip())
            with self._mutex:
                if len(known.remembered) >= _REMEMBERED:
                    del known.remembered[next(iter(known.remembered))]  # the oldest
                known.remembered[digest] = found
        principal, valid_until = found
        if time.time() >= valid_until:
            raise AuthenticationError
        return principal

    def _check(self, known: _Known, token: str) -> tuple[Principal, float]:
        if token.startswith(keyfile.PREFIX):
            key = keyfile.find(known.keys, token)
            if key is None:
                raise AuthenticationError
            principal = Principal(key.tenant, frozenset(key.scopes), key.user, f"key:{key.name}")
            return principal, math.inf if key.expires is None else key.expires
        if known.verifier is None:
            raise AuthenticationError
        try:
            claims = known.verifier.claims(token)
            return self._claimed(claims), known.verifier.valid_until(claims)
        except (BadTokenError, ArgumentError):
            raise AuthenticationError from None

    def _claimed(self, claims: dict[str, Any]) -> Principal:
        """Return the principal of a token's claims; scopes that we do not know are others'."""
        scope = claims.get("scope", "")
        words = scope.split() if isinstance(scope, str) else scope
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise BadTokenError
        tenant = claims.get("tenant", DEFAULT_TENANT)
        if not isinstance(tenant, str):
            raise BadTokenError
        check_tenant(tenant)
        user = claims.get(self._settings.jwt_user_claim)
        if user is not None and (not isinstance(user, str) or not user):
            raise BadTokenError
        # A subject can be a user: only its digest may get into a record.
        subject = claims.get("sub")
        name = f"jwt:{self._pseudonyms.of(tenant, subject)}" if subject else "jwt"
        return Principal(tenant, frozenset(SCOPES).intersection(words), user, name)

    def _look(self) -> None:
        """Read the files again if one changed."""
        with self._mutex:
            self._next_look = time.monotonic() + self._look_seconds
            marks = self._marks()
            if marks == self._seen:
                return
            self._seen = marks
            try:
                self._known = self._read()
            except (ArgumentError, OSError) as error:
                _log.error(
                    "a changed file of keys cannot be used (%s): the last good keys stay in force",
                    type(error).__name__,
                )

    def _read(self) -> _Known:
        settings = self._settings
        keys = [] if settings.keys is None else keyfile.read(Path(settings.keys))
        tokens = settings.jwt_secret is not None or settings.jwt_keys is not None
        return _Known({key.id: key for key in keys}, Verifier(settings) if tokens else None)

    def _marks(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._files]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the files said, and which credentials were found valid by that."""

    keys: dict[str, Key]
    verifier: Verifier | None
    remembered: dict[bytes, tuple[Principal, float]] = field(default_factory=dict)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
