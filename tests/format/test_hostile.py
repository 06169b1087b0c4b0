"""Every rule of FORMAT.md has hostile blobs, refused by its number; nothing else is refused."""

from __future__ import annotations

import re

import pytest

from perslm.blob import decode, encode
from perslm.counts import Specials, count
from perslm.errors import BlobError
from tests.format import reference
from tests.format.corpus import (
    METADATA,
    SPECIALS,
    case,
    changed,
    check_outcome,
    on_every_backend,
    payload_of,
    sealed,
    section,
    u32,
    with_payload,
    with_sections,
)
from tests.format.forge import Step, flag, forge, number, numbers, slot, varint
from tests.support import ROOT, Seq

COUNTS = count([Seq([2, 3, 4], True, True), Seq([2, 3], True, False)], 3, SPECIALS)
SOUND = encode(COUNTS, METADATA)
PAYLOAD = payload_of(SOUND)
STACK = PAYLOAD[3:]  # below three varints of one byte


def words(*counts: int) -> list[Step]:
    """The words 2, 3, ... with their counts."""
    steps = []
    for i, n in enumerate(counts):
        steps += numbers(0 if i else 2, n - 1)
    return steps


def many_columns() -> list[Step]:
    """Order 1 and 2 with an urn of 41 columns, up to the row of the one that holds 17 tokens.

    Its 57 tokens lie on 64 slots; column 20 holds those from 22 to 40.
    """
    columns = [1] * 20 + [17] + [1] * 20
    return flag(False) + words(*columns) + flag(True) + numbers(*[1] * 20, 0)


FREE = case("free")[1]
WORDS = case("words")[1]
NOTHING = encode(count([], 1, SPECIALS), METADATA)
NO_WHOLE = number(0) * 12  # the count-of-counts of orders 1 and 2

HOSTILE: dict[int, dict[str, bytes]] = {
    1: {
        "nothing": b"",
        "a header alone": SOUND[:76],
        "a byte too few": sealed(SOUND[:75]),
    },
    2: {"magic": changed(SOUND, 0, b"pslM")},
    3: {"the draft": changed(SOUND, 4, b"\0"), "the future": changed(SOUND, 4, b"\2")},
    4: {
        "a byte more": changed(SOUND, 72, u32(len(PAYLOAD) + 1)),
        "far too long": changed(SOUND, 72, u32(2**32 - 1)),
    },
    5: {"checksum": SOUND[:-1] + bytes([SOUND[-1] ^ 1])},
    6: {
        "order 0": changed(SOUND, 5, b"\0"),
        "order 6": changed(SOUND, 5, b"\6"),
        "flag 1": changed(SOUND, 6, b"\2"),
        "flag 15": changed(SOUND, 7, b"\x80"),
        "vocabulary of 2^31": changed(SOUND, 24, u32(2**31)),
        "<s> = 2^31": changed(SOUND, 28, u32(2**31)),
        "</s> = 2^31": changed(SOUND, 32, u32(2**31)),
        "<s> = </s>": changed(SOUND, 32, u32(0)),
        "smoothing 0": changed(SOUND, 68, b"\0"),
        "smoothing 2": changed(SOUND, 68, b"\2"),
        "4 bins": changed(SOUND, 69, b"\4"),
        "reserved": changed(SOUND, 70, b"\1"),
        "reserved, high": changed(SOUND, 71, b"\1"),
    },
    7: {
        "a varint longer than needed": with_payload(SOUND, b"\x84\0" + PAYLOAD[1:]),
        "a varint of six bytes": with_payload(SOUND, b"\xff" * 5 + b"\1" + PAYLOAD[1:]),
        "a varint of 2^31": with_payload(SOUND, varint(2**31) + PAYLOAD[1:]),
        "a varint of 2^34": with_payload(SOUND, varint(2**34) + PAYLOAD[1:]),
        "a number of 33 bits": forge([1], flag(False) + number(2**32 + 4)),
        "a gap of 2^31": forge([1], flag(False) + number(2**31)),
        "2^31 tokens": forge([3], flag(False) + words(2**30, 2**30 - 1, 1), tokens=2**31 - 1),
        "2^32 tokens": forge([3], flag(False) + words(*[2**31 - 1] * 2, 2), tokens=0),
        "more missing than there were": forge(
            [1, 0], flag(False) + words(3) + flag(True) + number(4), tokens=3
        ),
        "more ended than are missing": forge(
            [1, 0],
            NO_WHOLE + flag(False) + words(3) + flag(True) + numbers(2, 3),
            pruned=True,
            tokens=3,
        ),
        "more cut after <s> than 2^31": forge(
            [2, 1],
            NO_WHOLE + flag(True) + words(2) + flag(False) + numbers(1, 2**31 - 1),
            pruned=True,
            tokens=2,
        ),
        "as many successors less": forge(
            [2, 0], flag(False) + words(2, 3) + flag(False) + number(2), tokens=5
        ),
        "one takes too few": forge(
            # the row of 3 takes 8 tokens from columns with 1, 9 and 4: but one of 3, then 3 of 4
            [3, 3],
            flag(False) + words(1, 9, 4) + flag(True) + numbers(1, 1, 0, 0),
            tokens=14,
        ),
    },
    8: {
        "more words than there are": with_payload(SOUND, varint(52) + varint(0) * 2 + STACK),
        "the word V": forge([1], flag(False) + numbers(50, 0), tokens=1),
        "a virtual </s>": forge([1], flag(False) + numbers(60, 0), eos=60, tokens=1),
        "a virtual <s> with a count": forge([1], flag(False) + numbers(60, 0), bos=60, tokens=1),
    },
    9: {
        "<s> with a count": forge([1], flag(False) + numbers(0, 0), tokens=1),
        "<s> twice": forge([2], flag(True) + numbers(0, 0), tokens=1, pruned=False),
        "<s> with nothing": forge([0], flag(True)),
        "<s> at order 1": forge([2], flag(True) + words(2), tokens=2),
        "<s> before nothing": forge([2, 0], flag(True) + words(2) + flag(False) + number(0)),
    },
    10: {
        "nothing is missing": forge(
            [1, 1], flag(False) + words(2) + flag(True) + number(0), tokens=2
        ),
    },
    11: {
        "more after <s> than there is": forge(
            [2, 1], flag(True) + words(2) + flag(False) + number(3), tokens=2
        ),
        "an urn without columns": forge(
            [2, 1, 1],
            flag(True) + words(2) + flag(True) + numbers(1, 2) + flag(False),
            tokens=2,
        ),
        "nine tokens of a column of one": forge(
            [3, 3],
            flag(False) + words(1, 9, 4) + flag(True) + numbers(1, 0, 2) + slot(24, 0),
            tokens=14,
        ),
        "a column twice": forge(
            [41, 2], many_columns() + number(15) + slot(6, 0) + slot(6, 0), tokens=57
        ),
        "an empty column": forge(
            [41, 2], many_columns() + number(16) + slot(6, 22) + number(0) + slot(6, 22), tokens=57
        ),
        "a column of the other half": forge(
            [41, 17], many_columns() + numbers(0, 13) + slot(5, 0) + slot(5, 0), tokens=57
        ),
        "17 columns in one slot": forge(
            [41, 17], many_columns() + numbers(0, *[18] * 6), tokens=57
        ),
        "18 columns of 17": forge([41, 17], many_columns() + numbers(0, 20), tokens=57),
        "-2 columns of 17": forge([41, 17], many_columns() + numbers(0, 19), tokens=57),
    },
    12: {
        "no payload": with_payload(SOUND, b""),
        "half a varint": with_payload(SOUND, b"\x84"),
        "no stack": with_payload(SOUND, PAYLOAD[:3]),
        "half a state": with_payload(SOUND, PAYLOAD[:10]),
        "half a word": with_payload(SOUND, PAYLOAD + b"\0"),
        "a small state": with_payload(SOUND, PAYLOAD[:3] + u32(2**32 - 1) + u32(0)),
        "a word less": with_payload(WORDS, payload_of(WORDS)[:-4]),
        "a zero more": with_payload(SOUND, PAYLOAD + u32(0)),
        "a zero more than needed": with_payload(FREE, payload_of(FREE) + u32(0)),
        "a word in the place of a zero": with_payload(FREE, payload_of(FREE)[:-4] + u32(1)),
        "another last state": with_payload(NOTHING, b"\0" + u32(2) + u32(2)),
        "fewer of order 2": with_payload(
            SOUND, PAYLOAD[:1] + bytes([PAYLOAD[1] + 1]) + PAYLOAD[2:]
        ),
        "fewer of order 3": with_payload(SOUND, PAYLOAD[:2] + bytes([PAYLOAD[2] + 1]) + STACK),
        "more of order 3": with_payload(SOUND, PAYLOAD[:2] + bytes([PAYLOAD[2] - 1]) + STACK),
    },
    13: {
        "2^31 - 1 of each order": with_payload(SOUND, varint(2**31 - 1) * 3 + STACK),
        "more than 2^24": with_payload(
            SOUND, varint(2**24 - 9) + varint(10) + varint(0) + bytes(1 << 16)
        ),
        "one too many": with_payload(NOTHING, varint(1024 + 256 * 8 + 1) + payload_of(NOTHING)[1:]),
        "without the zeros that make room": with_payload(FREE, payload_of(FREE)[:-4]),
    },
    14: {
        "one more": changed(SOUND, 40, u32(COUNTS.tokens + 1)),
        "none": changed(SOUND, 40, u32(0)),
        "far more": changed(SOUND, 40, u32(2**32 - 1)),
    },
    15: {
        "no length": with_sections(SOUND, b"\2\0\0\0"),
        "content cut short": with_sections(SOUND, section(2, b"12", length=3)),
        "no content": with_sections(SOUND, section(2, b"", length=2**32 - 1)),
        "kind 0": with_sections(SOUND, section(0, b"")),
        "the same kind again": with_sections(SOUND, section(2, b""), section(2, b"")),
        "kinds descend": with_sections(SOUND, section(3, b""), section(2, b"")),
    },
    16: {
        "kind 128": with_sections(SOUND, section(128, b"")),
        "kind 255": with_sections(SOUND, section(2, b"1"), section(255, b"1")),
    },
    17: {
        "nothing": with_sections(SOUND, section(1, b"")),
        "half its dimensions": with_sections(SOUND, section(1, b"\1")),
        "no weights": with_sections(SOUND, section(1, b"\1\1")),
        "a byte less": with_sections(SOUND, section(1, b"\1\2" + bytes(11))),
        "a byte more": with_sections(SOUND, section(1, b"\1\2" + bytes(13))),
        "B = 0": with_sections(SOUND, section(1, b"\0\1")),
        "M = 0": with_sections(SOUND, section(1, b"\1\0")),
        "B = 33": with_sections(SOUND, section(1, b"\x21\1" + bytes(6 * 33))),
        "M = 17": with_sections(SOUND, section(1, b"\1\x11" + bytes(6 * 17))),
    },
}

ALLOWED = {
    "no vocabulary": forge([0], flag(False), size=0),
    "the largest ids": forge(
        [1], flag(False) + numbers(2**31 - 2, 0), size=2**31 - 1, bos=2**31 - 1, tokens=1
    ),
    "the largest count": forge([1], flag(False) + numbers(2, 2**31 - 2), tokens=2**31 - 1),
    "nothing after a pruned <s>": forge(
        [2, 1],
        NO_WHOLE + flag(True) + words(2) + flag(False) + numbers(0, 0),
        pruned=True,
        tokens=2,
    ),
    "as much cut after a pruned <s> as there may be": forge(
        [2, 2],
        NO_WHOLE + flag(True) + words(2) + flag(True) + numbers(1, 2**31 - 2, 1, 0),
        pruned=True,
        tokens=2,
    ),
    "a pruned <s> at order 1": forge(
        [2], number(0) * 6 + flag(True) + words(2), pruned=True, tokens=2
    ),
}


def test_every_rule_has_a_hostile_blob() -> None:
    table = (ROOT / "FORMAT.md").read_text("utf-8").split("| rule |")[1]
    assert list(HOSTILE) == [int(n) for n in re.findall(r"^\| (\d+) \|", table, re.M)]
    assert all(HOSTILE.values())


@pytest.mark.parametrize(
    ("rule", "blob"),
    [
        pytest.param(rule, blob, id=f"rule {rule}: {name}")
        for rule, blobs in HOSTILE.items()
        for name, blob in blobs.items()
    ],
)
def test_hostile(rule: int, blob: bytes) -> None:
    with pytest.raises(reference.RefusedError, match=rf"^rule {rule}:"):
        reference.read(blob)
    for _ in on_every_backend():
        with pytest.raises(BlobError, match=rf"rule {rule}:"):
            decode(blob)


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    assert check_outcome(ALLOWED[name]) is not None


def test_what_makes_a_blob_sound_is_all_that_these_lack() -> None:
    assert check_outcome(SOUND) is not None
    assert check_outcome(with_sections(SOUND, section(1, b"\1\2" + bytes(12)))) is not None


def test_no_more_than_256_ngrams_a_byte() -> None:
    for n, size in [(1024 + 256 * 52, 52), (1024 + 256 * 52 + 1, 56)]:
        sequences = [Seq([word], False, False) for word in range(2, n + 2)]
        for _ in on_every_backend():
            blob = encode(count(sequences, 1, Specials(n + 2, 0, 1)), METADATA)
            assert len(payload_of(blob)) == len(varint(n)) + size
            assert decode(blob).counts.ngrams == (n,)
