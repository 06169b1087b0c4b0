"""Who wrote a message, and which messages a mailbox's owner sent.

A folder says little (a sent folder may hold an assistant's mail) and From not everything: list
software puts its own address there, and somebody else may write in another's name.
`author_address` decides by the first row that applies:

====================================================  ============================================
the message                                           was written by
====================================================  ============================================
no From                                               Sender, unless it is software's; else nobody
From "Jane via List", an address as the name          that address
From "Jane via List", X-Original-From, Reply-To or    that mailbox
a recipient elsewhere with Jane's name, or a sole
Reply-To elsewhere without a name
From "Jane via List" at jane=example.org@lists        jane@example.org
From "Jane via List" or from a service's address,     nobody we can tell
and nothing tells Jane's
From an address that is a recipient too, Reply-To     that Reply-To
of the same name elsewhere (lists without "via")
From jane=40example.org@lists (no "via")              jane@example.org
From jane@example.org.invalid                         jane@example.org
several in From, one of them Sender                   that one
Sender is software's: a list's owner or bounce        (the first in) From
address, a daemon, a list among the recipients
Sender is the same person: same name, same address    (the first in) From
but for tags, same local part, or a bare login that
fits the name
any other Sender                                      Sender: an assistant's words are not the
                                                      words of the one in whose name they stand
no Sender                                             (the first in) From
====================================================  ============================================

Addresses are compared in `canonical` form, names by `name_key`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from builders.message import Address, Message
from builders.read.headers import addresses as parse_addresses
from perslm.errors import ArgumentError

_VIA = re.compile(r"['\"]?(?P<person>.+?)['\"]?\s+\(?(?:via|vía|über)\s+\S.*", re.IGNORECASE)
_ADDRESS = re.compile(r"[^\s<>\"'(),;:@]+@[^\s<>\"'(),;:@]+")
_REWRITTEN = re.compile(r"(?P<local>[^=@]+)=(?:40)?(?P<domain>[a-z0-9.-]+\.[a-z]{2,})@.*")
_SERVICE = re.compile(r"(?:no-?reply|do-?not-?reply|notif(?:y|ications?)|mailer)\b", re.IGNORECASE)
_SOFTWARE = re.compile(
    r"(?:^|[-+._])(?:bounces?|owner|admin|request|errors|returns?|listserv|majordomo|mailman"
    r"|mailer-daemon|postmaster|daemon|nobody|root|www-data|apache|no-?reply|do-?not-?reply"
    r"|notifications?)(?:$|[-+._=])|=",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
#: Share of an address's mail that must bear a name for it to be a name of that person.
_NAME_SHARE: Final = 0.1


def canonical(address: str) -> str:
    """Return one form for all spellings of an address that reach the same mailbox.

    Lower case; without a "+tag"; for Gmail also without the dots of the local part.
    """
    local, at, domain = address.strip().lower().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in ("gmail.com", "googlemail.com"):
        local, domain = local.replace(".", "") or local, "gmail.com"
    return f"{local}{at}{domain}"


def name_key(name: str) -> frozenset[str] | None:
    """Return what all spellings of a person's name share, None if it is no full name.

    The words of the name in any order, without case, initials, punctuation and what stands in
    brackets: "Doe, Jane Q. (Legal)" and "Jane Doe" have the same key. Fewer than two words are
    shared by too many people to tell one.
    """
    words = frozenset(_WORD.findall(_ASIDE.sub(" ", name).casefold()))
    return words if len(words) >= 2 else None


def author_address(message: Message) -> Address | None:
    """Return who wrote the words of ``message``, by the table above; None if none can tell."""
    sender = message.sender[0] if message.sender else None
    if not message.author:
        return sender if sender is not None and not _is_software(sender, message) else None
    author = message.author[0]
    if via := _VIA.fullmatch(author.name):
        return _behind_list(message, author, via["person"].strip(" '\""))
    if original := _same_name_elsewhere(message, author):
        return original
    author = _restored(author)
    if sender is None or sender in message.author:
        return sender or author
    if _is_software(sender, message) or _is_same_person(author, sender):
        return author
    return sender


def _behind_list(message: Message, author: Address, person: str) -> Address | None:
    """Find the person in whose name a list or service wrote."""
    if found := _ADDRESS.search(person):
        return Address("", found[0].lower())
    restored = _restored(author)
    if restored is not author:
        return Address(person, restored.address)
    if _SERVICE.match(author.address):
        return None
    elsewhere = [other for other in message.reply_to if _differs(other, author)]
    named = [
        other
        for other in (*elsewhere, *message.recipients)
        if other.address and _differs(other, author) and _same_name(other.name, person)
    ]
    if named:
        return Address(person, named[0].address)
    if (
        not any(other.name for other in elsewhere)
        and len({canonical(other.address) for other in elsewhere}) == 1
    ):
        return Address(person, elsewhere[0].address)
    return None


def _same_name_elsewhere(message: Message, author: Address) -> Address | None:
    if not message.reply_to or all(_differs(other, author) for other in message.recipients):
        return None
    key = name_key(author.name)
    for other in message.reply_to:
        if key is not None and _differs(other, author) and name_key(other.name) == key:
            return other
    return None


def _restored(author: Address) -> Address:
    """Undo rewriting that keeps the address within another; ``author`` itself if there is none."""
    if rewritten := _REWRITTEN.fullmatch(author.address):
        return Address(author.name, f"{rewritten['local']}@{rewritten['domain']}")
    if author.address.endswith(".invalid"):
        return Address(author.name, author.address.removesuffix(".invalid").removesuffix(".dmarc"))
    return author


def _differs(one: Address, other: Address) -> bool:
    return canonical(one.address) != canonical(other.address)


def _same_name(one: str, other: str) -> bool:
    return bool(one) and (one.casefold() == other.casefold() or _equal_keys(one, other))


def _equal_keys(one: str, other: str) -> bool:
    key = name_key(one)
    return key is not None and key == name_key(other)


def _is_software(sender: Address, message: Message) -> bool:
    if _SOFTWARE.search(sender.address.partition("@")[0]):
        return True
    # Lists that name themselves as Sender give their address, which the mail went to, and no name.
    return name_key(sender.name) is None and any(
        not _differs(sender, recipient) for recipient in message.recipients
    )


def _is_same_person(author: Address, sender: Address) -> bool:
    local, sender_local = (
        canonical(address).partition("@")[0] for address in (author.address, sender.address)
    )
    if local == sender_local or _same_name(author.name, sender.name):
        return True
    if sender.name:
        return False
    return any(len(word) > 2 and word in sender_local for word in name_key(author.name) or ())


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `Mailbox` saw, for the user to check.

    ``messages`` counts all, ``sent`` those by each of the owner's addresses (most first).
    """

    messages: int
    sent: tuple[tuple[str, int], ...]

    @property
    def skipped(self) -> int:
        """Messages that the owner did not write."""
        return self.messages - sum(count for _, count in self.sent)


@dataclass(frozen=True, slots=True)
class Owner:
    """The person whose words are to be learned.

    ``addresses`` are canonical. ``names`` are keys of names; they count only for mail whose From
    has no address at all. ``evidence`` is there if the owner was inferred.
    """

    addresses: frozenset[str]
    names: frozenset[frozenset[str]] = frozenset()
    evidence: Evidence | None = None

    @classmethod
    def of(cls, mailboxes: Iterable[str]) -> Owner:
        """Make an owner of addresses, or of "Jane Doe <jane@example.org>", as ``--me`` has them.

        Raises ArgumentError if there is none, or one is no address.
        """
        addresses: set[str] = set()
        names: set[frozenset[str]] = set()
        for mailbox in mailboxes:
            parsed = parse_addresses(mailbox)
            if len(parsed) != 1 or not parsed[0].address:
                raise ArgumentError("not a mail address: give one like jane@example.org")
            addresses.add(canonical(parsed[0].address))
            key = name_key(parsed[0].name)
            if key is not None:
                names.add(key)
        if not addresses:
            raise ArgumentError("no mail address given: give at least one like jane@example.org")
        return cls(frozenset(addresses), frozenset(names))

    def sent(self, message: Message) -> bool:
        """Tell whether the owner wrote ``message``."""
        author = author_address(message)
        if author is None:
            return False
        if author.address:
            return canonical(author.address) in self.addresses
        return name_key(author.name) in self.names


class Mailbox:
    """Finds out whose mailbox it is, from headers alone (`builders.read.parse_headers`).

    Give every message to :meth:`add`, then ask for the :meth:`owner`. Memory grows with the
    addresses seen, not with the mail.
    """

    def __init__(self) -> None:
        self._messages = 0
        self._takes_part: Counter[str] = Counter()
        self._wrote: Counter[str] = Counter()
        self._names: defaultdict[str, Counter[frozenset[str]]] = defaultdict(Counter)

    def add(self, message: Message) -> None:
        """Note who wrote ``message`` and to whom."""
        self._messages += 1
        people = {canonical(other.address) for other in message.recipients if other.address}
        author = author_address(message)
        if author is not None and author.address:
            address = canonical(author.address)
            people.add(address)
            self._wrote[address] += 1
            if key := name_key(author.name):
                self._names[address][key] += 1
        self._takes_part.update(people)

    def owner(self) -> Owner | None:
        """Return who takes part, as author or recipient, in most messages and wrote at least one.

        Their other addresses are those of authors here who go by no other full name than the
        owner's. None if nobody in particular wrote any message.
        """
        wrote, names = self._wrote, self._names
        if not wrote:
            return None
        owner = _most_involved(self._takes_part, wrote, names)
        enough = _NAME_SHARE * names[owner].total()
        own_names = frozenset(name for name, count in names[owner].items() if count >= enough)
        addresses = {
            address
            for address in wrote
            if address == owner or (names[address] and names[address].keys() <= own_names)
        }
        sent = sorted(((a, wrote[a]) for a in addresses), key=lambda pair: (-pair[1], pair[0]))
        return Owner(frozenset(addresses), own_names, Evidence(self._messages, tuple(sent)))


def infer_owner(messages: Iterable[Message]) -> Owner:
    """Return the owner of the mailbox that holds ``messages``, as `Mailbox` finds them.

    Raises ArgumentError if nobody in particular wrote any message.
    """
    mailbox = Mailbox()
    for message in messages:
        mailbox.add(message)
    owner = mailbox.owner()
    if owner is None:
        raise ArgumentError("cannot tell whose mailbox this is: name the owner with --me ADDRESS")
    return owner


def _most_involved(
    takes_part: Counter[str], wrote: Counter[str], names: dict[str, Counter[frozenset[str]]]
) -> str:
    """Return the main address of who takes part in most, all addresses of one name together."""
    people: defaultdict[frozenset[str] | str, list[str]] = defaultdict(list)
    for address in sorted(wrote):
        known = names.get(address)
        most = max(known, key=lambda name: (known[name], sorted(name))) if known else address
        people[most].append(address)
    person = max(
        people.values(),
        key=lambda own: (sum(takes_part[a] for a in own), sum(wrote[a] for a in own)),
    )
    return max(person, key=lambda address: wrote[address])
