"""Telling sources apart by their content, walking directories, and refusing with a remedy."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from pathlib import Path

import pytest

from builders.read import (
    Reason,
    Unreadable,
    items,
    parse,
    parse_headers,
    read,
    size,
)
from perslm.errors import SourceError

EML = (
    b"Received: from a\nFrom: Jane <jane@example.org>\nTo: bob@example.org\nSubject: %s\n\nHello\n"
)


def subjects(path: Path) -> list[str]:
    return [m.subject for m in read(path, on_error=pytest.fail)]


def test_a_single_message_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(EML % b"one")
    assert subjects(path) == ["one"]
    assert [item.position for item in items(path, on_error=pytest.fail)] == [str(path)]


def test_an_mbox_named_eml_and_an_eml_with_a_separator(tmp_path: Path) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(b"From - Mon Jan  6 09:30:00 2020\n" + EML % b"one")
    assert subjects(path) == ["one"]


def test_maildir_with_subfolders(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / ".Sent", tmp_path / ".Sent.2020", tmp_path / "Archive"):
        for part in ("cur", "new", "tmp"):
            (folder / part).mkdir(parents=True)
            (folder / part / "1700000000.M1P1.host:2,S").write_bytes(
                EML % f"{folder.name[-4:]}/{part}".encode()
            )
        (folder / "dovecot-uidlist").write_text("3 V1 N2\n")
        (folder / ".hidden").write_bytes(EML % b"hidden")
    root = tmp_path.name[-4:]
    assert subjects(tmp_path) == [
        "Sent/cur", "Sent/new", "2020/cur", "2020/new", "hive/cur", "hive/new",
        f"{root}/cur", f"{root}/new",
    ]  # fmt: skip


def test_maildir_file_that_is_no_mail_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cur").mkdir()
    (tmp_path / "cur" / "1").write_bytes(EML % b"one")
    (tmp_path / "cur" / "2").write_bytes(b"rubbish")
    (tmp_path / "cur" / "3").write_bytes(b"")
    errors: list[Unreadable] = []
    assert [m.subject for m in read(tmp_path, on_error=errors.append)] == ["one"]
    assert [(Path(e.position).name, e.reason) for e in errors] == [
        ("2", Reason.NOT_MAIL),
        ("3", Reason.EMPTY),
    ]


def test_directory_of_messages_and_mboxes_passes_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "sent" / "deep").mkdir(parents=True)
    (tmp_path / "sent" / "1.").write_bytes(EML % b"one")
    (tmp_path / "sent" / "deep" / "2.eml").write_bytes(EML % b"two")
    (tmp_path / "takeout.mbox").write_bytes(
        b"".join(b"From x@y Mon Jan  6 09:30:00 2020\n" + EML % s + b"\n" for s in (b"3", b"4"))
    )
    (tmp_path / "list.tsv").write_text("sent/1.\tone\n")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "todo.txt").write_text("Milk: two\nBread: one\n")
    assert subjects(tmp_path) == ["one", "two", "3", "4"]


def test_bytes_consumed_add_up_to_the_size(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(EML % b"one")
    (tmp_path / "b.mbox.gz").write_bytes(
        gzip.compress(b"From x@y Mon Jan  6 09:30:00 2020\n" + EML % b"two")
    )
    (tmp_path / "c.txt").write_text("no mail")
    seen: list[int] = []
    assert len(list(items(tmp_path, on_error=pytest.fail, on_bytes=seen.append))) == 2
    assert sum(seen) == size(tmp_path) == sum(f.stat().st_size for f in tmp_path.iterdir())


def refusal(path: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(read(path, on_error=pytest.fail))
    assert caught.value.path == str(path)
    return caught.value


def test_zip_given_as_mbox(tmp_path: Path) -> None:
    path = tmp_path / "sent.mbox"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sent.mbox", EML % b"one")
    error = refusal(path)
    assert error.problem == "this is a zip archive"
    assert error.remedy.startswith("unpack it first")


@pytest.mark.parametrize(
    ("beginning", "problem"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"!BDN1234", "Outlook data"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Outlook message"),
        (b"a.mbox" + b"\0" * 251 + b"ustar\x0000", "tar archive"),
        (gzip.compress(b"a.mbox" + b"\0" * 251 + b"ustar\x0000", mtime=0), "tar archive"),
        (b'[{"body": "x"}]', "JSON array"),
        (b'{\n "body": "x"\n}\n', "JSON object of many lines"),
        (b"Dear all,\nnothing here is mail: really\n", "no kind of mail file"),
        (bytes(range(200, 256)) + bytes(range(8)), "no kind of mail file"),
    ],
)
def test_files_that_are_no_source(tmp_path: Path, beginning: bytes, problem: str) -> None:
    path = tmp_path / "sent.mbox"
    path.write_bytes(beginning)
    error = refusal(path)
    assert problem in error.problem
    assert error.remedy


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such" in refusal(tmp_path / "absent").problem
    with pytest.raises(SourceError, match="no such"):
        size(tmp_path / "absent")


def test_directory_without_mail(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    assert "holds no mail" in refusal(tmp_path).problem


def test_directory_of_json_lines_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": "hello"}\n')
    assert refusal(tmp_path).remedy == "name the files instead"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "sent.mbox"
    path.write_bytes(EML % b"one")
    path.chmod(0)
    assert refusal(path).problem == "permission denied"


def test_pipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path).problem


def test_items_travel_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(EML % b"one")
    (item,) = items(path, on_error=pytest.fail)
    again = pickle.loads(pickle.dumps(item))
    message = parse(again)
    assert pickle.loads(pickle.dumps(message)) == message
    bad = Unreadable("x", Reason.NOT_MAIL)
    assert pickle.loads(pickle.dumps(bad)) == bad


def test_reprs_hold_no_mail(tmp_path: Path) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(EML % b"Secret")
    (item,) = items(path, on_error=pytest.fail)
    assert "Secret" not in repr(item) + repr(parse(item))


def test_headers_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(EML % b"one")
    (item,) = items(path, on_error=pytest.fail)
    message = parse_headers(item)
    assert not isinstance(message, Unreadable)
    assert message.body == ""
    assert message.author[0].address == "jane@example.org"
