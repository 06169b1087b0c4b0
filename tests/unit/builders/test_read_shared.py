"""Real mail, where it is at hand: nothing lost, and the standard library reads the same."""

from __future__ import annotations

import email
import email.policy
import re
import tarfile
from pathlib import Path

import pytest

from builders.message import Message
from builders.read import RawItem, Reason, Unreadable, items, parse, read
from tests.support import shared


def agree(item: RawItem) -> bool:
    """Compare with the standard library, but for quote marks and what no charset explains."""
    mine = parse(item)
    assert isinstance(mine, Message)
    assert isinstance(item.payload, bytes)
    theirs = email.message_from_bytes(item.payload, policy=email.policy.default)
    assert mine.subject == " ".join((theirs["subject"] or "").split())
    part = theirs.get_body(("plain", "html"))
    return part is None or _bare(part.get_content()) == _bare(mine.body)


def _bare(text: str) -> str:
    return re.sub(r"[^!-=?-~]+", "", text)


def test_every_message_of_an_mbox() -> None:
    found = list(items(shared("data/ksummit.mbox.gz"), on_error=pytest.fail))
    assert len(found) == 3115
    assert all(isinstance(parse(item), Message) for item in found)
    assert all(agree(item) for item in found[::10])


def test_truncated_mbox(tmp_path: Path) -> None:
    packed = shared("data/ksummit.mbox.gz").read_bytes()
    path = tmp_path / "cut.mbox.gz"
    path.write_bytes(packed[: len(packed) // 2])
    errors: list[Unreadable] = []
    found = list(read(path, on_error=errors.append))
    assert len(found) > 1000
    assert [error.reason for error in errors] == [Reason.GZIP_CUT_OFF]


def test_directory_of_messages(tmp_path: Path) -> None:
    with tarfile.open(shared("data/raw_eml_dev.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    found = list(items(tmp_path, on_error=pytest.fail))
    assert len(found) == 2000
    assert all(agree(item) for item in found[::10])


def test_json_lines() -> None:
    paths = sorted(shared("data/enron_dev").glob("*.jsonl.gz"))
    found = sum(1 for path in paths for _ in read(path, on_error=pytest.fail))
    assert found == 10_328
