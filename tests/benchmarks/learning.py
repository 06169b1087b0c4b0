"""How long a learned message takes to change the scores of another replica.

Two ``perslm serve`` on one store. Messages are sent to one, each with a word that the user never
wrote, while the other is asked for that word's score as a beam search would ask, every few
milliseconds; what counts is the time from the call to the first score that is not −∞. Also how long
the call itself takes::

    nice -n 5 python -m tests.benchmarks.learning --messages 200
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice, product
from pathlib import Path

import numpy as np

from perslm import Client, blob
from perslm.counts import Specials, count
from perslm.store import open_store
from perslm.vocabulary import Vocabulary

USER = "engineer@example.com"
PAUSE_SECONDS = 0.005
MAIL = "The power desk needs the new figures by noon, please send them today."


@contextmanager
def serving(store: str, workers: int) -> Iterator[str]:
    """The URL of a service of its own."""
    command = [sys.executable, "-m", "perslm", "serve", "--http", "127.0.0.1:0", "--store", store]
    with subprocess.Popen(
        [*command, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # audit records
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def measure(messages: int, workers: int, sentences: int) -> tuple[list[float], list[float]]:
    """Return the seconds until each message was seen, and those that the calls took."""
    letters = product("abcdefghijklmnopqrstuvwxyz", repeat=3)  # digits would be an entity
    news = ["zeppelin" + "".join(three) for three in islice(letters, messages)]
    vocabulary = Vocabulary.from_words([*dict.fromkeys(MAIL.lower().split()), "The", *news])
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    counts = count(vocabulary.encode(MAIL) * sentences, 3, specials)
    metadata = blob.Metadata(vocabulary.fingerprint, 1)
    seen, called = [], []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perslm-learning-"))
        store = stack.enter_context(open_store(f"embedded:{Path(folder)}"))
        store.put_vocabulary(vocabulary.to_bytes(), vocabulary.fingerprint)
        data, fingerprint = blob.encode(counts, metadata), vocabulary.fingerprint
        store.publish(USER, data, parent=store.head(USER), vocabulary=fingerprint)
        one, other = (
            stack.enter_context(Client(stack.enter_context(serving(store.location, n)), timeout=10))
            for n in (1, workers)
        )
        for number, word in enumerate(news):
            (sequence,) = vocabulary.encode(word)
            model = other.model(USER, fingerprint)
            states = model.states([[vocabulary.bos]])
            assert model.score(states, [[sequence.ids[0]]])[0][0, 0] == -np.inf
            began = time.perf_counter()
            status = one.learn(USER, {"message_id": f"<{number}@x>", "body": f"{MAIL} {word}"})
            called.append(time.perf_counter() - began)
            assert status == "learned", status
            while model.score(states, [[sequence.ids[0]]])[0][0, 0] == -np.inf:
                time.sleep(PAUSE_SECONDS)
            seen.append(time.perf_counter() - began)
    return seen, called


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1, help="processes of the other replica")
    parser.add_argument("--sentences", type=int, default=1, help="of the model that is published")
    arguments = parser.parse_args()
    seen, called = measure(arguments.messages, arguments.workers, arguments.sentences)
    print("| milliseconds | median | 99% | most |\n|---|---|---|---|")
    for name, seconds in (("call", called), ("learned → seen on another replica", seen)):
        values = sorted(1000 * second for second in seconds)
        late = values[min(len(values) - 1, int(0.99 * len(values)))]
        print(f"| {name} | {statistics.median(values):.1f} | {late:.1f} | {values[-1]:.1f} |")


if __name__ == "__main__":
    main()
