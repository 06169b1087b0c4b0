"""The client against the real service on a real store: the same answers as in process."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from perslm import beam
from perslm.blob import Metadata, encode
from perslm.client import Client
from perslm.counts import Specials, count
from perslm.embedded import EmbeddedServer
from perslm.errors import ArgumentError, BlobError, NoModelError, VocabularyMismatchError
from perslm.interpolate import Float32Array
from perslm.model import NullModel, PersonalModel
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary
from service.run import serve
from service.settings import Settings
from tests.blocking import BlockingClient
from tests.service.grpc_server import RunningServer
from tests.service.server import running
from tests.support import ROOT

VOCABULARY = Vocabulary.from_words(
    ["thanks", "for", "the", "quick", "fix", "let", "us", "meet", "on", "monday"]
)
OTHER = Vocabulary.from_words(["other", "words"])
SPECIALS = Specials(VOCABULARY.size, VOCABULARY.bos, VOCABULARY.eos)
USER = "engineer@example.com"
MAIL = "Thanks for the quick fix. Let us meet on Monday. Thanks for the fix. Thanks."
NEW_MAIL = MAIL + " Meet on Monday."


def blob_of(text: str, order: int = 3) -> bytes:
    counts = count(VOCABULARY.encode(text), order, SPECIALS)
    return encode(counts, Metadata(VOCABULARY.fingerprint, 4))


def publish(store: Store, blob: bytes, user: str = USER) -> int:
    fingerprint = VOCABULARY.fingerprint
    return store.publish(user, blob, parent=store.head(user), vocabulary=fingerprint)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        publish(opened, blob_of(MAIL))
        yield opened


Serving = Callable[[Settings, Store], AbstractContextManager[str]]


@contextmanager
def running_grpc(settings: Settings, store: Store) -> Iterator[str]:
    with RunningServer(settings, store) as server:
        yield server.url


@pytest.fixture(params=[running, running_grpc], ids=["http", "grpc"])
def serving(request: pytest.FixtureRequest) -> Serving:
    """Starts the service with one of its transports, and yields the URL."""
    chosen: Serving = request.param
    return chosen


@pytest.fixture(params=[Client, BlockingClient], ids=["blocks", "awaits"])
def client(request: pytest.FixtureRequest, serving: Serving, store: Store) -> Iterator[Client]:
    """A client that blocks, and one that awaits, made to block."""
    with serving(Settings(fresh_seconds=0.0), store) as url, request.param(url, pause=0) as opened:
        yield opened


def rows(n: int, extra: int = 0) -> Float32Array:
    logits = np.random.default_rng(5).normal(size=(n, VOCABULARY.size + extra))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


ids = st.integers(0, VOCABULARY.size + 1)


@fuzzing(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_remote_model_is_the_local_model(client: Client, data: st.DataObject) -> None:
    histories = data.draw(st.lists(st.lists(ids, max_size=6), max_size=4))
    k = data.draw(st.integers(1, 5))
    candidates = [data.draw(st.lists(ids, min_size=k, max_size=k)) for _ in histories]
    n = len(histories)
    places = data.draw(st.none() | st.lists(st.integers(0, 300), min_size=n, max_size=n))
    local = PersonalModel.from_blob(blob_of(MAIL), generation=1)
    for vocabulary in (VOCABULARY, VOCABULARY.fingerprint, None):
        remote = client.model(USER, vocabulary)
        here, there = local.states(histories), remote.states(histories)
        for step in range(2):
            if histories:
                wanted, behind = local.score(here, candidates)
                logprobs, behind_there = remote.score(there, candidates)
                assert np.array_equal(logprobs, wanted)
            assert np.array_equal(remote.weights(there), local.weights(here))
            assert np.array_equal(remote.weights(there, places), local.weights(here, places))
            given_rows = rows(len(histories), extra=step)
            mixed = remote.mix(there, given_rows, positions=places)
            wanted = local.mix(here, given_rows, positions=places)
            assert mixed.tobytes() == wanted.tobytes()
            assert np.array_equal(remote.distribution(there), local.distribution(here))
            best, best_there = local.continuations(here, k), remote.continuations(there, k)
            assert np.array_equal(best[0], best_there[0])
            assert np.array_equal(best[1], best_there[1])
            if histories:  # the next step, from the states behind the scores
                here, there = behind[:, -1], behind_there[:, -1]
        assert (remote.order, remote.generation, remote.reason) == (3, 1, "ok")


def test_what_comes_back_may_be_written_to(client: Client) -> None:
    model = client.model(USER, VOCABULARY)
    states = model.states([[VOCABULARY.bos]])
    for array in (
        model.weights(states),
        *model.score(states, [[5]]),
        *model.continuations(states),
        model.mix(states, rows(1)),
    ):
        array[...] = 0


class FixedGlobalModel:
    def logprobs(self, histories: object) -> Float32Array:
        return np.broadcast_to(rows(1), (len(histories), VOCABULARY.size)).copy()  # type: ignore[arg-type]


def test_a_beam_search_finds_the_same_over_the_wire(client: Client) -> None:
    history = VOCABULARY.history("Thanks for")
    remote = client.model(USER, VOCABULARY)
    fetched = client.fetch(USER)
    found = [
        beam.search(FixedGlobalModel(), history, personal=scorer, steps=4)
        for scorer in (remote, fetched)
    ]
    assert found[0] == found[1]
    assert found[0] != beam.search(FixedGlobalModel(), history, steps=4)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_of_the_service(weight: float, serving: Serving, store: Store) -> None:
    with serving(Settings(weight=weight), store) as url, Client(url) as client:
        model = client.model(USER, VOCABULARY)
        states = model.states([[VOCABULARY.bos], [5]])
        given_rows = rows(2)
        before = given_rows.tobytes()
        mixed = model.mix(states, given_rows)
        assert (mixed is given_rows) == (weight == 0.0)
        assert given_rows.tobytes() == before
        assert model.weights(states).tolist() == [weight, weight]
        assert model.weights(states, [0, 9]).tolist() == [weight, weight]
        again = model.mix(states, given_rows, positions=[0, 9])
        assert again.tobytes() == mixed.tobytes()
        assert model.reason == "ok"


def test_a_user_without_a_model(client: Client, store: Store) -> None:
    model = client.model("nobody", VOCABULARY)
    given_rows = rows(1)
    states = model.states([[5]])
    assert model.reason == "unknown_user"
    assert model.mix(states, given_rows) is given_rows
    null = client.fetch("nobody")
    assert isinstance(null, NullModel)
    assert null.reason == "unknown_user"
    publish(store, blob_of(MAIL), "nobody")
    assert model.mix(states, given_rows) is not given_rows
    assert model.reason == "ok"


def test_another_vocabulary(client: Client) -> None:
    given_rows = rows(1)
    model = client.model(USER, OTHER)
    assert model.mix(model.states([[5]]), given_rows) is given_rows
    assert model.reason == "vocabulary_mismatch"
    assert client.fetch(USER, OTHER).reason == "vocabulary_mismatch"
    assert client.fetch(USER, VOCABULARY).reason == "ok"


def test_strict_clients_are_told(client: Client, store: Store) -> None:
    client.strict = True
    publish(store, b"not a model", "broken")
    for ask in (client.model, client.fetch):
        with pytest.raises(NoModelError):
            ask("nobody")
        with pytest.raises(VocabularyMismatchError):
            ask(USER, OTHER)
    with pytest.raises(BlobError):
        client.fetch("broken")
    model = client.model(USER, VOCABULARY)
    assert client.forget(USER)
    with pytest.raises(NoModelError):
        model.weights(model.states([[5]]))


def test_a_fetched_model_scores_in_process(client: Client, store: Store) -> None:
    model = client.fetch(USER)
    assert isinstance(model, PersonalModel)
    assert (model.generation, model.weight) == (1, None)
    assert client.fetch(USER) is model  # not sent again
    other = client.fetch(USER, weight=0.9)
    assert (other.weight, model.weight) == (0.9, None)
    publish(store, blob_of(NEW_MAIL))
    fresh = client.fetch(USER)
    assert fresh.generation == 2
    assert fresh.metadata == model.metadata
    assert fresh.ngrams > model.ngrams
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        client.fetch(USER, weight=2)


def test_a_new_generation_reaches_a_model_in_use(client: Client, store: Store) -> None:
    model = client.model(USER, VOCABULARY)
    states = model.states([[VOCABULARY.bos]])
    candidates = [[VOCABULARY.id("meet")]]
    assert np.isfinite(model.score(states, candidates)[0]).all()
    publish(store, blob_of("Thanks.", order=2))
    assert np.isneginf(model.score(states, candidates)[0]).all()
    assert (model.generation, model.order) == (2, 2)


def test_metadata_and_deletion(client: Client, store: Store) -> None:
    info = client.info(USER)
    assert info["order"] == 3
    assert info["bytes"] == len(blob_of(MAIL))
    assert info["messages"] == 4
    assert client.health() == "ok"
    fetched = client.fetch(USER)
    assert client.forget(USER) is True
    assert store.info(USER) is None
    assert client.forget(USER) is False
    assert fetched.reason == "ok"
    assert client.fetch(USER).reason == "unknown_user"
    with pytest.raises(NoModelError):
        client.info(USER)


def test_the_store_dies_and_comes_back(serving: Serving) -> None:
    directory = Path(tempfile.mkdtemp(prefix="perslm-test-"))
    server = EmbeddedServer(directory)
    server.ensure()
    given_rows = rows(1)
    with open_store(f"unix://{server.socket}", timeout=2.0) as store:
        publish(store, blob_of(MAIL))
        with serving(Settings(fresh_seconds=0.0), store) as url, Client(url, pause=0) as client:
            known = client.model(USER, VOCABULARY)
            states = known.states([[VOCABULARY.bos]])
            before = known.mix(states, given_rows)
            fetched = client.fetch(USER)

            kill(server)
            assert client.health() == "store_unavailable"
            assert np.array_equal(known.mix(states, given_rows), before)  # stale, and good
            assert known.reason == "ok"
            unknown = client.model("somebody", VOCABULARY)
            assert unknown.mix(unknown.states([[5]]), given_rows) is given_rows
            assert unknown.reason == "store_unavailable"
            assert client.fetch(USER) is fetched
            assert client.fetch("somebody").reason == "store_unavailable"

            server.ensure()
            assert client.health() == "ok"
            assert publish(store, blob_of(NEW_MAIL)) == 2
            assert not np.array_equal(known.mix(states, given_rows), before)
            assert known.generation == 2
            assert unknown.mix(unknown.states([[5]]), given_rows) is given_rows
            assert unknown.reason == "unknown_user"
    kill(server)
    server.close()


def kill(server: EmbeddedServer) -> None:
    """Kill the store's server and see it dead."""
    with redis.Redis(unix_socket_path=str(server.socket)) as connection:
        process = connection.info("server")["process_id"]
    watched = os.pidfd_open(process)
    os.kill(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    assert ended.poll(30_000)
    os.close(watched)


@contextmanager
def served(store_url: str, http: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs ``serve``, and the URL that it printed."""
    program = (
        "import sys; from service.run import serve; from service.settings import Settings; "
        "serve(Settings(store=sys.argv[1], http=sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, store_url, http],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line + process.stdout.read()
        yield process, line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_server_process_stops_cleanly_and_logs_no_user(
    stop: signal.Signals, store: Store, store_url: str
) -> None:
    with served(store_url, "127.0.0.1:0") as (process, url):
        with Client(url) as client:
            assert client.model(USER, VOCABULARY).reason == "ok"
            assert client.fetch(USER).reason == "ok"
            assert client.forget(USER)
            process.send_signal(stop)
            assert process.wait(30) == 0
        assert process.stdout is not None
        said = process.stdout.read()
        records = [json.loads(line)["action"] for line in said.splitlines()]
        assert records == ["export", "forget"]  # the audit's, and nothing else
        assert USER not in said


def test_one_process_serves_both_transports_and_drains_them(store: Store, store_url: str) -> None:
    command = [sys.executable, "-m", "perslm", "serve", "--store", store_url]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        urls = [line.removeprefix("listening on ").strip() for line in lines]
        assert [url.partition(":")[0] for url in urls] == ["http", "grpc"]
        with Client(urls[0]) as http, Client(urls[1]) as grpc:
            given_rows = rows(1)
            mixed = []
            for client in (http, grpc):
                model = client.model(USER, VOCABULARY)
                mixed.append(model.mix(model.states([[VOCABULARY.bos]]), given_rows).tobytes())
            assert mixed[0] == mixed[1] != given_rows.tobytes()
            process.terminate()  # with a stream open, which does not hold it up
            assert process.wait(30) == 0
            assert model.mix(model.states([[VOCABULARY.bos]]), given_rows) is given_rows
            assert model.reason == "degraded"


def test_grpc_alone(store: Store, store_url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="perslm-test-") as directory:
        address = f"unix:{directory}/grpc.sock"
        command = [sys.executable, "-m", "perslm", "serve", "--store", store_url, "--grpc", address]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on grpc+{address}\n"
            with Client(f"grpc+{address}") as client:
                assert client.model(USER, VOCABULARY).reason == "ok"
                process.terminate()
                assert process.stdout.read() == ""


def test_a_unix_socket_is_private_and_left_tidy(store: Store, store_url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="perslm-test-") as directory:
        path = Path(directory, "http.sock")
        with served(store_url, f"unix:{path}") as (process, url):
            assert url == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with Client(url) as client:
                assert client.model(USER, VOCABULARY).reason == "ok"
            with pytest.raises(ArgumentError, match="nothing else listens"):
                serve(Settings(store=store_url, http=f"unix:{path}"))
            process.kill()  # leaves the file behind
            process.wait()
        assert path.exists()
        with served(store_url, f"unix:{path}") as (process, url), Client(url) as client:
            assert client.health() == "ok"
            process.terminate()
            assert process.wait(30) == 0
        assert not path.exists()


def test_a_port_in_use_is_said_so(store: Store, store_url: str) -> None:
    with served(store_url, "127.0.0.1:0") as (_, url):
        address = url.removeprefix("http://")
        with pytest.raises(ArgumentError, match="in use"):
            serve(Settings(store=store_url, http=address))


def test_others_are_not_served_without_asking(store_url: str) -> None:
    with pytest.raises(ArgumentError, match="--insecure"):
        serve(Settings(store=store_url, http="0.0.0.0:0"))
