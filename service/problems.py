"""What went wrong, in the words that every transport uses.

A :class:`Problem` is all that leaves the service of an exception: a code for programs, which stays
the same, and a fixed text for people, neither with anything of the request in it. Which HTTP or
gRPC status goes with a code is the transport's business.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from perslm.errors import (
    BlobError,
    MissingExtraError,
    NoModelError,
    RulesError,
    StoreError,
    TooManyPendingError,
    VocabularyError,
)
from service.core import RequestError
from service.gate import OverloadedError
from service.logs import log_failure


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal or failure; ``request_id`` is in the log if nobody foresaw it."""

    code: str
    message: str
    request_id: str | None = None


def problem_of(error: Exception) -> Problem:
    """Return what an exception of the service is to those outside.

    One that nobody foresaw becomes a fixed text and a request id; the log has the id, the type and
    the place of the exception, not its text, which could hold what a user wrote.
    """
    if isinstance(error, RequestError):
        return Problem(error.code, str(error))
    if isinstance(error, OverloadedError):
        return Problem("overloaded", str(error))
    if isinstance(error, NoModelError):
        return Problem("unknown_user", "the user has no published model")
    if isinstance(error, MissingExtraError):
        return Problem("learning_unavailable", f"this service cannot learn messages: {error}")
    if isinstance(error, VocabularyError):
        return Problem("no_vocabulary", str(error))
    if isinstance(error, TooManyPendingError):
        return Problem("too_many_pending", str(error))
    if isinstance(error, BlobError | RulesError):
        return Problem(
            "bad_blob", "the published model cannot be read: build the user again, or roll back"
        )
    if isinstance(error, StoreError):
        return Problem(
            "store_unavailable",
            "the store of models does not answer or refuses: scoring goes on with the models in "
            "memory; whoever runs this service finds the cause with perslm users --store URL",
        )
    request_id = uuid.uuid4().hex
    log_failure(request_id, error)
    message = "an internal error: report the request id to who runs this service"
    return Problem("internal", message, request_id)
