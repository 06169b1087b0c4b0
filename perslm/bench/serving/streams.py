"""gRPC as a load generator needs it: prepared HTTP/2 frames over a plain socket.

A client library costs about as much as the server that is to be measured, on both sides of every
ratio. This one knows what is needed to send messages of known content and to find the answers: no
more than RFC 9113 asks of a client that sends one message at a time, and no decoding of headers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from perslm.bench.serving.http import connect
from perslm.errors import ServiceError

SERVICE: Final = "perslm.v1.Scorer"
ECHO_SERVICE: Final = "Echo"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS: Final = 4
_LARGEST_WINDOW: Final = (1 << 31) - 1
_FIRST_WINDOW: Final = 65_535
_INITIAL_WINDOW_SIZE: Final = 4
_PREFIX: Final = 5  # of a message: not compressed, length


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _headers(path: str) -> bytes:
    """Return HPACK of a request's headers, each a literal that nobody need remember."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "bench",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    parts = (
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )
    return b"".join(parts)


class GrpcCaller:
    """One method, asked one thing at a time: on one stream, or by a call each if ``unary``.

    The i-th answer must hold ``expected[i]``, over and over as with ``messages``.
    """

    def __init__(
        self,
        url: str,
        method: str,
        messages: Sequence[bytes],
        expected: Sequence[bytes],
        *,
        unary: bool = False,
    ) -> None:
        self._socket = connect(url)
        self._expected = expected
        self._messages = [b"\0" + struct.pack(">I", len(message)) + message for message in messages]
        self._head = _headers(method)
        self._unary = unary
        self._stream = 1
        self._buffer = b""
        self._credit = {0: _FIRST_WINDOW}  # what may be sent, by stream; 0 is the connection
        self._first = _FIRST_WINDOW  # what may be sent on a new stream
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        opening = _frame(_SETTINGS, 0, 0, settings)
        opening += _frame(_WINDOW, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW))
        self._socket.sendall(_PREFACE + opening)
        while self._frame_read()[0] != _SETTINGS:
            pass
        if not unary:
            self._credit[1] = self._first
            self._socket.sendall(_frame(_HEADERS, _END_HEADERS, 1, self._head))

    def __call__(self, number: int) -> bytes:
        """Send a message and return the one that answers it; raises ServiceError without one."""
        message = self._messages[number % len(self._messages)]
        stream, last, head = self._stream, 0, b""
        if self._unary:
            self._credit = {0: self._credit[0], stream: self._first}
            head = _frame(_HEADERS, _END_HEADERS, stream, self._head)
            last = _END_STREAM
            self._stream += 2
        while min(self._credit[0], self._credit[stream]) < len(message):
            self._frame_read()
        self._credit[0] -= len(message)
        self._credit[stream] -= len(message)
        self._socket.sendall(head + _frame(_DATA, last, stream, message))
        answer = b""
        while True:
            kind, flags, payload = self._frame_read()
            if kind == _DATA:
                answer += payload
                whole = len(answer) >= _PREFIX
                whole = whole and len(answer) == _PREFIX + int.from_bytes(answer[1:_PREFIX], "big")
                if whole and not self._unary:
                    return answer
            if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                if answer and self._unary:
                    return answer
                raise ServiceError("the scoring service ended a stream instead of an answer")

    def check(self, number: int, answer: bytes) -> None:
        """Return if an answer is right; raises ServiceError."""
        if self._expected[number % len(self._expected)] not in answer:
            raise ServiceError("an answer was not what the model says in process")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _frame_read(self) -> tuple[int, int, bytes]:
        """Return kind, flags and payload of the next frame, after doing what it asks for."""
        while len(self._buffer) < 9:
            self._fill()
        length = int.from_bytes(self._buffer[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", self._buffer, 3)
        while len(self._buffer) < 9 + length:
            self._fill()
        payload = self._buffer[9 : 9 + length]
        self._buffer = self._buffer[9 + length :]
        if kind == _WINDOW:
            if stream in self._credit:
                self._credit[stream] += struct.unpack(">I", payload)[0]
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind in (_RESET, _GOAWAY):
            raise ServiceError("the scoring service ended a stream instead of an answer")
        return kind, flags, payload

    def _take_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                for stream in self._credit.keys() - {0}:
                    self._credit[stream] += value - self._first
                self._first = value
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0))

    def _fill(self) -> None:
        data = self._socket.recv(1 << 14)
        if not data:
            raise ServiceError("the scoring service hung up in the middle of an answer")
        self._buffer += data
