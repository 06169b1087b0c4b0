"""What goes wrong in practice: each case a clear error or a clean stop, and a way to go on."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from builders.ledger import Ledger
from perslm.embedded import EmbeddedServer
from perslm.store import open_store
from perslm.vocabulary import Vocabulary
from tests.integration.mailboxes import (
    MAIL,
    OPTIONS,
    Perslm,
    await_line,
    process,
    write_people,
)

PAVEL = MAIL / "pavel-five.mbox"
NORA = MAIL / "nora-engineer.mbox"
PATIENCE = 60.0  # seconds; nothing waits this long unless it is broken


def models(url: str) -> dict[str, bytes]:
    """Every published blob, each checked to be a whole model."""
    with open_store(url) as store:
        found = {}
        for user in store.users():
            store.load(user, strict=True)
            stored = store.fetch(user)
            assert stored is not None
            found[user] = stored.blob
        return found


# Sources


def test_a_truncated_mbox_gives_all_before_the_damage(
    perslm: Perslm, tmp_path: Path, vocabulary: Path
) -> None:
    source = tmp_path / "nora.mbox"
    data = NORA.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    report = perslm("build", source, *OPTIONS, "--vocab", vocabulary, "--jobs", 1, "--json").json
    assert report["users"][0]["status"] == "published"
    assert report["messages"] > 50


def test_a_truncated_gzip_gives_all_before_the_damage_and_says_so(
    perslm: Perslm, tmp_path: Path, vocabulary: Path
) -> None:
    source = tmp_path / "nora.mbox.gz"
    data = gzip.compress(NORA.read_bytes())
    source.write_bytes(data[: len(data) // 2])
    done = perslm("build", source, *OPTIONS, "--vocab", vocabulary, "--jobs", 1)
    assert "1 unreadable" in done.out
    assert f"unreadable: {source}" in done.err
    assert list(models(perslm.store)) == ["nora"]


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(PAVEL)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("takeout.mbox", zipped, "zip archive; unpack"),
        ("empty.mbox", lambda path: path.touch(), "empty"),
        ("missing.mbox", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "no mail"),
        ("noise.mbox", lambda path: path.write_bytes(bytes(range(256)) * 64), "no kind of mail"),
        ("blob.mbox", lambda path: path.write_bytes(b"\x7fELF\x02\x01\x01"), "no kind of mail"),
    ],
)
def test_what_is_no_mail_is_told_before_anything_is_read(
    perslm: Perslm, tmp_path: Path, vocabulary: Path, name: str, make: object, says: str
) -> None:
    source = tmp_path / name
    make(source)  # type: ignore[operator]
    for command in (
        ["build", "--vocab", vocabulary],
        ["clean"],
        ["tokenize", "--vocab", vocabulary],
    ):
        done = perslm(
            command[0], PAVEL if command != ["clean"] else source, source, *command[1:], code=5
        )
        assert done.err.splitlines()[-1].startswith(f"error: {source}: ")
        assert says in done.err
    assert models(perslm.store) == {}


# Arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--me", "a@example.org"], "--me needs --user"),
        (["--user", "a", "--user-from", "file"], "exclude each other"),
        (["--user", "a", "--me", "nobody"], "mail address"),
        (["--user", ""], "--user must be"),
        (["--keep", "greetings"], "greeting"),
        (["--store", "http://x"], "redis"),
    ],
)
def test_arguments_that_make_no_sense(
    perslm: Perslm, vocabulary: Path, arguments: list[str], says: str
) -> None:
    done = perslm("build", PAVEL, "--vocab", vocabulary, *arguments, code=2)
    assert says in done.err
    assert done.out == ""


def test_a_user_without_a_model(perslm: Perslm) -> None:
    for command in (
        ["complete", "nobody", "Hi"],
        ["score", "nobody", "Hi"],
        ["inspect", "nobody"],
        ["export", "nobody", "--format", "blob", "-o", os.devnull],
        ["forget", "nobody", "--yes"],
        ["rollback", "nobody"],
    ):
        done = perslm(*command, code=3)
        assert done.err.startswith("error: ")
        assert done.out == ""


# Vocabularies


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "vocabulary"),
        (b"{}", "no vocabulary file"),
        (b"\x00\xff\xfe", "vocabulary"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "vocab import"),
        (None, "perslm vocab build"),
    ],
)
def test_a_file_that_is_no_vocabulary(
    perslm: Perslm, tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    done = perslm("build", PAVEL, "--vocab", path, code=5)
    assert str(path) in done.err
    assert says in done.err


def test_a_damaged_vocabulary(perslm: Perslm, vocabulary: Path) -> None:
    vocabulary.write_text(vocabulary.read_text().replace("Monday", "Tuesday"))
    done = perslm("build", PAVEL, "--vocab", vocabulary, code=5)
    assert "fingerprint" in done.err


def test_a_vocabulary_that_the_store_lost_is_put_back_by_a_build(
    perslm: Perslm, raw_store: redis.Redis, vocabulary: Path
) -> None:
    build = ("build", PAVEL, *OPTIONS, "--vocab", vocabulary, "--jobs", 1)
    perslm(*build)
    (key,) = raw_store.keys("*vocabulary:*")
    raw_store.delete(key)
    done = perslm("complete", "pavel-five", "We", code=5)
    assert "perslm build" in done.err
    perslm(*build)
    perslm("complete", "pavel-five", "We")
    raw_store.set(key, b"junk")
    perslm("complete", "pavel-five", "We", code=4)


def test_no_word_of_two_users(perslm: Perslm, tmp_path: Path) -> None:
    output = tmp_path / "v.json"
    done = perslm("vocab", "build", PAVEL, *OPTIONS, "--jobs", 1, "-o", output, code=5)
    assert "--min-users 1" in done.err
    assert not output.exists()


# Disks


def test_places_that_cannot_be_written_are_found_before_the_work(
    perslm: Perslm, tmp_path: Path, vocabulary: Path
) -> None:
    for place in (tmp_path / "no" / "report.json", tmp_path):
        done = perslm("build", PAVEL, "--vocab", vocabulary, "--report", place, code=5)
        assert done.err.startswith(f"error: {place}: ")
        perslm("vocab", "build", PAVEL, "--min-users", 1, "-o", place, code=5)
        perslm("export", "pavel-five", "--format", "blob", "-o", place, code=5)
    assert models(perslm.store) == {}


def test_a_full_disk_while_reading(
    perslm: Perslm, tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ledger: Ledger, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    report = tmp_path / "report.json"
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", refuse)
        done = perslm(
            "build", PAVEL, "--vocab", vocabulary, "--jobs", 1, "--report", report, code=5
        )
    assert "no space left" in done.err
    assert "TMPDIR" in done.err
    assert json.loads(report.read_text())["published"] == 0
    assert models(perslm.store) == {}
    perslm("build", PAVEL, "--vocab", vocabulary, "--jobs", 1)


def test_a_real_file_size_limit_leaves_no_half_written_file(
    perslm: Perslm, tmp_path: Path, vocabulary: Path
) -> None:
    perslm("build", NORA, *OPTIONS, "--vocab", vocabulary, "--jobs", 1)
    output = tmp_path / "model.arpa"
    output.write_text("old")
    command = f'ulimit -f 4; exec "$@" >{tmp_path}/out 2>{tmp_path}/err'
    arguments = ["export", "nora-engineer", "--format", "arpa", "-o", str(output)]
    script = Path(sys.executable).with_name("perslm")
    done = subprocess.run(
        ["sh", "-c", command, "sh", script, *arguments],
        env={**os.environ, "PERSLM_STORE": perslm.store},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 5
    assert "file too large" in (tmp_path / "err").read_text()
    assert output.read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


# Stores


def test_a_store_that_is_down_is_told_before_the_mail_is_read(
    perslm: Perslm, vocabulary: Path
) -> None:
    down = "redis://127.0.0.1:1"
    done = perslm("build", PAVEL, "--vocab", vocabulary, store=down, code=4)
    assert "cannot be reached" in done.err
    assert "reading" not in done.err
    for command in (["users"], ["complete", "me", "Hi"], ["inspect", "me"], ["forget", "me", "-y"]):
        assert perslm(*command, store=down, code=4).out == ""


def wait_for_a_model(client: redis.Redis, running: subprocess.Popen[str]) -> None:
    """Return when something is published, with the store then refusing more for now."""
    deadline = time.monotonic() + PATIENCE
    while not next(client.scan_iter("perslm:head:*", count=10_000), None):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
    client.client_pause(int(1000 * PATIENCE), all=False)


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """Mail of enough people for a build to be caught in the middle."""
    return write_people(tmp_path / "crowd.jsonl", 400)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """An embedded server of this test alone, which it may kill."""
    server = EmbeddedServer(tmp_path / "store")
    server.ensure()
    yield server
    server.ensure()  # so that there is one to stop
    server.close()


def test_a_store_that_dies_in_the_middle(
    perslm: Perslm, own_server: EmbeddedServer, crowd: Path, vocabulary: Path, tmp_path: Path
) -> None:
    url = f"unix://{own_server.socket}"
    report = tmp_path / "report.json"
    build = ("build", crowd, "--vocab", vocabulary, "--jobs", 1)
    with (
        redis.Redis(unix_socket_path=str(own_server.socket)) as client,
        process(url, *build, "--report", report) as running,
    ):
        wait_for_a_model(client, running)
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 4, err
    assert "Traceback" not in err
    own_server.ensure()
    survived = models(url)
    reported = {u["user"] for u in json.loads(report.read_text())["users"]}
    assert 0 < len(survived) < 400
    assert reported <= set(survived)  # an answered publish is on disk
    again = perslm(*build, "--json", store=url).json
    assert Counter(u["status"] for u in again["users"]) == {
        "unchanged": len(survived),
        "published": 400 - len(survived),
    }


def test_an_embedded_store_that_dies_is_started_again(
    own_server: EmbeddedServer, crowd: Path, vocabulary: Path
) -> None:
    url = f"embedded:{own_server.directory}"
    with (
        redis.Redis(unix_socket_path=str(own_server.socket)) as client,
        process(url, "build", crowd, "--vocab", vocabulary, "--jobs", 1, "--json") as running,
    ):
        wait_for_a_model(client, running)
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, err
    assert Counter(u["status"] for u in json.loads(out)["users"]) == {"published": 400}
    assert len(models(url)) == 400


# Interruptions


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_while_reading_publishes_nothing(
    perslm: Perslm, tmp_path: Path, vocabulary: Path, jobs: int
) -> None:
    mail = write_people(tmp_path / "much.jsonl", 100, 100)
    arguments = ("build", mail, "--vocab", vocabulary, "--jobs", jobs)
    with process(perslm.store, *arguments, start_new_session=True) as running:
        await_line(running, "reading")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to workers, too
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert "0 of 0 users published" in out
    assert models(perslm.store) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_building_keeps_what_is_published(
    perslm: Perslm, raw_store: redis.Redis, crowd: Path, vocabulary: Path, number: int
) -> None:
    arguments = ("build", crowd, "--vocab", vocabulary, "--jobs", 1)
    with process(perslm.store, *arguments, "--json") as running:
        wait_for_a_model(raw_store, running)
        try:
            running.send_signal(number)
            out, err = running.communicate(timeout=PATIENCE)
        finally:
            raw_store.execute_command("CLIENT", "UNPAUSE")
    assert running.returncode == 130
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["interrupted"] is True
    published = set(models(perslm.store))
    assert 0 < len(published) < 400
    # one publish may have been on its way, its answer never heard
    assert {u["user"] for u in report["users"]} <= published
    again = perslm(*arguments, "--json").json
    assert {u["user"] for u in again["users"] if u["status"] == "unchanged"} == published
    assert len(models(perslm.store)) == 400


def test_ctrl_c_elsewhere_is_one_line(
    perslm: Perslm, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> Vocabulary:
        raise KeyboardInterrupt

    monkeypatch.setattr(Vocabulary, "load", interrupt)
    done = perslm("tokenize", PAVEL, "--vocab", vocabulary, code=130)
    assert done.err == "interrupted; nothing half done is left, run the same command again\n"


def test_a_killed_worker_process_is_told_with_a_remedy(
    perslm: Perslm, tmp_path: Path, vocabulary: Path
) -> None:
    mail = write_people(tmp_path / "much.jsonl", 100, 100)
    with process(perslm.store, "build", mail, "--vocab", vocabulary, "--jobs", 2) as running:
        await_line(running, "reading")
        os.kill(worker_of(running), signal.SIGKILL)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1
    assert "--jobs" in err
    assert "Traceback" not in err
    assert models(perslm.store) == {}


def worker_of(running: subprocess.Popen[str]) -> int:
    """The process id of the first worker process, once there is one."""
    deadline = time.monotonic() + PATIENCE
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while time.monotonic() < deadline:
        for child in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("no worker process was started")
