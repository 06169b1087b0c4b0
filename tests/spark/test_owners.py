"""Who is taken for whom in tasks: the same as `builders.routing.Router` says."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from builders.identity import Mailbox, Owner
from builders.message import Message
from builders.prepare import Skip
from builders.read.headers import addresses
from builders.routing import Router
from builders.spark.owners import IndexedRouter, indexed

SOURCE = Path("/mail/office.jsonl")


def message(user: str | None, author: str, to: str = "zoe@example.net") -> Message:
    return Message(
        "x", user, None, None, addresses(author), (), (), addresses(to), "", "Some words."
    )


MAIL = [
    *[message("ann-7", "Ann Lee <ann@example.org>")] * 3,
    message("ann-7", "Ann Lee <a.lee@home.example>"),
    message("ann-7", "Zoe Doe <zoe@example.net>", "ann@example.org"),
    message("ann-7", "Ann Lee"),
    message("ann-7", "Zoe Doe"),
    message("ann-7", "Lee"),
    message("bob", "bob@example.org"),
    message("bob", "ann@example.org"),
    message("nobody", "Somebody"),
    message("unheard of", "ann@example.org"),
    message("ann@example.org", "ann@example.org"),
    message("ann@example.org", "bob@example.org"),
    message(None, "ann@example.org"),
    message(None, ""),
    message("ann-7", ""),
    message("bad \udc80", "ann@example.org"),
]


def found(router: Router, mail: list[Message]) -> dict[str, Owner | None]:
    mailboxes: dict[str, Mailbox] = {}
    for one in mail:
        person = router.person(one, SOURCE)
        if person is not None:
            mailboxes.setdefault(person, Mailbox()).add(one)
    return {person: mailbox.owner() for person, mailbox in mailboxes.items()}


@pytest.mark.parametrize("router", [Router(), Router("me"), Router(by_file=True)])
def test_the_router_of_tasks_decides_as_that_of_the_local_runner(router: Router) -> None:
    owners = found(router, [m for m in MAIL if m.user != "unheard of"])
    told = router.knowing(owners)
    index = np.sort(indexed(owners.items()))
    mine = IndexedRouter(router.only_user, router.by_file, index=index)
    sent = pickle.loads(pickle.dumps(mine))
    answers = [told.user(m, SOURCE) for m in MAIL]
    assert [sent.user(m, SOURCE) for m in MAIL] == answers
    assert Skip.NOT_SENT in answers
    assert len(set(answers)) > 1


def test_nobody_is_known_at_first() -> None:
    assert IndexedRouter().user(MAIL[0], SOURCE) is Skip.NOT_SENT
