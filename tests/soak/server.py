"""The service in a process of its own, as ``perslm serve`` runs it, with two additions.

``python -m tests.soak.server DIRECTORY``, which has ``settings.json`` and ``clock``: eight bytes
that hold by how many seconds the wall clock of this process is off. It writes ``ready`` (the URLs)
and, at the end, ``deadlines.json``: how long after their deadlines requests were still worked on,
and how long the garbage collector held everybody up.

Deadlines are measured here because only this process knows: a client's own clock includes what the
client waits for a processor. Even here a thread that wants to run may have to wait for one, so that
wait is written down, too: the kernel counts it for every thread.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import mmap
import os
import struct
import sys
import threading
import time
import types
from collections import deque
from pathlib import Path
from typing import Any

from grpc._cython import cygrpc

_GRACE = 0.010
_SAMPLE_SECONDS = 0.05


class _RunQueue:
    """How long all threads of this process waited for a processor, by time."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        threading.Thread(target=self._sample, daemon=True).start()

    def waited(self, begin: float, end: float) -> float:
        """Return the seconds between two moments, of all threads together."""
        self._take()
        samples = list(self._samples)
        before = max((s for s in samples if s[0] <= begin), default=samples[0])
        after = min((s for s in samples if s[0] >= end), default=samples[-1])
        return after[1] - before[1]

    def _sample(self) -> None:
        while True:
            self._take()
            del self._samples[:-200]
            time.sleep(_SAMPLE_SECONDS)

    def _take(self) -> None:
        total = 0
        for thread in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
                    total += int(file.read().split()[1])
            except OSError:  # it has ended
                continue
        self._samples.append((time.monotonic(), total / 1e9))


class _Collections:
    """When the garbage collector ran, during which no thread of this process does."""

    def __init__(self) -> None:
        self.number = 0
        self.longest = 0.0
        self._spans: deque[tuple[float, float]] = deque(maxlen=1000)
        self._begun = 0.0
        gc.callbacks.append(self._on_collection)

    def took(self, begin: float, end: float) -> float:
        """Return the seconds of collections between two moments."""
        return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in tuple(self._spans))

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        now = time.monotonic()
        if phase == "start":
            self._begun = now
        elif info["generation"] == 2:
            self.number += 1
            self.longest = max(self.longest, now - self._begun)
            self._spans.append((self._begun, now))


class Deadlines:
    """Measures every scoring that has a deadline."""

    def __init__(self) -> None:
        self.number = 0
        self.longest = 0.0
        # end, seconds late, of all: on the run queue, and of the collector
        self.late: list[tuple[float, float, float, float]] = []
        self._queue = _RunQueue()
        self._collections = _Collections()

    def watch(self) -> None:
        """Put the measurement around ScoringService.score."""
        from service.core import ScoringService

        score = ScoringService.score

        def measured(
            service: Any, request: Any, deadline: float = math.inf, *more: Any, **named: Any
        ) -> Any:
            if deadline == math.inf:
                return score(service, request, deadline, *more, **named)
            begin = time.monotonic()
            try:
                return score(service, request, deadline, *more, **named)
            finally:
                self._end(begin, deadline)

        ScoringService.score = measured  # type: ignore[method-assign]

    def _end(self, begin: float, deadline: float) -> None:
        end = time.monotonic()
        late = end - deadline
        self.number += 1
        self.longest = max(self.longest, late)
        if late > _GRACE:
            collecting = self._collections.took(begin, end)
            self.late.append((end, late, self._queue.waited(begin, end), collecting))

    def write(self, path: Path) -> None:
        found = {
            "number": self.number,
            "longest": self.longest,
            "late": self.late,
            "collections": self._collections.number,
            "longest_collection": self._collections.longest,
        }
        path.write_text(json.dumps(found))


def let_the_clock_jump(path: Path) -> None:
    """Add to the wall clock of this process what a file says; call it before anything takes it."""
    true_time = time.time
    with path.open("r+b") as file:
        shift = mmap.mmap(file.fileno(), 8)
    time.time = lambda: true_time() + struct.unpack("<d", shift)[0]
    time.time_ns = lambda: int(time.time() * 1e9)
    # gRPC's core, in C, tells a deadline as a time of the true wall clock, and its Python part
    # takes the difference a moment later; so both need the same clock.
    cygrpc.time = types.SimpleNamespace(**{**vars(time), "time": true_time})


def main(directory: Path) -> None:
    let_the_clock_jump(directory / "clock")
    from service.run import serve
    from service.settings import Settings

    logging.getLogger("perslm.audit").setLevel(logging.ERROR)  # nobody reads them here
    settings = Settings(**json.loads((directory / "settings.json").read_text()))
    deadlines = Deadlines()
    deadlines.watch()

    def ready(urls: list[str]) -> None:
        (directory / "ready.part").write_text(json.dumps(urls))
        (directory / "ready.part").rename(directory / "ready")

    serve(settings, on_ready=ready)
    deadlines.write(directory / "deadlines.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
