"""Which user a message counts for, and whether that user sent it.

The user id of a message is the first of these that there is:

1. ``--user``: all sources are one person's mailbox;
2. with ``--user-from file``, the name of the source without its ending: each is one mailbox;
3. the record's own ``user`` field (JSON lines, Parquet);
4. the address of who wrote it (``builders.identity``);
5. the name of the source, for records that do not say who wrote them.

With 1 to 3 the id names a person. If it is an address, that is the one they send from. If not, the
addresses are those of ``--me``, or they are inferred from the headers of all mail of that id, which
are read in a pass of their own (``builders.identity``). A message from any other address was
received, not sent, and is left out. A record that names no author at all is taken at its word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builders.identity import Mailbox, Owner, author_address, canonical
from builders.message import Message
from builders.prepare import Skip
from builders.read import RawItem, Unreadable, items, parse_headers, size
from perslm.errors import ArgumentError
from perslm.store import USER_ID_BYTES

_ENDINGS = (".gz", ".jsonl", ".json", ".ndjson", ".mbox", ".mbx", ".eml", ".parquet")


class Progress(Protocol):
    """What a progress bar must do; amounts are bytes while reading, users while building."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""

    def advance(self, amount: int) -> None:
        """Go on by ``amount`` steps."""


class Sender(Protocol):
    """What `Owner` is here: somebody who may have written a message."""

    def sent(self, message: Message) -> bool:
        """Tell whether they did."""


def source_name(source: Path) -> str:
    """Return the name of a source without its endings: ``ada`` for ``ada.jsonl.gz``."""
    name = source.resolve().name
    while (ending := Path(name).suffix.lower()) in _ENDINGS and name != ending:
        name = name[: -len(ending)]
    return name


@dataclass(frozen=True, slots=True)
class Router:
    """Decides for each message; made by :meth:`for_sources`, sent to worker processes.

    ``owners`` holds who the people behind ids that are not addresses are, ``unknown`` the ids of
    which that cannot be told.
    """

    only_user: str | None = None
    by_file: bool = False
    owners: Mapping[str, Owner] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

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

        Raises SourceError if a source is no mail at all, so that a long run does not find out at
        its end. Raises ArgumentError if ``user`` cannot be a user's id, if ``me`` holds no
        addresses, or if it cannot be told which messages are those of ``user``.
        """
        records = [source for source in sources if _holds_records(source)]
        router, complete = cls.by_options(user=user, me=me, by_file=by_file)
        if complete:
            return router
        mailboxes = router._mailboxes(sources if user or by_file else records, progress)
        return router.knowing({person: mailbox.owner() for person, mailbox in mailboxes.items()})

    @classmethod
    def by_options(
        cls, *, user: str | None, me: Collection[str], by_file: bool
    ) -> tuple[Router, bool]:
        """Return what can be decided without reading mail, and whether that is all.

        If it is not, find the owner of the mail of each :meth:`person` and ask :meth:`knowing`.
        Raises ArgumentError as :meth:`for_sources` does.
        """
        if user is not None and not _is_user_id(user):
            raise ArgumentError(f"--user must be Unicode text of 1 to {USER_ID_BYTES} bytes")
        if me and user is not None:
            return cls(user, by_file, {user: Owner.of(me)}), True
        return cls(user, by_file), user is not None and _is_address(user)

    def person(self, message: Message, source: Path) -> str | None:
        """Return the id for which an owner must be found; None if ``message`` has no such id."""
        person = self._person(message, source)
        if person is None or _is_address(person) or not _names_author(message):
            return None
        return person

    def knowing(self, found: Mapping[str, Owner | None]) -> Router:
        """Return this router with the owners that were found, None where nobody was.

        Raises ArgumentError if that is so for ``--user``.
        """
        owners = {person: owner for person, owner in found.items() if owner is not None}
        if self.only_user in found and self.only_user not in owners:
            raise ArgumentError("cannot tell whose mailbox this is: name the owner with --me")
        unknown = tuple(sorted(found.keys() - owners.keys()))
        return Router(self.only_user, self.by_file, owners, unknown)

    def user(self, message: Message, source: Path) -> str | Skip:
        """Return whose model ``message`` counts for, or why it counts for none."""
        user = self._user(message, source)
        if isinstance(user, Skip) or _is_user_id(user):
            return user
        return Skip.NO_USER

    def explanation(self) -> Iterator[str]:
        """Yield a line for each person whose addresses were inferred: what was decided."""
        for person, owner in sorted(self.owners.items()):
            if owner.evidence is not None:
                sent = ", ".join(f"{a} ({n})" for a, n in owner.evidence.sent)
                yield (
                    f"{person}: took mail from {sent} as sent, left out "
                    f"{owner.evidence.skipped} by others (--user with --me decides otherwise)"
                )
        for person in self.unknown:
            yield (
                f"{person}: left out, for nothing tells which of this mail they sent "
                "(--user with --me does)"
            )

    def _user(self, message: Message, source: Path) -> str | Skip:
        person = self._person(message, source)
        author = author_address(message)
        if person is None:
            if author is not None and author.address:
                return author.address
            return Skip.NO_USER if _names_author(message) else source_name(source)
        if not _names_author(message):
            return person
        owner = self.owner(person)
        if owner is None and _is_address(person):
            owner = Owner(frozenset((canonical(person),)))
        return person if owner is not None and owner.sent(message) else Skip.NOT_SENT

    def owner(self, person: str) -> Sender | None:
        """Return who an id stands for, as far as more is known than the id."""
        return self.owners.get(person)

    def _person(self, message: Message, source: Path) -> str | None:
        """Return the id that stands for a person, None where the author's address will do."""
        if self.only_user is not None:
            return self.only_user
        if self.by_file:
            return source_name(source)
        return message.user

    def _mailboxes(self, sources: Collection[Path], progress: Progress) -> dict[str, Mailbox]:
        """Read the headers of all mail of people whose ids are no addresses."""
        mailboxes: dict[str, Mailbox] = {}
        if sources:
            progress.stage("who wrote", sum(size(source) for source in sources))
        for source in sources:
            for item in items(source, on_error=_ignore, on_bytes=progress.advance):
                message = parse_headers(item)
                if isinstance(message, Unreadable):
                    continue
                person = self.person(message, source)
                if person is not None:
                    mailboxes.setdefault(person, Mailbox()).add(message)
        return mailboxes


def _names_author(message: Message) -> bool:
    return bool(message.author or message.sender)


def _holds_records(source: Path) -> bool:
    """Tell whether the items of a source may have a ``user`` field."""
    first: RawItem | None = next(items(source, on_error=_ignore), None)
    return first is not None and first.kind != "rfc822"


def _is_address(person: str) -> bool:
    local, at, domain = person.rpartition("@")
    return bool(local and at and "." in domain and " " not in person)


def _is_user_id(user: str) -> bool:
    """Tell whether the store takes this as a user's id."""
    try:
        return 0 < len(user.encode()) <= USER_ID_BYTES
    except UnicodeEncodeError:
        return False


def _ignore(unreadable: Unreadable) -> None:
    """Leave it to the reading stage, which reports every unreadable message once."""
