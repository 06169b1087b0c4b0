"""Each row of the table in `builders.identity`, and telling a mailbox's owner."""

from __future__ import annotations

import pytest

from builders.identity import Owner, author_address, canonical, infer_owner, name_key
from builders.message import Address, Message
from builders.read.headers import addresses
from perslm.errors import ArgumentError


def message(
    author: str = "", *, sender: str = "", reply_to: str = "", to: str = "team@lists.example"
) -> Message:
    return Message(
        position="x",
        user=None,
        message_id=None,
        date=None,
        author=addresses(author),
        sender=addresses(sender),
        reply_to=addresses(reply_to),
        recipients=addresses(to),
        subject="",
        body="",
    )


JANE_DOE = "Jane Doe <jane@example.org>"
JANE = Address("Jane Doe", "jane@example.org")


@pytest.mark.parametrize(
    ("mail", "author"),
    [
        # no From
        (message(sender=JANE_DOE), JANE),
        (message(sender="team-bounces@lists.example"), None),
        (message(), None),
        # rewritten by a list
        (
            message("'Jane Doe' via Team <team@lists.example>", reply_to=JANE_DOE),
            JANE,
        ),
        (
            message("Jane Doe via Team <team@lists.example>", reply_to="jane@example.org"),
            JANE,
        ),
        (
            message(
                "Jane Doe via Team <team@lists.example>",
                reply_to="Doe, Jane <jane@example.org>, Team <team@lists.example>",
            ),
            JANE,
        ),
        (
            message(
                "Jane Doe via Team <team@lists.example>",
                sender="Team <team-bounces@lists.example>",
                reply_to="Team <team@lists.example>",
                to="team@lists.example, Jane Doe <jane@example.org>",
            ),
            JANE,
        ),
        (
            message("'jane@example.org' via Team <team@lists.example>"),
            Address("", "jane@example.org"),
        ),
        (
            message("Jane Doe (via Team) <team@lists.example>", reply_to="jane@example.org"),
            JANE,
        ),
        (message("Jane Doe via Team <jane=example.org@lists.example>"), JANE),
        (message("Jane Doe via Team <team@lists.example>"), None),
        (
            message("Jane Doe via Team <team@lists.example>", reply_to="Bob Roe <bob@example.org>"),
            None,
        ),
        (
            message("Jane Doe via Docs <noreply@docs.example>", reply_to=JANE_DOE),
            None,
        ),
        (message("Jane Doe <team@lists.example>", reply_to=JANE_DOE), JANE),
        (
            message("Jane Doe <jane@work.example>", reply_to=JANE_DOE),
            Address("Jane Doe", "jane@work.example"),
        ),
        (message("Jane Doe <jane=40example.org@dmarc.example>"), JANE),
        (message("Jane Doe <jane@example.org.invalid>"), JANE),
        (message("Jane Doe <jane@example.org.dmarc.invalid>"), JANE),
        # several in From
        (message(f"Bob <bob@example.org>, {JANE_DOE}", sender=JANE_DOE), JANE),
        (message("Jane Doe <jane@example.org>, Bob <bob@example.org>"), JANE),
        # Sender is software's
        (message(JANE_DOE, sender="team-bounces@lists.example"), JANE),
        (message(JANE_DOE, sender="owner-team@lists.example"), JANE),
        (message(JANE_DOE, sender="bounces+12-x=y@mailer.example"), JANE),
        (message(JANE_DOE, sender="www-data@web.example"), JANE),
        (message(JANE_DOE, sender="team@lists.example"), JANE),
        # Sender is the same person
        (message(JANE_DOE, sender="Doe, Jane <jd@home.example>"), JANE),
        (message(JANE_DOE, sender="jane+work@example.org"), JANE),
        (message(JANE_DOE, sender="jane@host.example"), JANE),
        (message(JANE_DOE, sender="jdoe@host.example"), JANE),
        # Sender is somebody else
        (
            message("Bob Roe <boss@example.org>", sender=JANE_DOE),
            JANE,
        ),
        (message("boss@example.org", sender="jane@example.org"), Address("", "jane@example.org")),
        # nothing special
        (message(JANE_DOE), JANE),
        (message("Jane Doe"), Address("Jane Doe", "")),
        (message(JANE_DOE, reply_to="Bob <bob@example.org>"), JANE),
    ],
)  # fmt: skip
def test_who_wrote_it(mail: Message, author: Address | None) -> None:
    assert author_address(mail) == author


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("Jane@Example.org", "jane@example.org"),
        ("jane+lists@example.org", "jane@example.org"),
        ("+jane@example.org", "+jane@example.org"),
        ("j.a.n.e+x@googlemail.com", "jane@gmail.com"),
        ("j.ane@example.org", "j.ane@example.org"),
        ("jane", "jane"),
    ],
)
def test_canonical(address: str, form: str) -> None:
    assert canonical(address) == form
    assert canonical(form) == form


def test_name_keys() -> None:
    spellings = ["Doe, Jane Q.", "Jane Doe", "jane q doe", "DOE, JANE (Legal)", '"Jane" Doe']
    assert {name_key(name) for name in spellings} == {frozenset({"jane", "doe"})}
    assert name_key("Jane") is name_key("J. Q. D.") is name_key("") is None
    assert name_key("Jane Roe") != name_key("Jane Doe")


def test_owner_of_given_addresses() -> None:
    owner = Owner.of(["Jane+x@Example.org", "Jane Doe <jd@home.example>"])
    assert owner.sent(message("jane@example.org"))
    assert owner.sent(message("jd+list@home.example"))
    assert owner.sent(message("Doe, Jane"))  # no address at all: the name decides
    assert not owner.sent(message("Jane Doe <other@example.org>"))
    assert not owner.sent(message("bob@example.org"))
    assert not owner.sent(message("jane@example.org", sender="bob@example.org"))
    assert not owner.sent(message())


@pytest.mark.parametrize("given", [[], ["Jane"], ["a@x.org, b@x.org"], [""]])
def test_owner_of_no_address(given: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"jane@example\.org"):
        Owner.of(given)


def mailbox() -> list[Message]:
    """Jane's: she writes from two addresses, gets mail from Bob, and her assistant writes too."""
    jane = "Doe, Jane Q <jane@work.example>"
    return [
        *[message(jane, to="bob@example.org")] * 3,
        *[message("Jane Doe <jane@home.example>", to="bob@example.org")] * 2,
        *[message("Bob Roe <bob@example.org>", to="jane@work.example")] * 4,
        *[message("Ann Lee <ann@work.example>", to="carl@example.org")] * 2,
        message("Jane Roe <jane@other.example>", to="jane@work.example"),
        message("jane@unnamed.example", to="jane@work.example"),
    ]


def test_owner_is_who_takes_part_most_with_all_addresses_of_that_name() -> None:
    owner = infer_owner(iter(mailbox()))
    assert owner.addresses == {"jane@work.example", "jane@home.example"}
    assert owner.names == {frozenset({"jane", "doe"})}
    assert owner.evidence is not None
    assert owner.evidence.messages == 13
    assert owner.evidence.sent == (("jane@work.example", 3), ("jane@home.example", 2))
    assert owner.evidence.skipped == 8
    assert sum(owner.sent(mail) for mail in mailbox()) == 5


def test_a_correspondent_who_never_writes_is_not_the_owner() -> None:
    mail = [message(JANE_DOE, to="list@lists.example")] * 2
    mail += [message("bob@example.org", to="list@lists.example")]
    assert infer_owner(mail).addresses == {"jane@example.org"}


def test_an_address_that_also_bears_another_name_is_no_alias() -> None:
    mail = [message("Jane Doe <jane@work.example>")] * 5
    mail += [message("Jane Doe <office@work.example>"), message("Bob Roe <office@work.example>")]
    assert infer_owner(mail).addresses == {"jane@work.example"}


def test_a_rare_name_at_the_owners_address_does_not_make_aliases() -> None:
    mail = [message("Jane Doe <jane@work.example>")] * 30
    mail += [message("Ann Lee <jane@work.example>"), message("Ann Lee <ann@work.example>")]
    assert infer_owner(mail).addresses == {"jane@work.example"}


@pytest.mark.parametrize("mail", [[], [message()], [message(sender="x-bounces@lists.example")]])
def test_no_owner(mail: list[Message]) -> None:
    with pytest.raises(ArgumentError, match="--me"):
        infer_owner(mail)


def test_owner_does_not_depend_on_the_order_of_mail() -> None:
    mail = [message(f"Jane {name} <jane@example.org>") for name in ("Doe", "Roe")]
    mail += [message("Jane Doe <doe@example.org>"), message("Jane Roe <roe@example.org>")] * 3
    assert infer_owner(mail) == infer_owner(mail[::-1])
