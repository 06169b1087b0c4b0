"""Refusing HTTP requests for less than they would cost: before they are requests.

When more arrives than can be answered, what is refused takes time from what is accepted. A refusal
by ``service.http`` costs two thirds of an answer, for the server has then read the request, made a
task of it, and written two parts of a response. The protocol here, uvicorn's with a question at the
end of each request's head, writes a response made in advance, for a fifth.

Only requests of ``App.hot`` are refused so, by a ``gate.Turn``, and only where no other
request of the same connection is being answered. They are counted as all others; in the log there
is one line a second for all of them, and so they have no id.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.core import ScoringService
from service.gate import OverloadedError
from service.http import SCORE_PATH, refusal_parts
from service.problems import problem_of

_LINE_SECONDS: Final = 1.0

_LAST: Final = (b"connection", b"close")  # what a server adds that ends

_log = logging.getLogger(__name__)


class _Shed:
    """Counts what is refused, and tells of it."""

    def __init__(self, service: ScoringService) -> None:
        self._metrics = service.metrics
        self._since = 0
        self._next_line = 0.0
        self._head, self._rest = refusal_parts(problem_of(OverloadedError()))
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._response = b""

    def response(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the refusal with more headers, which stay the same for a second."""
        if headers is not self._headers:
            lines = [b"%b: %b\r\n" % header for header in headers]
            self._headers, self._response = headers, b"".join((self._head, *lines, self._rest))
        return self._response

    def count(self) -> None:
        watch = self._metrics.watch("http", "score")
        watch.status, watch.reason = "refused", "overloaded"
        watch.end()
        self._since += 1
        now = time.monotonic()
        if now >= self._next_line:
            _log.warning("overloaded: %d refused since the last such line", self._since)
            self._since, self._next_line = 0, now + _LINE_SECONDS


def protocol(service: ScoringService) -> type[HttpToolsProtocol]:
    """Return the protocol for a server of ``service``, which uvicorn's ``http`` setting takes."""
    shed = _Shed(service)
    turn = service.turns["http"]
    path = SCORE_PATH.encode()

    class Shedding(HttpToolsProtocol):
        _refused = False

        def on_headers_complete(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if self.url == path and idle and self.parser.get_method() == b"POST":
                self._refused = not turn.admit()
                if self._refused:
                    return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self._refused:
                super().on_message_complete()
                return
            self._refused = False
            shed.count()
            headers = self.server_state.default_headers
            self.transport.write(shed.response(headers))
            if self.parser.should_keep_alive() and _LAST not in headers:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            else:
                self.transport.close()

    return Shedding
