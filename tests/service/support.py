"""A store with a few users in it, and the same questions put to every transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.model import PersonalModel
from perslm.store import Store, open_store
from service.settings import Settings
from tests.support import Seq

SIZE, BOS, EOS = 12, 0, 1
SPECIALS = Specials(SIZE, BOS, EOS)
FINGERPRINT = "ab" * 16
OTHER_FINGERPRINT = "cd" * 16
MAIL = [
    Seq([2, 3, 4], True, True),
    Seq([2, 3, 5], True, True),
    Seq([2, 3, 4, 7], True, True),
    Seq([6, 3], True, True),
    Seq([2, 8], False, True),
]
NEW_MAIL = [*MAIL, Seq([9, 9, 9], True, True)]
USER = "engineer@example.com"
EMPTY = "wrote-nothing"
BROKEN = "broken/blob"
HISTORIES = [[BOS, 2], [2, 3], [11, 6], [], [7, 7, 7, 7, 7, 7, 2, 3], [4, EOS, 2]]


def blob_of(sequences: list[Seq], order: int = 3) -> bytes:
    return encode(count(sequences, order, SPECIALS), Metadata(FINGERPRINT, len(sequences)))


def publish(store: Store, user: str, blob: bytes) -> int:
    return store.publish(
        user, blob, parent=store.head(user), created=1735689600.0, vocabulary=FINGERPRINT
    )


@contextmanager
def populated(url: str) -> Iterator[Store]:
    """A store with a user, one who wrote nothing, and one whose blob cannot be read."""
    with open_store(url) as store:
        publish(store, USER, blob_of(MAIL))
        publish(store, EMPTY, blob_of([]))
        publish(store, BROKEN, b"not a model")
        yield store


def settings(**changes: Any) -> Settings:
    return Settings(**{"weight": 0.4, "fresh_seconds": 0.0, "load_seconds": 30.0, **changes})


def local(sequences: list[Seq] = MAIL, weight: float | None = 0.4) -> PersonalModel:
    return PersonalModel.from_blob(blob_of(sequences), generation=1, weight=weight)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Case = dict[str, Any]
N = len(HISTORIES)

SCORED: dict[str, Case] = {
    "candidates": {"candidates": [[2, 3, 4, EOS, BOS, 11, 10**6]] * N},
    "no candidates": {"candidates": [[]] * N},
    "top_k": {"top_k": 3},
    "all of top_k": {"top_k": 1000},
    "dense": {"dense": True},
    "compact": {"dense": True, "compact": True},
}
"""What can be asked of a user who has a model."""

POSITIONS = [0, 1, 7, 254, 255, 2**32 - 1]
"""Places in a text, one for each history."""

REFUSED: dict[str, tuple[Case, str]] = {
    "nothing asked": ({}, "invalid_request"),
    "two things asked": ({"top_k": 2, "dense": True}, "invalid_request"),
    "compact alone": ({"top_k": 2, "compact": True}, "invalid_request"),
    "no top": ({"top_k": 0}, "invalid_request"),
    "rows missing": ({"candidates": [[2]]}, "invalid_request"),
    "ragged": ({"candidates": [[2]] * (N - 1) + [[2, 3]]}, "invalid_request"),
    "user empty": ({"user": "", "top_k": 1}, "invalid_user"),
    "user too long": ({"user": "x" * 257, "top_k": 1}, "invalid_user"),
    "many histories": ({"histories": [[2]] * 33, "top_k": 1}, "too_many_histories"),
    "large answer": ({"candidates": [[2] * 100] * N}, "answer_too_large"),
    "large top": ({"top_k": 100}, "answer_too_large"),
    "large dense": ({"histories": [[2]] * 32, "dense": True}, "answer_too_large"),
    "no positions": ({"top_k": 1, "positions": []}, "invalid_request"),
    "few positions": ({"candidates": [[2]] * N, "positions": POSITIONS[1:]}, "invalid_request"),
    "many positions": ({"top_k": 1, "positions": [*POSITIONS, 1]}, "invalid_request"),
}
"""What is refused under ``TIGHT``, and with which code."""

TIGHT = {"max_histories": 32, "max_answer_values": 350, "max_body_bytes": 4000}


def expected(case: Case, model: PersonalModel) -> dict[str, Any]:
    """What the model itself says to a case of ``SCORED``, maybe with positions."""
    states = model.states(HISTORIES)
    answer: dict[str, Any] = {"weights": model.weights(states, case.get("positions"))}
    if "candidates" in case:
        answer["logprobs"] = model.score(states, case["candidates"])[0]
    elif "top_k" in case:
        answer["ids"], answer["logprobs"] = model.continuations(states, case["top_k"])
    else:
        answer["logprobs"] = model.distribution(states)
    if "compact" in case:
        wrote = sorted({i for s in MAIL for i in s.ids} | {EOS})
        answer["ids"] = np.array(wrote, np.uint32)
        answer["logprobs"] = answer["logprobs"][:, wrote]
    return answer


def assert_same(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes() == wanted.tobytes()


def until(holds: Callable[[], bool]) -> None:
    """Return when something holds that another thread is about to do."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.005)
