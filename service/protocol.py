"""What needs no ASGI: steps of a beam search that are answered as they are read, and refusals.

To make a task and a scope of a request and to write the two parts of its response takes a server
longer than the scores of a step. The protocol here, uvicorn's with a question at the end of each
request's head, does without where it can:

* A request to ``SCORE_PATH`` that is there as a whole, plain (``perslm.wire.plain_query``), allowed
  and about a user whose model is in memory is answered on the spot, with one write. All others,
  and everything that is wrong, go to ``service.http``, which decides as if nobody had looked at
  them before.
* When more arrives than can be answered (``gate.Turn``), what is refused takes time from what is
  accepted. So a response made in advance is written. Such refusals are counted as all others; in
  the log there is one line a second for all of them, and so they have no id.

Neither comes before another answer on its connection, nor adds to what a caller does not read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from perslm.wire import plain_query
from service.auth import Authenticator
from service.codec import frame
from service.core import ScoringService
from service.gate import OverloadedError, Turn
from service.http import SCORE_PATH, SMALL_BODY_BYTES, Headers, refusal_parts
from service.problems import problem_of
from service.settings import Settings

_LINE_SECONDS: Final = 1.0

_LAST: Final = (b"connection", b"close")  # what a server adds that ends
_PACKED: Final = b"application/msgpack"
_ACCEPTED: Final = frozenset((_PACKED, b"*/*"))

_log = logging.getLogger(__name__)


class _Response:
    """Bytes in front of which a server's own headers come, which stay the same for a second."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self._head, self._rest = head, rest
        self._headers: Headers | None = None
        self._made = b""

    def after(self, headers: Headers) -> bytes:
        if headers is not self._headers:
            lines = [b"%b: %b\r\n" % header for header in headers]
            self._headers, self._made = headers, b"".join((self._head, *lines, self._rest))
        return self._made


class _Front:
    """What the connections of one server share."""

    def __init__(self, service: ScoringService, settings: Settings) -> None:
        self._service = service
        self._metrics = service.metrics
        self._authenticate = Authenticator(settings).authenticate
        self._most = settings.max_histories
        self._turn = service.turns["http"]
        self._turning = False
        self.refused = 0  # in this turn
        self._untold = 0
        self._next_line = 0.0
        self.refusal = _Response(*refusal_parts(problem_of(OverloadedError())))
        self.answer = _Response(
            b"HTTP/1.1 200 OK\r\n", b"content-type: %b\r\ncontent-length: " % _PACKED
        )

    def admit(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a request that has just come may be answered."""
        if not self._turning:  # what has arrived by now comes before what is called soon
            self._turning = True
            loop.call_soon(self._turn_over, self._turn)
        return self._turn.admit()

    def _turn_over(self, turn: Turn) -> None:
        turn.answering, self._turning = True, False
        if self.refused:
            self._metrics.refused("http", "score", "overloaded", self.refused)
            self._untold += self.refused
            self.refused = 0
            now = time.monotonic()
            if now >= self._next_line:
                _log.warning("overloaded: %d refused since the last such line", self._untold)
                self._untold, self._next_line = 0, now + _LINE_SECONDS

    def scores(self, headers: Headers, body: bytes) -> bytes | None:
        """Return the content of an answer, and count it; None if this is not the place for it."""
        given = dict(headers)
        if (
            given.get(b"content-type") != _PACKED
            or given.get(b"accept", _PACKED) not in _ACCEPTED
            or len(given) != len(headers)  # the first of two counts
            or len(body) > SMALL_BODY_BYTES
            or self._metrics.tracer is not None
        ):
            return None
        watch = self._metrics.watch("http", "score")
        authorization = given.get(b"authorization")
        try:
            principal = self._authenticate(
                None if authorization is None else authorization.decode("latin-1")
            )
            query = plain_query(body, self._most)
            if query is None:
                return None
            principal.require("score", query.user)
            service = self._service.of_tenant(principal.tenant)
            content = service.answer(query, frame, watch)
        except Exception:  # noqa: BLE001 - the long way comes to the same, and says what is wrong
            return None
        if content is not None:
            watch.end()
        return content


def protocol(service: ScoringService, settings: Settings) -> type[HttpToolsProtocol]:
    """Return the protocol for a server of ``service``, which uvicorn's ``http`` setting takes.

    Raises ArgumentError or OSError for a file of keys or secrets that cannot be used.
    """
    front = _Front(service, settings)
    path = SCORE_PATH.encode()

    class Protocol(HttpToolsProtocol):
        _refused = False
        _given: Headers
        _body: bytes | None = None  # what has come of a request that may be answered on the spot
        _silence: asyncio.TimerHandle | None = None
        _heard = 0.0

        def data_received(self, data: bytes) -> None:
            self._heard = self.loop.time()
            super().data_received(data)
            if self._body is not None:  # there is more to come
                self._pass_on()

        def on_message_begin(self) -> None:
            self.url, self.headers, self.expect_100_continue = b"", [], False

        def on_headers_complete(self) -> None:
            parser = self.parser
            if (
                self.url == path
                and (self.cycle is None or self.cycle.response_complete)
                and parser.get_method() == b"POST"
                and not self.flow.write_paused
            ):
                if not front.admit(self.loop):
                    self._refused = True
                    front.refused += 1
                    return
                if (
                    parser.should_keep_alive()
                    and parser.get_http_version() == "1.1"
                    and not parser.should_upgrade()
                    and not self.expect_100_continue
                    and _LAST not in self.server_state.default_headers
                ):
                    self._body, self._given = b"", self.headers
                    self.headers = []  # what comes now are trailers
                    return
            self._begin(self.headers)

        def on_body(self, body: bytes) -> None:
            if self._body is not None:
                self._body += body
            elif not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._refused:
                self._refuse()
                return
            if self._body is not None:
                content = front.scores(self._given, self._body)
                if content is not None:
                    self._body = None
                    self.server_state.total_requests += 1
                    head = front.answer.after(self.server_state.default_headers)
                    self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(content), content))
                    if self._silence is None:
                        self._listen(self.timeout_keep_alive)
                    return
                self._pass_on()
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._silence is not None:
                self._silence.cancel()
            super().connection_lost(exc)

        def _begin(self, headers: Headers) -> None:
            """Do what uvicorn would have done until here, but keep trailers out of the scope."""
            url, expects = self.url, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers += headers  # the same list is in the scope
            super().on_headers_complete()
            self.headers = []

        def _pass_on(self) -> None:
            body, self._body = self._body, None
            self._begin(self._given)
            if body:
                super().on_body(body)

        def _refuse(self) -> None:
            self._refused = False
            headers = self.server_state.default_headers
            self.transport.write(front.refusal.after(headers))
            if not self.parser.should_keep_alive() or _LAST in headers:
                self.transport.close()
            elif self._silence is None:
                self._listen(self.timeout_keep_alive)

        def _listen(self, seconds: float) -> None:
            """Hang up if nothing is heard; one timer for many requests, not one for each."""
            self._silence = self.loop.call_later(seconds, self._look)

        def _look(self) -> None:
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy or self.timeout_keep_alive_task is not None:  # uvicorn's own
                self._listen(self.timeout_keep_alive)
                return
            left = self._heard + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._listen(left)
            else:
                self.transport.close()

    return Protocol
