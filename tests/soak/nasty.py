"""Clients that stall, hang up in the middle, and send garbage: none may hurt the others.

Each does one bad thing at a time. What comes back must be a refusal of the caller's fault, or an
end of the connection; a 5xx other than ``overloaded`` is a violation.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from random import Random

import grpc
import msgpack

from perslm.v1 import scorer_pb2
from service.grpc import SERVICE
from tests.service.grpc_server import score_request
from tests.service.server import TYPES
from tests.soak.clients import Load, Replica, _question

_LONGEST_STALL = 2.0
_BLAMELESS = ("overloaded", "store_unavailable")


def nasty_caller(load: Load, name: str, replica: Replica, random: Random) -> None:
    """Do one bad thing; a caller of ``Load``."""
    act: Callable[..., str] = random.choice(_ACTS)
    outcome = act(load, replica, random)
    load.ledger.count(name, f"{act.__name__.strip('_')}: {outcome}")
    load.stopped.wait(random.expovariate(1 / load.pause))


def _stall_in_the_body(load: Load, replica: Replica, random: Random) -> str:
    body = _body(load, random, "json")
    with replica.raw("http") as connection:
        connection.sendall(_head(replica, len(body), "json") + body[: len(body) // 2])
        load.stopped.wait(random.uniform(0, _LONGEST_STALL))
    return "hung up"


def _stall_in_the_head(load: Load, replica: Replica, random: Random) -> str:
    with replica.raw("http") as connection:
        connection.sendall(_head(replica, 10, "json")[: random.randint(1, 60)])
        load.stopped.wait(random.uniform(0, _LONGEST_STALL))
    return "hung up"


def _hang_up_before_the_answer(load: Load, replica: Replica, random: Random) -> str:
    body = _body(load, random, "msgpack")
    with replica.raw("http") as connection:
        connection.sendall(_head(replica, len(body), "msgpack") + body)
    return "hung up"


def _do_not_read(load: Load, replica: Replica, random: Random) -> str:
    body = _body(load, random, "json")
    with replica.raw("http") as connection:
        for _ in range(50):
            connection.sendall(_head(replica, len(body), "json") + body)
        load.stopped.wait(random.uniform(0, _LONGEST_STALL))
    return "hung up"


def _garbage_body(load: Load, replica: Replica, random: Random) -> str:
    form = random.choice(("json", "msgpack"))
    return _post(load, replica, _garbled(random, _body(load, random, form)), form)


def _endless_body(load: Load, replica: Replica, random: Random) -> str:
    with replica.raw("http") as connection:
        head = _head(replica, 0, "json").replace(
            b"content-length: 0", b"transfer-encoding: chunked"
        )
        try:
            connection.sendall(head)
            for _ in range(20):
                connection.sendall(b"100000\r\n" + b"[" * 0x100000 + b"\r\n")
        except OSError:
            return "cut off"
        return _status(load, connection, (413, 503))


def _no_http(load: Load, replica: Replica, random: Random) -> str:
    with replica.raw("http") as connection:
        try:
            connection.sendall(random.randbytes(random.randint(1, 500)) + b"\r\n\r\n")
        except OSError:
            return "cut off"
        connection.settimeout(_LONGEST_STALL)
        return _status(load, connection, (400,))


def _no_http2(load: Load, replica: Replica, random: Random) -> str:
    with replica.raw("grpc") as connection:
        try:
            connection.sendall(random.randbytes(random.randint(1, 500)))
            load.stopped.wait(random.uniform(0, _LONGEST_STALL))
        except OSError:
            return "cut off"
    return "hung up"


def _garbage_message(load: Load, replica: Replica, random: Random) -> str:
    message = _garbled(random, _message(load, random))
    with replica.channel() as channel:
        call = channel.unary_unary(f"/{SERVICE}/Score")
        try:
            scorer_pb2.ScoreAnswer.FromString(
                call(message, timeout=10, metadata=replica.metadata("default"))
            )
        except grpc.RpcError as error:
            return _code(load, error)
    return "answered"  # garbling can leave a request


def _garbage_stream(load: Load, replica: Replica, random: Random) -> str:
    messages = [_garbled(random, _message(load, random)) for _ in range(5)]
    with replica.channel() as channel:
        method = channel.stream_stream(f"/{SERVICE}/ScoreStream")
        answers = method(iter(messages), timeout=10, metadata=replica.metadata("default"))
        try:
            for answer in answers:
                problem = scorer_pb2.StreamAnswer.FromString(answer).problem
                if problem.code == "internal":
                    load.ledger.violate("internal", "a garbage message on a stream")
        except grpc.RpcError as error:
            return _code(load, error)
    return "answered"


def _leave_a_stream(load: Load, replica: Replica, random: Random) -> str:
    messages = [_message(load, random) for _ in range(20)]
    channel = replica.channel()
    method = channel.stream_stream(f"/{SERVICE}/ScoreStream")
    answers = method(iter(messages), timeout=10, metadata=replica.metadata("default"))
    try:
        next(answers)
    except grpc.RpcError as error:
        return _code(load, error)
    finally:
        channel.close()
    return "hung up"


_ACTS = (
    _stall_in_the_body,
    _stall_in_the_head,
    _hang_up_before_the_answer,
    _do_not_read,
    _garbage_body,
    _garbage_body,
    _endless_body,
    _no_http,
    _no_http2,
    _garbage_message,
    _garbage_message,
    _garbage_stream,
    _leave_a_stream,
)


def _garbled(random: Random, body: bytes) -> bytes:
    luck = random.random()
    if luck < 0.2:
        return random.randbytes(random.randint(0, 2000))
    if luck < 0.4:
        return body[: random.randrange(len(body))]
    changed = bytearray(body)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _body(load: Load, random: Random, form: str) -> bytes:
    _, _, _, asked = _question(load, random)
    packed: bytes = json.dumps(asked).encode() if form == "json" else msgpack.packb(asked)
    return packed


def _message(load: Load, random: Random) -> bytes:
    _, _, _, asked = _question(load, random)
    return score_request(asked).SerializeToString()


def _head(replica: Replica, length: int, form: str) -> bytes:
    key = replica.keys["default"]
    return (
        f"POST /v1/score HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {key}\r\n"
        f"content-type: {TYPES[form]}\r\ncontent-length: {length}\r\n\r\n"  # type: ignore[index]
    ).encode()


def _post(load: Load, replica: Replica, body: bytes, form: str) -> str:
    with replica.raw("http") as connection:
        connection.sendall(_head(replica, len(body), form) + body)
        return _status(load, connection, (200, 400, 413, 422, 503))


def _status(load: Load, connection: socket.socket, good: tuple[int, ...]) -> str:
    try:
        line = connection.recv(1 << 16)
    except (TimeoutError, OSError):
        return "no answer"
    if not line:
        return "cut off"
    status = line.split(b" ", 2)[1].decode() if line.startswith(b"HTTP/") else "?"
    if status not in {str(number) for number in good}:
        load.ledger.violate("a wrong answer to garbage", status)
    return status


def _code(load: Load, error: grpc.RpcError) -> str:
    status = error.code()  # type: ignore[attr-defined]
    if status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        load.ledger.violate("a wrong answer to garbage", str(status))
    return str(status).partition(".")[2]
