"""Messages on disk come back as they were, by user, and the folder goes."""

from __future__ import annotations

import errno
import stat
import tempfile
from collections import defaultdict
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.prepare import Prepared
from builders.spool import Spool, pack, unpack
from perslm.vocabulary import Sequence

SEQUENCES = st.builds(
    Sequence,
    st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    st.booleans(),
    st.booleans(),
)
MESSAGES = st.builds(
    Prepared,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.floats(allow_nan=False),
    st.lists(st.binary(min_size=16, max_size=16), max_size=2).map(tuple),
    st.lists(SEQUENCES, max_size=3).map(tuple),
)


@given(MESSAGES)
def test_a_message_survives(message: Prepared) -> None:
    assert unpack(msgpack.unpackb(pack(message))) == message


@given(st.lists(MESSAGES, max_size=6))
def test_every_user_comes_once_with_all_messages_in_order(messages: list[Prepared]) -> None:
    expected = defaultdict(list)
    for message in messages:
        expected[message.user].append(message)
    with Spool() as spool:
        for message in messages:
            spool.add(message)
        found = list(spool.by_user())
    assert len({user for user, _ in found}) == len(found)
    assert dict(found) == expected


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_is_private_and_goes_away(place: Path) -> None:
    with Spool():
        (folder,) = place.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(place.iterdir())


def test_a_full_disk_is_an_os_error_and_leaves_nothing(place: Path) -> None:
    def refuse(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(spool: Spool) -> None:
        with spool:
            spool._files = [_Refusing(refuse)] * len(spool._files)  # type: ignore[list-item]
            spool.add(Prepared("u", 0.0, (), ()))

    with pytest.raises(OSError, match="No space") as raised:
        fill(Spool())
    assert raised.value.errno == errno.ENOSPC
    assert not list(place.iterdir())


class _Refusing:
    def __init__(self, write: object) -> None:
        self.write = write
