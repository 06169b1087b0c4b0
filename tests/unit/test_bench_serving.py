"""What ``perslm bench service`` counts, against servers that do what it must notice."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from perslm.bench.corpus import Corpus, count_tokens, invent
from perslm.bench.serving.http import Caller, Requests, Swarm, parse, race
from perslm.bench.serving.population import FEWEST_TOKENS, Cut, Sentences, Subject, drawn, even
from perslm.bench.serving.report import compare
from perslm.bench.serving.work import Crowd
from perslm.blob import decode
from perslm.errors import ServiceError

OK = b"\x81\xa6status\xa2ok"
NO_MODEL = b"\x81\xa6status\xa8no_model"
SHED = b'{"error": "overloaded"}'


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return invent(4_000)


def response(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@contextmanager
def server(*answers: bytes | None) -> Iterator[str]:
    """A server that gives these answers over and over; None hangs up, b"" says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    turn = iter(range(1 << 30))
    mutex = threading.Lock()
    threads = []

    def talk(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1 << 16):
                with mutex:
                    answer = answers[next(turn) % len(answers)]
                if answer is None:
                    return
                connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10)


def requests(expected: bytes | None = None) -> Requests:
    return Requests.to("/v1/score", [b"body"], None if expected is None else [expected])


@pytest.mark.parametrize(
    ("status", "body", "expected", "kind"),
    [
        (b"200", OK + b"scores", b"scores", "ok"),
        (b"200", OK + b"others", b"scores", "wrong"),
        (b"200", OK + b"others", None, "ok"),
        (b"200", NO_MODEL, b"scores", "without"),
        (b"200", NO_MODEL, None, "without"),
        (b"503", SHED, b"scores", "shed"),
        (b"503", b'{"error": "store_unavailable"}', b"scores", "refused"),
        (b"422", SHED, None, "refused"),
    ],
)
def test_every_answer_is_of_one_kind(
    status: bytes, body: bytes, expected: bytes | None, kind: str
) -> None:
    assert requests(expected).judge(5, status, body) == kind


def test_a_response_is_whole_or_there_is_more_to_come() -> None:
    whole = response(200, b"body", "Connection: close\r\n")
    assert parse(whole) == (b"200", b"body", True)
    assert all(parse(whole[:n]) is None for n in range(len(whole)))
    assert parse(response(503, b"")) == (b"503", b"", False)
    with pytest.raises(ServiceError):
        parse(b"HTTP/1.1 200 OK\r\n\r\n")


def test_requests_name_their_users() -> None:
    named = Requests.to("/p", [b"<user00>"], place="user00", users=["user01", "user02"])
    assert [named[i][-8:] for i in range(3)] == [b"<user01>", b"<user02>", b"<user01>"]


def test_answers_are_checked_and_timed_in_turns() -> None:
    with server(response(200, OK + b"scores")) as url:
        right, wrong = Caller(url, requests(b"scores")), Caller(url, requests(b"others"))
        found = race([(right, right.check), (wrong, None)], rounds=2, steps=3)
        assert found.shape == (2, 2, 3)
        assert (found > 0).all()
        with pytest.raises(ServiceError, match="not what the model says"):
            race([(wrong, wrong.check)], rounds=1, steps=1)
        right.close()
        wrong.close()


def test_a_closed_load_counts_what_it_gets() -> None:
    with server(response(200, OK)) as url, Swarm(url, requests(), 4) as swarm:
        outcome = swarm.closed(0.2)
    assert outcome.kinds.keys() == {"ok"}
    assert outcome.kinds["ok"] == len(outcome.answered) == len(outcome.sent) >= 4
    assert outcome.rate > 0
    assert not outcome.errors
    assert 0 < outcome.percentile(50) <= outcome.percentile(99) < np.inf


def test_an_open_load_tells_sheds_answers_and_errors_apart() -> None:
    answers = (
        response(200, OK),
        response(503, SHED, "Connection: close\r\n"),
        response(200, NO_MODEL),
        response(500, b"{}"),
        None,
    )
    with server(*answers) as url, Swarm(url, requests(), 3) as swarm:
        outcome = swarm.open(np.linspace(0, 0.1, 50))
    assert outcome.kinds == Counter(ok=10, shed=10, without=10, refused=10, disconnected=10)
    assert outcome.errors == {"refused": 10, "disconnected": 10}
    assert (len(outcome.answered), len(outcome.shed)) == (10, 10)


def test_who_waits_for_a_connection_waits_since_it_was_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perslm.bench.serving.http.TIMEOUT", 0.2)
    with server(b"") as url, Swarm(url, requests(), 2) as swarm:
        outcome = swarm.open(np.zeros(5))
    # two were sent and never answered, three never sent
    assert outcome.kinds == Counter(timeout=5)
    assert outcome.percentile(99) == np.inf
    with server(response(200, OK)) as url, Swarm(url, requests(), 1) as swarm:
        outcome = swarm.open(np.zeros(5))
    assert outcome.kinds == Counter(ok=5)
    # each waited for all before it
    assert sorted(outcome.answered) == list(outcome.answered)
    assert outcome.answered[-1] > outcome.sent.max()
    assert len(outcome.late) == 5
    assert outcome.late.min() >= 0


def test_users_are_of_the_size_asked_for_and_all_differ(corpus: Corpus) -> None:
    sentences = Sentences(corpus)
    cuts = even(5, 500, first=1)
    sizes = [count_tokens(sentences.cut(cut)) for cut in cuts]
    assert all(450 < size < 650 for size in sizes)
    blobs = {sentences.blob(cut) for cut in cuts}
    assert len(blobs) == 5
    assert {decode(blob).metadata.messages for blob in blobs} == {2, 3, 4, 5, 6}
    total = sum(map(count_tokens, corpus.users))
    assert count_tokens(sentences.cut(Cut(0, 10 * total, 0.7))) == total


def test_sizes_are_drawn_like_those_of_people() -> None:
    tokens = np.array([cut.tokens for cut in drawn(4000, first=0)])
    assert 7_500 < np.median(tokens) < 8_500
    assert 0.95 < np.log(tokens).std() < 1.05
    assert tokens.min() >= FEWEST_TOKENS
    assert drawn(50, first=0) == drawn(50, first=0)


def test_a_crowd_asks_by_zipfs_law() -> None:
    drawn_users = Counter(Crowd(7, 100).draw(np.random.default_rng(1), 50_000))
    (first, most), (_, second) = drawn_users.most_common(2)
    assert first == "user00000007"
    assert most / second == pytest.approx(2, rel=0.1)
    assert len(drawn_users) == 100


def test_the_hot_user_is_asked_what_its_model_answers(corpus: Corpus) -> None:
    subject = Subject(corpus, Cut(3, 2_000, 0.0))
    asked = subject.asked[0]
    states = subject.model.states(asked.step.histories)
    assert asked.expected == subject.model.score(states, asked.step.candidates)[0].tobytes()
    assert len(subject.asked[0].expected) == 8 * 64 * 4
    assert subject.user.encode() in asked.packed
    assert subject.user.encode() in asked.message


def test_a_ratio_is_of_percentiles_and_its_quartiles_of_rounds() -> None:
    ours = np.array([[2.0] * 100, [4.0] * 100]) * 1e-6
    p50, p99 = compare("k", "title", ours, np.full((2, 100), 2e-6), "echo", 1.3)
    assert (p50.value, p50.beside, p50.ratio) == pytest.approx((3.0, 2.0, 1.5))
    assert p50.quartiles == pytest.approx((1.25, 1.75))
    assert (p99.ratio, p99.reached, p99.key) == (pytest.approx(2.0), False, "k_p99")
    assert compare("k", "title", ours, ours, "echo")[0].reached is None
