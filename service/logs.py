"""Log lines of the service: what they look like, and the one for a refused request.

With the setting ``log_format`` ``json`` each line is an object::

    {"time": "2026-01-31T02:03:04.567+00:00", "level": "INFO", "logger": "service.logs",
     "message": "refused", "request_id": "9c1e…", "transport": "http", "route": "score",
     "code": "invalid_request"}

Requests that are answered leave no line. Errors that nobody foresaw are logged by
``service.problems``; audit records are others' (``service.audit``). Of an exception only type and
place are written, for its text could hold what a user wrote.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TypeAlias

from service.metrics import OTHER, REASONS, ROUTES, Watch
from service.settings import Settings

_FIELDS: Final[tuple[str, ...]] = ("request_id", "transport", "route", "code")
_LOGGERS: Final = ("service", "uvicorn")

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_log = logging.getLogger(__name__)


def log_refusal(watch: Watch) -> None:
    """Write a line about a request that ``watch`` says was refused; of others write none."""
    if watch.status != "refused":
        return
    values = (
        watch.request_id,
        watch.transport,
        watch.route if watch.route in ROUTES else OTHER,
        watch.reason if watch.reason in REASONS else OTHER,
    )
    _log.info("refused", extra=dict(zip(_FIELDS, values, strict=True)))


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        parts = [_time(record), record.levelname, f"{record.name}:", record.getMessage()]
        parts += (f"{name}={value}" for name, value in _fields(record).items())
        return " ".join(parts).replace("\n", " ")


class JsonFormatter(logging.Formatter):
    """Lines for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(fields | _fields(record))


def formatter(settings: Settings) -> logging.Formatter:
    """Return what makes the lines that ``log_format`` asks for."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


def configure(settings: Settings) -> None:
    """Send the lines of the service and of its HTTP server to standard error.

    Whoever embeds the service and has handlers of their own on these loggers keeps them.
    """
    for name, level in zip(_LOGGERS, (logging.INFO, logging.WARNING), strict=True):
        logger = logging.getLogger(name)
        if logger.handlers:
            continue
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter(settings))
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, str]:
    fields: dict[str, str] = {
        name: str(record.__dict__[name]) for name in _FIELDS if name in record.__dict__
    }
    if record.exc_info:
        fields["exception"] = _exception(record.exc_info)
    return fields


def _exception(found: _ExcInfo) -> str:
    kind, _, trace = found
    place = traceback.extract_tb(trace)[-1:] if trace is not None else []
    name = "none" if kind is None else kind.__name__
    return name + "".join(f" in {frame.filename}, line {frame.lineno}" for frame in place)
