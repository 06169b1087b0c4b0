"""Log lines of the service: what they look like, and the one for a refused request.

With the setting ``log_format`` ``json`` each line is an object::

    {"time": "2026-01-31T02:03:04.567+00:00", "level": "INFO", "logger": "service.logs",
     "message": "refused", "request_id": "9c1e…", "transport": "http", "route": "score",
     "code": "invalid_request"}

Requests that are answered leave no line, and one that failed, which is a bug, has one with the
place. Audit records are others' (``service.audit``). Of an exception only type and place are
written, for its text could hold what a user wrote.

Callers must not be able to fill a disk, or to keep a process busy with writing: of lines of one
kind (:class:`Limited`) some are written in a second, and one that says how many were left out.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TypeAlias

from service.metrics import OTHER, REASONS, ROUTES, Watch
from service.settings import Settings

_FIELDS: Final[tuple[str, ...]] = ("request_id", "transport", "route", "code")
_SERVER: Final = "uvicorn"
_LOGGERS: Final = ("service", _SERVER)

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_log = logging.getLogger(__name__)


class Limited:
    """Lets ``most`` lines of a kind through in a second, and tells of those that it did not.

    ``summarize(kind, number)`` is called, by a thread, a second after the first was left out; till
    then all are. Thread-safe.
    """

    def __init__(
        self, summarize: Callable[[str, int], None], *, most: int = 10, seconds: float = 1.0
    ) -> None:
        self._summarize = summarize
        self._most = most
        self._seconds = seconds
        self._mutex = threading.Lock()  # over what follows, by kind
        self._numbers: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def lets(self, kind: str) -> bool:
        """Tell whether a line of this kind, of which there are but a few, may be written."""
        now = time.monotonic()
        with self._mutex:
            if now >= self._until.get(kind, -math.inf):
                self._until[kind] = now + self._seconds
                self._numbers[kind] = 0
            self._numbers[kind] += 1
            number = self._numbers[kind]
            if number == self._most + 1:
                self._until[kind] = math.inf
                timer = threading.Timer(self._seconds, self._end, (kind,))
                timer.daemon = True
                timer.start()
        return number <= self._most

    def flush(self) -> None:
        """Tell now of what was left out."""
        for kind in list(self._numbers):
            self._end(kind)

    def _end(self, kind: str) -> None:
        with self._mutex:
            left_out = self._numbers[kind] - self._most
            self._until[kind], self._numbers[kind] = -math.inf, 0
        if left_out > 0:
            self._summarize(kind, left_out)


def log_refusal(watch: Watch) -> None:
    """Write a line about a request that ``watch`` says was refused; of others write none."""
    if watch.status != "refused":
        return
    code = watch.reason if watch.reason in REASONS else OTHER
    if not _refusals.lets(code):
        return
    route = watch.route if watch.route in ROUTES else OTHER
    values = (watch.request_id, watch.transport, route, code)
    _log.info("refused", extra=dict(zip(_FIELDS, values, strict=True)))


def _log_left_out(code: str, number: int) -> None:
    _log.info("%d more refused", number, extra={"code": code})


_refusals: Final = Limited(_log_left_out)


def log_failure(request_id: str, error: Exception) -> None:
    """Write a line about an exception that nobody foresaw: its type and its place."""
    trace = error.__traceback__
    place = _exception((type(error), error, trace))
    if _failures.lets(place):
        extra = {"request_id": request_id}
        _log.error("request %s failed: %s", request_id, place, extra=extra)


def _log_more_failures(place: str, number: int) -> None:
    _log.error("%d more failed: %s", number, place)


_failures: Final = Limited(_log_more_failures)


def _log_more_of_server(line: str, number: int) -> None:
    _log.warning("%d more: %s", number, line)


_of_server: Final = Limited(_log_more_of_server)


def _is_let(record: logging.LogRecord) -> bool:
    """Tell whether a line of the HTTP server may be written: callers can provoke those, too."""
    return _of_server.lets(str(record.msg))  # before anything is put in


def flush() -> None:
    """Write what is left to say, at the end of a process."""
    for limited in (_refusals, _failures, _of_server):
        limited.flush()


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
        if name == _SERVER:
            handler.addFilter(_is_let)
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
