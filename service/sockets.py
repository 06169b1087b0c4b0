"""Sockets to listen at: TCP ports, and unix sockets that only this user can open."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Final, Literal

from perslm.errors import ArgumentError
from service.settings import Address, TcpAddress, UnixAddress

_SO_ATTACH_FILTER: Final = 26  # of asm-generic/socket.h

_NO_SYN: Final = (  # for the kernel's packet filter: code, jumps if true and if not, operand
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: the next step, else the one after
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


@contextlib.contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, str]]:
    """Yield a bound socket and its URL; a unix socket's file is removed at the end."""
    if isinstance(address, TcpAddress):
        with _tcp_socket(address) as listener:
            host, port = listener.getsockname()[:2]
            yield listener, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return
    with _unix_socket(address) as listener:
        try:
            yield listener, f"unix:{address.path}"
        finally:
            address.path.unlink(missing_ok=True)


@contextlib.contextmanager
def shared_port(address: Address) -> Iterator[str]:
    """Yield ``HOST:PORT`` of a port for gRPC that is this service's, and that its processes share.

    Each listens there with SO_REUSEPORT. Others of this user could do so, too, unnoticed: that the
    port is free is found out here. Raises ArgumentError.
    """
    if not isinstance(address, TcpAddress):
        raise ArgumentError(
            "workers cannot share a unix socket of gRPC: give it a port, such as 127.0.0.1:8378, "
            "or use HTTP there, or one worker"
        )
    with _tcp_socket(address, "gRPC") as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # from now on
        host = f"[{address.host}]" if ":" in address.host else address.host
        yield f"{host}:{reserved.getsockname()[1]}"


def turn_away(listener: socket.socket) -> None:
    """Let nobody new into the queue of ``listener``, which can still be accepted from.

    To close it cuts off who is in its queue, and somebody may come between the last look there and
    the end. Over TCP requests to connect are dropped from now on: they are repeated after a second,
    and then refused. Where the system cannot do that, nothing changes.
    """
    with contextlib.suppress(OSError):
        if listener.family == socket.AF_UNIX:
            listener.shutdown(socket.SHUT_RD)
        elif sys.platform == "linux":
            program = ctypes.create_string_buffer(
                b"".join(struct.pack("=HBBI", *step) for step in _NO_SYN)
            )
            fprog = struct.pack("@HP", len(_NO_SYN), ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _tcp_socket(address: TcpAddress, what: Literal["HTTP", "gRPC"] = "HTTP") -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ArgumentError(f"the {what} address cannot be used ({error.strerror})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ArgumentError(
                f"port {address.port} is in use: choose another with --{what.lower()}, or 0 for any"
            ) from error
        raise ArgumentError(f"the {what} address cannot be used ({error.strerror})") from error
    return listener


def _unix_socket(address: UnixAddress) -> socket.socket:
    """Bind a socket that only this user can open, over a file that a dead server left."""
    path = str(address.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_abandoned(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ArgumentError(
            f"the unix socket cannot be used ({reason}): choose a short path in a directory of "
            "yours where nothing else listens"
        ) from error
    return listener


def is_abandoned(path: str) -> bool:
    """Tell whether ``path`` is a unix socket that nobody listens at."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
