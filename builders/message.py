"""The one message type that everything between reading and counting passes along.

Reading (``builders.read``) makes messages, cleaning (``builders.clean``) takes their bodies, and
``builders.build`` composes the two. No code lives here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox of a header: display name (may be empty) and address in lower case."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message as read, before anything of its body is judged.

    ``position`` says where it came from (file and index or byte offset) and is safe to print;
    nothing else here is. ``body`` is decoded text with ``\\n`` line ends, one part chosen, with
    format=flowed lines joined. ``user`` is set only where the source itself names one. ``date``
    is in UTC. ``automatic`` gives the reason if headers or MIME type say that no person wrote
    the message (``auto-reply``, ``calendar``, ``report``), else None.
    """

    position: str
    user: str | None
    message_id: str | None
    date: datetime | None
    author: tuple[Address, ...]
    sender: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    recipients: tuple[Address, ...]
    subject: str
    body: str
    automatic: str | None = None

    def __repr__(self) -> str:
        return f"Message({self.position}, {len(self.body)} characters)"
