"""Audit records: who exported, taught, deleted or administered what, without naming users.

A record is one line of JSON through the logger ``perslm.audit``::

    {"time": "2026-01-31T02:03:04.567+00:00", "action": "forget", "outcome": "ok",
     "tenant": "default", "principal": "key:ops", "user": "5f2b…", "request_id": "9c1e…"}

``action`` is ``export`` (a model was asked for), ``learn`` (a message was sent to be learned),
``forget`` or ``admin``; ``outcome`` is ``ok``, ``nothing`` (there was no model), ``forbidden`` or
``failed``. ``user`` is a *pseudonym*, a
keyed hash of tenant and user id: the records of one user can be put together, and whoever has the
key can find those of a known id, but nobody gets an id out of them. The key is the setting
``audit_key``; without it each process makes its own, and pseudonyms do not outlive it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import logging.handlers
import secrets
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from perslm.errors import ArgumentError, NoModelError
from service.core import RequestError
from service.settings import Settings

if TYPE_CHECKING:
    from service.auth import Principal

_KEY_BYTES: Final = 32
_PSEUDONYM_DIGITS: Final = 32
_PROCESS_KEY: Final = secrets.token_bytes(_KEY_BYTES)

_log = logging.getLogger("perslm.audit")


class Pseudonyms:
    """Makes names for users that say nothing of them.

    Raises ArgumentError for a key that is too short, OSError if its file cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._key = _PROCESS_KEY
        if settings.audit_key is not None:
            self._key = Path(settings.audit_key).read_bytes().strip()
            if len(self._key) < _KEY_BYTES:
                raise ArgumentError(
                    f"the file audit_key must hold at least {_KEY_BYTES} bytes, such as "
                    "openssl rand -base64 48 makes"
                )

    def of(self, tenant: str, user: str) -> str:
        """Return the pseudonym of a tenant's user, 32 hex digits."""
        name = f"{tenant}\0{user}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, name, hashlib.sha256).hexdigest()[:_PSEUDONYM_DIGITS]


class Audit:
    """Writes the records."""

    def __init__(self, settings: Settings) -> None:
        self._pseudonyms = Pseudonyms(settings)

    @contextmanager
    def recorded(
        self,
        action: Literal["export", "learn", "forget", "admin"],
        principal: Principal,
        user: str | None = None,
    ) -> Iterator[str]:
        """Write how what is done inside ends; yield the id that the record will have.

        That is for the answer, so that caller and record can be brought together.
        """
        request_id = uuid.uuid4().hex
        outcome = "failed"
        try:
            yield request_id
            outcome = "ok"
        except NoModelError:
            outcome = "nothing"
            raise
        except RequestError as error:
            outcome = "forbidden" if error.code == "forbidden" else "failed"
            raise
        finally:
            fields = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "action": action,
                "outcome": outcome,
                "tenant": principal.tenant,
                "principal": principal.name,
                "user": None if user is None else self._pseudonyms.of(principal.tenant, user),
                "request_id": request_id,
            }
            _log.info("%s", json.dumps(fields))


def configure(settings: Settings) -> None:
    """Send the records to the file ``audit_log``, or else to standard error.

    A file that is moved away, as log rotation does, is made anew. Whoever embeds the service and
    has handlers of their own on the logger keeps them. Raises OSError if the file cannot be made.
    """
    if _log.handlers:
        return
    if settings.audit_log is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.WatchedFileHandler(settings.audit_log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
