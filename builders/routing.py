"""Which user a message counts for, and whether that user sent it.

The user id of a message is the first of these that there is:

1. ``--user``: all sources are one person's mailbox;
2. with ``--user-from file``, the name of the source without its ending: each is one mailbox;
3. the record's own ``user`` field (JSON lines, Parquet);
4. the address of who wrote it (``builders.identity``);
5. the name of the source, for records that do not say who wrote them.

With 1 to 3 the id names a person, not an address, so the addresses they send from must come from
elsewhere: from ``--me``; from the id itself if it is an address; or they are inferred from the
headers of all mail of that id, which is read once more for this (``builders.identity``). A message
from any other address was received, not sent, and is left out. A record that names no author at
all is taken at its word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builders.identity import Owner, author_address, infer_owner
from builders.message import Message
from builders.prepare import Skip
from builders.read import Unreadable, items, parse_headers, size
from perslm.errors import SourceError

_ENDINGS = (".gz", ".jsonl", ".json", ".ndjson", ".mbox", ".mbx", ".eml", ".parquet")


class Progress(Protocol):
    """What a progress bar must do; amounts are bytes while reading, users while building."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""

    def advance(self, amount: int) -> None:
        """Go on by ``amount`` steps."""


def source_name(source: Path) -> str:
    """Return the name of a source without its endings: ``ada`` for ``ada.jsonl.gz``."""
    name = source.resolve().name
    while (ending := Path(name).suffix.lower()) in _ENDINGS and name != ending:
        name = name[: -len(ending)]
    return name


@dataclass(frozen=True, slots=True)
class Router:
    """Decides for each message; made by :meth:`for_sources`, sent to worker processes.

    ``owners`` holds who the people behind ids that are not addresses are.
    """

    only_user: str | None = None
    by_file: bool = False
    owners: Mapping[str, Owner] = field(default_factory=dict)

    @classmethod
    def for_sources(
        cls,
        sources: Collection[Path],
        *,
        user: str | None,
        me: Collection[str],
        by_file: bool,
        progress: Progress,
    ) -> Router:
        """Return the router for these sources, reading their headers first if it must.

        Raises SourceError if a source cannot be read, ArgumentError if ``me`` holds no addresses.
        """
        router = cls(user, by_file)
        if me and user is not None:
            return cls(user, by_file, {user: Owner.of(me)})
        if user is None and not by_file and not any(map(_names_users, sources)):
            return router
        mailboxes: dict[str, list[Message]] = {}
        progress.stage("who wrote", sum(size(source) for source in sources))
        for source in sources:
            for item in items(source, on_error=_ignore, on_bytes=progress.advance):
                message = parse_headers(item)
                if isinstance(message, Unreadable):
                    continue  # the reading stage reports it
                person = router._person(message, source)
                if person is not None:
                    mailboxes.setdefault(person, []).append(message)
        owners = {
            person: Owner.of([person]) if _is_address(person) else infer_owner(mailbox)
            for person, mailbox in mailboxes.items()
            if any(map(_names_author, mailbox))
        }
        return cls(user, by_file, owners)

    def user(self, message: Message, source: Path) -> str | Skip:
        """Return whose model ``message`` counts for, or why it counts for none."""
        person = self._person(message, source)
        author = author_address(message)
        if person is None:
            if author is not None and author.address:
                return author.address
            return Skip.NO_USER if _names_author(message) else source_name(source)
        if not _names_author(message):
            return person
        owner = self.owners.get(person)
        return person if owner is not None and owner.sent(message) else Skip.NOT_SENT

    def explanation(self) -> Iterator[str]:
        """Yield a line for each person whose addresses were inferred: what was decided."""
        for person, owner in sorted(self.owners.items()):
            if owner.evidence is not None:
                sent = ", ".join(f"{a} ({n})" for a, n in owner.evidence.sent)
                yield (
                    f"{person}: took mail from {sent} as sent, left out "
                    f"{owner.evidence.skipped} by others (--user with --me decides otherwise)"
                )

    def _person(self, message: Message, source: Path) -> str | None:
        """Return the id that stands for a person, None where the author's address will do."""
        if self.only_user is not None:
            return self.only_user
        if self.by_file:
            return source_name(source)
        return message.user


def _names_author(message: Message) -> bool:
    return bool(message.author or message.sender)


def _names_users(source: Path) -> bool:
    """Tell whether the first readable record of a source has a ``user`` field."""
    try:
        return any(_first_users(source))
    except SourceError:
        return False  # the reading stage says what is wrong with it


def _first_users(source: Path) -> Iterable[str | None]:
    for item in items(source, on_error=_ignore):
        if item.kind == "rfc822":
            return
        message = parse_headers(item)
        if not isinstance(message, Unreadable):
            yield message.user
            return


def _is_address(person: str) -> bool:
    local, at, domain = person.rpartition("@")
    return bool(local and at and "." in domain and " " not in person)


def _ignore(unreadable: Unreadable) -> None:
    """Leave it to the reading stage, which reports every unreadable message once."""
