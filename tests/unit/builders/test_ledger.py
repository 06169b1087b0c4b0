"""A ledger keeps what it was given, for its owner alone, and forgets what it must."""

from __future__ import annotations

import errno
import sqlite3
import stat
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.duplicates import id_digest
from builders.ledger import Ledger
from builders.ledger_files import Mail, errors, pack, unpack
from builders.ledgers import default_folder, drop_users, open_ledger, open_ledgers, temporary_ledger
from builders.prepare import Prepared, Settings
from perslm.errors import LedgerError
from perslm.store import Head, Pending
from perslm.vocabulary import Sequence

SEQUENCES = st.builds(
    Sequence,
    st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    st.booleans(),
    st.booleans(),
)
MESSAGES = st.builds(
    Prepared,
    st.sampled_from(["ann", "bob"]),
    st.floats(0, 4e9),
    st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=2).map(tuple),
    st.lists(SEQUENCES, max_size=3).map(tuple),
)
HEADS = {"ann": Head(0, 0)}
BOTH = {"ann": Head(0, 0), "bob": Head(0, 0)}
NOW = 1_800_000_000.0
DAY = 86400.0


def message(user: str, number: int, *, when: float = NOW, id: str | None = None) -> Prepared:
    """A message of one word, which is its number."""
    digests = (id_digest(id or f"<{number}>"),)
    return Prepared(user, when, digests, (Sequence((number,), True, True),))


def begin(ledger: Ledger, *, now: float = NOW, floor: float = 0.0, rebuild: bool = False) -> None:
    ledger.begin(Settings(), "as ever", now=now, floor=floor, rebuild=rebuild)


def words(ledger: Ledger, user: str = "ann") -> list[int]:
    """What a user's messages say, sorted."""
    account = ledger.account(user)
    if account is None:
        return []
    with closing(Mail(ledger.path)) as mail:
        return sorted(i for m in mail.of(account.id)[2] for s in m.sequences for i in s.ids)


def settle(ledger: Ledger, digest: str = "d", user: str = "ann") -> None:
    """As if the user had been published."""
    account = ledger.account(user)
    assert account is not None
    with closing(Mail(ledger.path)) as mail:
        revision = mail.of(account.id)[1]
    with ledger.settling(account.id, revision) as valid:
        assert valid
        ledger.settled(account.id, Head(1, 0), digest, "as ever", b"")


def changed(ledger: Ledger) -> list[str]:
    return [a.user for accounts in ledger.accounts(changed=True) for a in accounts]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger", "f", Settings()) as opened:
        begin(opened)
        yield opened


@given(MESSAGES)
def test_a_message_survives(message: Prepared) -> None:
    assert unpack(message.user, pack(message)) == message


@settings(max_examples=30)
@given(st.lists(MESSAGES, max_size=6))
def test_a_ledger_has_every_message_once_whatever_the_order(messages: list[Prepared]) -> None:
    def held(order: list[Prepared]) -> dict[str, Counter[bytes]]:
        found = {}
        with temporary_ledger() as ledger:
            begin(ledger)
            for one in order:
                ledger.add([(None, one)], BOTH)
            with closing(Mail(ledger.path)) as mail:
                for accounts in ledger.accounts():
                    for account in accounts:
                        # digests are under a key that each ledger has for itself
                        kept = [replace(m, digests=()) for m in mail.of(account.id)[2]]
                        found[account.user] = Counter(map(pack, kept))
        return found

    once = held(messages)
    assert once == held(messages[::-1] + messages)
    distinct = {(m.user, m.when, m.digests, m.sequences) for m in messages}
    assert sum(c.total() for c in once.values()) == len(distinct)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "ledger"
    with open_ledger(folder, "f", Settings()) as ledger:
        begin(ledger)
        ledger.add([(b"m", message("ann", 1))], HEADS)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_no_message_id_and_nothing_deleted_is_in_the_files(tmp_path: Path) -> None:
    sequence = Sequence(tuple(range(0x51515151, 0x51515191)), True, True)
    secret = Prepared("ann", NOW, (id_digest("<secret@host>"),), (sequence,))
    with open_ledger(tmp_path, "f", Settings()) as ledger:
        begin(ledger)
        ledger.add([(None, secret), (None, message("ann", 2))], HEADS)

    def everything() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    ids = b"".join(i.to_bytes(4, "little") for i in sequence.ids)
    assert ids in everything()
    assert secret.digests[0] not in everything()
    with open_ledgers(tmp_path) as (ledger,):
        account = ledger.account("ann")
        assert account is not None
        assert ledger.forget_messages(account, [id_digest("secret@host")]) == 1
    assert ids[:16] not in everything()


def test_a_second_build_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with open_ledger(tmp_path, "f", Settings()), pytest.raises(LedgerError, match="--ledger"):
        open_ledger(tmp_path, "g", Settings()).__enter__()
    with open_ledger(tmp_path, "g", Settings()):
        pass


def test_recipes_do_not_mix(tmp_path: Path) -> None:
    with open_ledger(tmp_path, "f", Settings()) as ledger:
        begin(ledger)
        ledger.add([(None, message("ann", 1))], HEADS)
    for other in (("g", Settings()), ("f", Settings(languages=("de",)))):
        with open_ledger(tmp_path, *other) as ledger:
            assert words(ledger) == []
    with open_ledger(tmp_path, "f", Settings(order=2, max_bytes=5000)) as ledger:
        assert words(ledger) == [1]


def test_what_was_seen_needs_no_second_look(ledger: Ledger) -> None:
    marks = [ledger.mark(b"", payload) for payload in (b"a", b"b", b"c")]
    assert len(set(marks)) == 3
    assert ledger.mark(b"other", b"a") not in marks
    ledger.add([(marks[0], message("ann", 1))], HEADS, nothing=[marks[1]])
    assert ledger.seen(marks) == set(marks[:2])
    ledger.drop(["ann"])
    assert ledger.seen(marks) == {marks[1]}


def test_what_no_digest_tells_apart_counts_as_often_as_in_the_last_run(ledger: Ledger) -> None:
    twin = replace(message("ann", 1), digests=())
    for new in (2, 0):
        begin(ledger)
        assert ledger.add([(b"m", twin), (b"m", twin)], HEADS).new == new
        assert words(ledger) == [1, 1]
        assert not ledger.seen([b"m"])  # only by counting them can a run tell


def test_messages_beyond_the_window_go_and_come_back_with_a_longer_one(ledger: Ledger) -> None:
    old, new = message("ann", 1, when=NOW - 3 * DAY), message("ann", 2)
    ledger.add([(b"old", old), (b"new", new)], HEADS)
    settle(ledger)
    begin(ledger, floor=NOW - 2 * DAY)
    assert words(ledger) == [2]
    assert changed(ledger) == ["ann"]
    ledger.add([(b"old", old)], HEADS)
    assert words(ledger) == [2]
    begin(ledger, floor=NOW - 2 * DAY + 5)  # the next night
    assert ledger.seen([b"old", b"new"]) == {b"old", b"new"}
    begin(ledger, floor=NOW - 4 * DAY)
    assert ledger.seen([b"old", b"new"]) == set()
    ledger.add([(b"old", old)], HEADS)
    assert words(ledger) == [1, 2]


def test_without_a_date_it_goes_by_when_a_message_was_found(ledger: Ledger) -> None:
    ledger.add([(None, message("ann", 1, when=0.0))], HEADS)
    begin(ledger, now=NOW + DAY, floor=NOW - DAY)
    assert words(ledger) == [1]
    begin(ledger, now=NOW + 3 * DAY, floor=NOW + DAY)
    assert words(ledger) == []


def test_forgotten_messages_and_their_copies_stay_away(ledger: Ledger) -> None:
    content, later = b"c" * 16, b"d" * 16
    original = replace(message("ann", 1), digests=(id_digest("<1>"), content))
    copy = replace(message("ann", 1), digests=(id_digest("<copy>"), content))
    ledger.add([(None, original), (None, message("ann", 2))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    assert ledger.forget_messages(account, [id_digest("1")]) == 1
    ledger.add([(None, original), (None, copy)], HEADS)
    assert words(ledger) == [2]
    # a copy of a copy is one, even if it came before the link was known
    far = replace(message("ann", 3), digests=(later,))
    link = replace(message("ann", 4), digests=(content, later))
    ledger.add([(None, far)], HEADS)
    assert words(ledger) == [2, 3]
    ledger.add([(None, link)], HEADS)
    assert words(ledger) == [2]
    ledger.add([(None, far)], HEADS)
    assert words(ledger) == [2]


def test_copies_of_copies_stay_away_within_one_addition(ledger: Ledger) -> None:
    content, later = b"c" * 16, b"d" * 16
    ledger.add([(None, replace(message("ann", 1), digests=(id_digest("1"), content)))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    ledger.forget_messages(account, [id_digest("1")])
    far = replace(message("ann", 3), digests=(later,))
    other_far = replace(message("ann", 3, when=NOW - DAY), digests=(later,))
    middle = replace(message("ann", 4), digests=(later, b"e" * 16))
    last = replace(message("ann", 5), digests=(b"e" * 16,))
    link = replace(message("ann", 6), digests=(content, later))
    ledger.add([(None, m) for m in (far, middle, link, other_far, last)], HEADS)
    assert words(ledger) == []


def test_a_message_can_be_forgotten_before_it_is_found(ledger: Ledger) -> None:
    ledger.add([(None, message("ann", 2))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    assert ledger.forget_messages(account, [id_digest("<1>")]) == 0
    ledger.add([(None, message("ann", 1))], HEADS)
    assert words(ledger) == [2]


def test_what_is_before_a_day_stays_away_even_when_all_begins_anew(ledger: Ledger) -> None:
    old = message("ann", 1, when=NOW - 3 * DAY)
    ledger.add([(None, old), (None, message("ann", 2))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    assert ledger.forget_before(account, NOW - DAY) == 1
    begin(ledger, rebuild=True)
    ledger.add([(None, old), (None, message("ann", 3))], HEADS)
    assert words(ledger) == [3]


def test_what_does_not_say_when_it_was_sent_stays_away_too(ledger: Ledger) -> None:
    undated = message("ann", 1, when=0.0)
    ledger.add([(None, undated), (None, message("ann", 2, when=NOW + 2 * DAY))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    assert ledger.forget_before(account, NOW + DAY) == 1
    begin(ledger, now=NOW + 3 * DAY, rebuild=True)
    ledger.add([(None, undated), (None, message("ann", 3, when=NOW + 2 * DAY))], HEADS)
    assert words(ledger) == [3]


def test_beginning_anew_is_for_the_users_found(ledger: Ledger) -> None:
    ledger.add([(b"1", message("ann", 1)), (b"2", message("bob", 2))], BOTH)
    begin(ledger, rebuild=True)
    assert not ledger.seen([b"1", b"2"])
    ledger.add([(b"3", message("ann", 3))], HEADS)
    begin(ledger)  # as after a crash: what was seen of her before is void
    assert ledger.seen([b"1", b"2", b"3"]) == {b"2", b"3"}
    assert (words(ledger), words(ledger, "bob")) == ([3], [2])


@pytest.mark.parametrize(
    ("head", "kept", "built"),
    [
        (Head(1, 0, 0, "d"), True, False),
        (Head(2, 0, 0, "d"), True, False),
        (Head(2, 0, 0, "another builder's"), True, True),
        (Head(0, 0), True, True),
        (Head(1, 0, 1, "d"), True, True),
        (Head(1, 0, 0, "d", "rules"), True, True),
        (Head(0, 5, since_deletion=9.0), False, False),
        (Head(6, 5, 0, "other", since_deletion=9.0), False, False),
        (Head(1_000_001, 1_000_001, 0, "d"), True, False),
        (Head(1_000_001, 1_000_001, 0, "an earlier one"), True, True),
    ],
    ids=[
        "same", "rolled forth", "other", "lost", "learned", "ruled", "deleted", "deleted and built",
        "restored", "an older backup",
    ],
)  # fmt: skip
def test_the_store_decides_who_is_built_and_who_is_gone(
    ledger: Ledger, head: Head, kept: bool, built: bool
) -> None:
    ledger.add([(None, message("ann", 1))], HEADS)
    settle(ledger)
    begin(ledger)
    for accounts in ledger.accounts():
        ledger.meet(accounts, [head])
    account = ledger.account("ann")
    assert (account is not None) == kept
    if account is not None:
        assert (account.head.generation, account.head.fence) == (head.generation, head.fence)
    assert changed(ledger) == (["ann"] if built else [])


def test_a_loss_after_the_fences_have_gone_counts_as_a_deletion(ledger: Ledger) -> None:
    ledger.add([(None, message("ann", 1))], HEADS)
    settle(ledger)
    ledger.end()
    begin(ledger, now=NOW + 31 * DAY)
    for accounts in ledger.accounts():
        ledger.meet(accounts, [Head(0, 0)])
    assert ledger.account("ann") is None


def test_other_settings_build_everybody_anew(ledger: Ledger) -> None:
    ledger.add([(None, message("ann", 1))], HEADS)
    settle(ledger)
    assert changed(ledger) == []
    ledger.begin(Settings(order=2), "otherwise", now=NOW, floor=0.0)
    assert changed(ledger) == ["ann"]
    assert ledger.settings() == Settings(order=2)


def test_a_deletion_while_a_build_runs_is_seen_by_it(tmp_path: Path, ledger: Ledger) -> None:
    ledger.add([(None, message("ann", 1)), (None, message("bob", 2))], BOTH)
    account = ledger.account("ann")
    assert account is not None
    with closing(Mail(ledger.path)) as mail:
        revision = mail.of(account.id)[1]
    with open_ledgers(tmp_path / "ledger") as (other,):
        other.forget_before(account, NOW + 1)
    with ledger.settling(account.id, revision) as valid:
        assert not valid
    assert drop_users(tmp_path / "ledger", ["bob", "nobody"]) == 1
    ledger.add([(None, message("bob", 3))], BOTH)
    assert ledger.strangers(["bob"]) == []  # not a newcomer, for this run
    assert ledger.account("bob") is None
    ledger.end()
    assert ledger.strangers(["bob"]) == ["bob"]


def test_learned_messages_give_way_to_mail(ledger: Ledger) -> None:
    def pending(number: int, vocabulary: str = "f") -> Pending:
        found = message("ann", 10 + number, id=f"<{number}>")
        return Pending(b"%d" % number, NOW + 1, found.digests, found.sequences, vocabulary)

    ledger.add([(None, message("ann", 1))], HEADS)
    account = ledger.account("ann")
    assert account is not None
    ledger.learn(account, [pending(1), pending(2), pending(3, "other")], "f")
    assert words(ledger) == [1, 12]
    assert ledger.folding(account.id) == [b"1", b"2", b"3"]
    ledger.add([(None, message("ann", 2))], HEADS)
    assert words(ledger) == [1, 2]
    settle(ledger)
    assert ledger.folding(account.id) == []


def test_a_ledger_that_does_not_last_takes_only_what_it_has_from_mail() -> None:
    with temporary_ledger() as ledger:
        begin(ledger)
        ledger.add([(None, message("ann", 1))], HEADS)
        account = ledger.account("ann")
        assert account is not None
        for number in (1, 2):
            found = message("ann", number)
            ledger.learn(
                account, [Pending(b"%d" % number, NOW, found.digests, found.sequences, "f")], "f"
            )
        assert words(ledger) == [1]
        assert ledger.folding(account.id) == [b"1"]


def test_what_is_no_ledger_is_told_with_a_remedy(tmp_path: Path) -> None:
    with open_ledger(tmp_path, "f", Settings()) as ledger:
        path = ledger.path
    path.write_bytes(b"no database" * 100)
    with pytest.raises(LedgerError, match="--rebuild"):
        open_ledger(tmp_path, "f", Settings()).__enter__()
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LedgerError, match="another version"):
        open_ledger(tmp_path, "f", Settings()).__enter__()


def test_a_key_that_is_lost_or_another_is_told(tmp_path: Path) -> None:
    with open_ledger(tmp_path, "f", Settings()):
        pass
    for data in (b"another, with 32 bytes in it ...", b"short", None):
        (tmp_path / "key").unlink()
        if data is not None:
            (tmp_path / "key").write_bytes(data)
        with pytest.raises(LedgerError, match="key"):
            open_ledger(tmp_path, "f", Settings()).__enter__()
        (tmp_path / "key").touch()


def test_a_full_disk_is_an_os_error(ledger: Ledger) -> None:
    ledger._database.execute("PRAGMA max_page_count = 30")
    numbers = iter(range(1000))
    with pytest.raises(OSError, match="space") as raised:
        deque(ledger.add([(None, message("ann", number))], HEADS) for number in numbers)
    assert raised.value.errno == errno.ENOSPC
    before = words(ledger)
    assert before == list(range(len(before)))


def test_errors_of_sqlite_do_not_leave(tmp_path: Path) -> None:
    with pytest.raises(LedgerError), errors(tmp_path), sqlite3.connect(":memory:") as database:
        database.execute("nonsense")


def test_each_store_has_a_folder_of_its_own() -> None:
    assert default_folder("one") != default_folder("other")
