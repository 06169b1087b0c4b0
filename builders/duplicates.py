"""Find copies of a message: in several folders, from several exports, under several Message-IDs.

Each message has up to two digests, by its Message-ID and by what it says; messages that share any
are copies of one. Digests are 16 bytes whatever the message, so a set of those seen so far stays
small, and no mail is in it.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from builders.identity import author_address, canonical
from builders.message import Message

#: Words below which the same text twice may well be two messages: people write "Thanks!" often.
SHORT: Final = 30
_REPLY_MARK = re.compile(
    r"\A\s*(?:(?:re|fw|fwd|aw|wg|sv|vs|tr|rv|antw)\s*(?:\[\d+\])?\s*:\s*)+", re.I
)


def digests(message: Message) -> tuple[bytes, ...]:
    """Return the 16-byte digests of ``message``: by Message-ID, if it has one, and by content.

    Content is author, subject without reply marks, and body but for white space; for bodies of
    fewer than `SHORT` words also the date, to the minute. A body without words, or a short one
    without a date, has no digest by content.
    """
    found = []
    if message.message_id:
        found.append(id_digest(message.message_id))
    words = message.body.split()
    if words and (len(words) >= SHORT or message.date is not None):
        author = author_address(message)
        when = ""
        if len(words) < SHORT and message.date is not None:
            when = message.date.strftime("%Y-%m-%dT%H:%M")
        found.append(
            _digest(
                b"content",
                "" if author is None else canonical(author.address) or author.name.casefold(),
                when,
                _REPLY_MARK.sub("", message.subject, count=1).strip().casefold(),
                " ".join(words),
            )
        )
    return tuple(found)


def id_digest(message_id: str) -> bytes:
    """Return the digest of messages that have this Message-ID; angle brackets do not matter."""
    return _digest(b"message-id", message_id.strip().strip("<>"))


def _digest(kind: bytes, *parts: str) -> bytes:
    digest = blake2b(digest_size=16, person=kind)
    for part in parts:
        data = part.encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
