"""``perslm top`` against a running service, which goes away and comes back."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perslm.errors import ArgumentError, ServiceError
from perslm.monitor import Monitor, Reading, RefusedError, summary
from perslm.store import Store
from service import keyfile
from tests.service.certificates import authority
from tests.service.server import Caller, running
from tests.service.support import BROKEN, FINGERPRINT, HISTORIES, USER, settings

SCORE: dict[str, Any] = {"vocabulary": FINGERPRINT, "histories": HISTORIES, "top_k": 3}
ENVIRONMENT = {k: v for k, v in os.environ.items() if "PERSLM" not in k} | {
    "COLUMNS": "120",
    "LINES": "40",
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "perslm", "top", *map(str, arguments)]


def top(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_summary_is_of_what_happened_between_two_readings(store: Store) -> None:
    with running(settings(fresh_seconds=60.0), store) as url:
        monitor, call = Monitor(url), Caller(url)
        call.score({**SCORE, "user": USER}, "json")
        before = monitor.read()
        for user in (USER, USER, "nobody", BROKEN, ""):
            call.score({**SCORE, "user": user}, "msgpack")
        now = monitor.read()
        call.close()
    assert before.reason is now.reason is None
    now = Reading(before.at + 2.0, now.samples, now.reason)
    found = summary(before, now)
    assert (found["ready"], found["reason"], found["seconds"]) == (True, "ok", 2.0)
    scored = {r["reason"]: r["per_second"] for r in found["requests"] if r["route"] == "score"}
    assert scored == {"ok": 1.0, "unknown_user": 0.5, "bad_blob": 0.5, "invalid_user": 0.5}
    assert found["without"] == {"unknown_user": 0.5, "bad_blob": 0.5}
    assert found["refused"] == {"invalid_user": 0.5}
    assert found["stale_per_second"] == found["sheds_per_second"] == 0
    assert 0 < found["waiting"] < found["in_flight"] < 5
    assert (found["workers"], found["restarts"]) == (1, 0)
    assert found["lag"] == {"new": 0, "p50": None, "p90": None, "p99": None}
    (latency,) = (row for row in found["latency"] if row["route"] == "score")
    assert latency["per_second"] == 2.5
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
    assert {row["phase"] for row in found["phases"]} >= {"receive", "model", "score"}
    cache = found["cache"]
    assert (cache["models"], cache["entries"]) == (1, 3)
    assert 0.4 <= cache["hit_rate"] <= 0.5  # the impossible user may be a miss
    assert cache["bytes"] > 0
    assert cache["failures_per_second"] == {"bad_blob": 0.5}
    assert found["process"]["memory_bytes"] > 10e6


def test_of_nothing_nothing_is_said(store: Store) -> None:
    with running(settings(), store) as url:
        reading = Monitor(url).read()
    found = summary(reading, reading)
    assert found["requests"] == found["latency"] == found["phases"] == []
    assert found["cache"]["hit_rate"] is None
    assert json.loads(json.dumps(found)) == found


def test_the_probe_tells_why_models_cannot_be_loaded(store: Store) -> None:
    with running(settings(), store) as url:
        store.close()
        assert Monitor(url).read().reason == "store_unavailable"
        done = top(url, "--once", "--interval", 0.05)
    assert done.returncode == 0, done.stderr
    assert "not ready: store_unavailable" in done.stdout


def test_once_shows_an_interval_and_exits(store: Store) -> None:
    with running(settings(), store) as url:
        call = Caller(url)
        call.score({**SCORE, "user": USER}, "json")
        shown = top(url, "--once", "--interval", 0.05)
        told = top("--once", "--interval", 0.05, "--json", PERSLM_URL=url)
        call.close()
    assert shown.returncode == told.returncode == 0, shown.stderr + told.stderr
    assert url in shown.stdout
    assert "ready" in shown.stdout
    assert "http metrics" in shown.stdout  # of our own reading
    assert "\x1b" not in shown.stdout
    found = json.loads(told.stdout)
    assert (found["url"], found["ready"]) == (url, True)
    assert [r["route"] for r in found["requests"]] == ["metrics", "readyz"]


def test_who_has_no_key_is_told_which_one_is_needed(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    admin, _ = keyfile.create(keys, "operator", ["admin"])
    scorer, _ = keyfile.create(keys, "frontend", ["score"])
    with running(settings(keys=str(keys)), store) as url:
        for options in (("--once",), ("--json", "--interval", 0.05)):
            refused = top(url, *options, PERSLM_TOKEN=scorer)
            assert refused.returncode == 4
            assert "scope admin" in refused.stderr
            assert scorer not in refused.stderr
        with pytest.raises(RefusedError):
            Monitor(url).read()
        done = top(url, "--token", admin, "--once", "--interval", 0.05)
    assert done.returncode == 0, done.stderr


def test_it_speaks_tls_to_whom_it_trusts(store: Store, tmp_path: Path) -> None:
    ours = authority(tmp_path)
    tls = settings(tls_cert=str(ours.issue("server")), tls_client_ca=str(ours.path))
    with running(tls, store) as url:
        with pytest.raises(ServiceError, match="SSLCertVerificationError"):
            Monitor(url).read()
        options = ("--ca", ours.path, "--cert", ours.issue("operator"))
        done = top(url, *options, "--once", "--interval", 0.05)
    assert done.returncode == 0, done.stderr


@contextmanager
def started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that does not outlive the context."""
    with subprocess.Popen(arguments, env=ENVIRONMENT, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def serving(path: Path, store_url: str) -> Iterator[None]:
    """`perslm serve` at a unix socket."""
    arguments = ["serve", "--http", f"unix:{path}", "--store", store_url]
    with started([sys.executable, "-m", "perslm", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"listening" in process.stdout.readline()
        yield


def test_it_says_that_the_service_is_away_and_goes_on_when_it_is_back(
    tmp_path: Path, store_url: str
) -> None:
    path = tmp_path / "s"
    with started(
        command(f"unix:{path}", "--json", "--interval", 0.05),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        states = (json.loads(line) for line in watching.stdout)
        for _ in range(2):
            away = next(state for state in states if not state["ready"])
            assert away["reason"] == "away"
            assert "no answer from the service" in away["problem"]
            with serving(path, store_url):
                back = next(state for state in states if state["ready"])
                assert back["per_second"] > 0
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
    assert (watching.returncode, said) == (0, "")


def test_in_a_terminal_q_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(settings(), store) as url:
        ours, its = pty.openpty()
        monkeypatch.setitem(ENVIRONMENT, "TERM", "xterm")
        monkeypatch.setitem(ENVIRONMENT, "NO_COLOR", "1")
        with started(
            command(url, "--interval", 0.05), stdin=its, stdout=its, stderr=its
        ) as process:
            os.close(its)
            shown = b""
            while b"http metrics" not in shown and process.poll() is None:
                shown += drained(ours)
            os.write(ours, b"xq")
            while process.poll() is None:
                shown += drained(ours)
        os.close(ours)
    assert process.returncode == 0
    assert b"requests/s" in shown
    assert b"\x1b[?1049h" in shown  # the terminal's other screen
    assert b"\x1b[32m" not in shown  # no colour


def drained(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end was closed
        return b""


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("grpc://127.0.0.1:1", {}),
        ("127.0.0.1:8377", {}),
        ("http://name:word@127.0.0.1:1", {}),
        ("http://127.0.0.1:1", {"ca": "ca.pem"}),
        ("http://127.0.0.1:1", {"token": "two words"}),
        ("unix:/run/perslm.sock", {"token": "a line end\n"}),
        ("unix:/run/perslm.sock", {"ca": "ca.pem"}),
        ("http://127.0.0.1:x", {}),
        ("http://127.0.0.1:99999", {}),
        ("http://[127.0.0.1", {}),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        Monitor(url, **options)
    assert "line end\n" not in str(caught.value)


def test_a_page_that_is_not_the_services_is_no_answer(store: Store) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b"<html>a proxy</html>"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with running(settings(), store, app) as url, pytest.raises(ServiceError, match="text format"):
        Monitor(url).read()
