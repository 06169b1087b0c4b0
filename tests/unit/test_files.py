"""Files that are replaced: whole or not at all, with the rights that were asked for, for good."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from perslm._files import replacing


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        with replacing(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
        assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"two")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"one"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "folder") as file:
        file.write(b"two")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_umask_takes_rights_away(tmp_path: Path) -> None:
    for mask, left in ((0o022, 0o644), (0o077, 0o600)):
        os.umask(mask)
        with replacing(tmp_path / "file", 0o666):
            pass
        assert mode(tmp_path / "file") == left


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    target.write_bytes(b"one")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"


def test_content_is_on_the_disk_before_its_name_is_and_that_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        held = os.fstat(descriptor)
        done.append("directory" if stat.S_ISDIR(held.st_mode) else f"{held.st_size} bytes")

    def replaced(old: Path, new: Path) -> None:
        replace(old, new)
        done.append("name")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing(tmp_path / "file") as file:
        file.write(b"four")
    assert done == ["4 bytes", "name", "directory"]
