"""What was published and deleted, when, and whether an answer agrees with it.

Times are of time.monotonic() in the process of the soak, where requests are sent and received, and
changes begun and acknowledged: so before and after are exact. What is *begun* may have happened;
what is *acknowledged* has. The rules for an answer, sent for at s:

1.  A model's answer names a generation that was begun for this user before the answer came, and
    equals what the oracle says of a content that was begun under that number.
2.  After a deletion is acknowledged, no earlier generation answers: at once through the replica
    that deleted; through another a second later. Only an answer that calls itself ``stale`` may, of
    a replica that has been cut off from the store since, or nearly: it cannot know. (Where it is
    not told of changes, it learns of one when it is next asked for that user.)
3.  A generation acknowledged a second before s, or a later one, answers; an older one only if it is
    called ``stale``, or the store is disturbed.
4.  No model: the answer changes nothing, and its reason is a documented one that can be true:
    ``unknown_user`` if the user may have had no model within the last second, ``bad_blob`` if what
    is stored was damaged, ``store_unavailable`` if the store is disturbed. ``loading`` always can.

A model may be ``stale`` while all is well, too: where a caller, or the machine, is in a hurry.

A second is what the service promises. ``SLACK`` is for the moments between a thread's work and its
look at the clock, on a machine that is busy; it is no part of rule 2 at the replica that deleted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.soak.contents import Content, Probe, fault_of, nothing_fault

PROMISE: Final = 1.0
SLACK: Final = 0.5
SETTLING: Final = 6.0
"""So long after a disturbance it may be felt: requests to the store time out, one after another."""

Owner = tuple[str, str]
"""Tenant and user id."""


@dataclass
class Record:
    """What happened to one user."""

    begun: dict[int, set[int]] = field(default_factory=dict)  # contents by generation
    acknowledged: list[tuple[float, int]] = field(default_factory=list)  # of publishes
    deleted: list[tuple[float, int, int | None]] = field(default_factory=list)
    """When acknowledged, the highest generation begun before, and by which replica."""
    absent_until: float = float(
        "inf"
    )  # a publish was acknowledged then, and no deletion begun since
    damaged_until: float = 0.0
    previous: dict[int, int] = field(default_factory=dict)  # what each generation replaced
    writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def generation(self) -> int:
        """The last one acknowledged, 0 after a deletion."""
        if not self.acknowledged:
            return 0
        newest = self.acknowledged[-1][1]
        return newest if not self.deleted or newest > self.deleted[-1][1] else 0


@dataclass(frozen=True)
class Violation:
    """An answer that should not have been given."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


class Ledger:
    """The truth about all users, and the judge of all answers. Thread-safe."""

    def __init__(self, contents: list[Content], probes: list[Probe]) -> None:
        self.contents, self.probes = contents, probes
        self.users: dict[Owner, Record] = {}
        self.begin = time.monotonic()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, list[float]] = {}  # by kind of client
        self.violations: list[Violation] = []
        self.stale_after_deletion = 0
        self._mutex = threading.Lock()
        self._disturbed: dict[int, list[tuple[float, float, str]]] = {}  # by replica

    # What happens

    def record(self, owner: Owner) -> Record:
        return self.users[owner]

    def publish_begins(self, owner: Owner, generation: int, content: int) -> None:
        with self._mutex:
            self.users[owner].begun.setdefault(generation, set()).add(content)

    def publish_ends(self, owner: Owner, generation: int, previous: int) -> None:
        now = time.monotonic()
        with self._mutex:
            record = self.users[owner]
            if generation not in record.begun:
                self._violate("publish", f"generation {generation} was given, none such was begun")
                return
            record.acknowledged.append((now, generation))
            record.previous[generation] = previous
            record.absent_until = now

    def deletion_begins(self, owner: Owner) -> None:
        with self._mutex:
            self.users[owner].absent_until = float("inf")

    def deletion_ends(self, owner: Owner, replica: int | None) -> None:
        now = time.monotonic()
        with self._mutex:
            record = self.users[owner]
            record.deleted.append((now, max(record.begun, default=0), replica))

    def damage(self, owner: Owner, until: float) -> None:
        """Say until when the stored blob may be unreadable."""
        with self._mutex:
            self.users[owner].damaged_until = until

    def disturb(self, replicas: list[int], what: str) -> None:
        """Say that from now on replicas may not reach the store; ``calm`` ends it."""
        now = time.monotonic()
        with self._mutex:
            for replica in replicas:
                self._disturbed.setdefault(replica, []).append((now, float("inf"), what))

    def calm(self, replicas: list[int]) -> None:
        now = time.monotonic()
        with self._mutex:
            for replica in replicas:
                spans = self._disturbed[replica]
                spans[-1] = (spans[-1][0], now, spans[-1][2])

    def is_disturbed(self, replica: int, begin: float, end: float) -> bool:
        """Tell whether the replica may have been without the store at a time between two."""
        spans = self._disturbed.get(replica, [])
        return any(a <= end and begin <= b + SETTLING for a, b, _ in spans)

    # What is answered

    def count(self, client: str, outcome: str, seconds: float | None = None) -> None:
        with self._mutex:
            self.outcomes[client, outcome] += 1
            if seconds is not None:
                self.seconds.setdefault(client, []).append(seconds)

    def violate(self, what: str, detail: str) -> None:
        with self._mutex:
            self._violate(what, detail)

    def judge(
        self,
        client: str,
        replica: int,
        owner: Owner,
        kind: str,
        index: int,
        answer: Mapping[str, Any],
        sent: float,
    ) -> None:
        """Hold an answer that has just come to the rules, and count it."""
        now = time.monotonic()
        reason = answer["reason"]
        probe = self.probes[index]
        self.count(client, reason, now - sent)
        with self._mutex:
            if answer["status"] == "ok":
                wrong = self._model(replica, owner, kind, index, answer, sent, now)
            else:
                wrong = nothing_fault(kind, probe, answer)
                wrong = wrong or self._nothing(replica, owner, str(reason), sent, now)
            if wrong:
                self._violate(
                    wrong,
                    f"{client} replica {replica} {kind} generation {answer['generation']} "
                    f"{answer['status']}/{reason}, {self._story(owner, sent, now)}",
                )

    def judge_blob(
        self, client: str, replica: int, owner: Owner, generation: int, blob: bytes, sent: float
    ) -> None:
        """Hold a model that was downloaded to the rules: it is as the store has it, now."""
        now = time.monotonic()
        self.count(client, "ok", now - sent)
        with self._mutex:
            record = self.users.get(owner)
            begun = record.begun.get(generation, ()) if record is not None else ()
            if record is None or all(self.contents[c].blob != blob for c in begun):
                wrong = "" if self._is_damaged(owner, sent) else "a model that was never published"
            elif any(generation <= last and sent > when for when, last, _ in record.deleted):
                wrong = "a model after its deletion"
            elif any(generation < newer and sent > when for when, newer in record.acknowledged):
                wrong = "an old generation"
            else:
                wrong = ""
            if wrong:
                self._violate(wrong, f"{client} replica {replica}, {self._story(owner, sent, now)}")

    def judge_refusal(
        self, client: str, replica: int, owner: Owner, code: str, sent: float
    ) -> None:
        """Hold the refusal of a download to the rules."""
        now = time.monotonic()
        self.count(client, code, now - sent)
        with self._mutex:
            record = self.users.get(owner)
            possible = {
                "overloaded": True,
                "store_unavailable": self.is_disturbed(replica, sent, now),
                "bad_blob": self._is_damaged(owner, sent),
                "unknown_user": record is None or sent < record.absent_until,
            }
            if not possible.get(code, False):
                self._violate(
                    f"{code} for a download", f"replica {replica}, {self._story(owner, sent, now)}"
                )

    def judge_library(
        self,
        client: str,
        replica: int,
        owner: Owner,
        index: int,
        scores: Mapping[str, Any],
        sent: float,
    ) -> None:
        """Hold what ``perslm.Client`` returned for candidates to the rules.

        It does not tell whether a model is stale: while it can be, it is.
        """
        now = time.monotonic()
        if scores["generation"] == 0 or not scores["weights"].any():
            self.count(client, "weights 0", now - sent)
            empty = {**scores, "generation": 0, "order": 0}
            wrong = nothing_fault("candidates", self.probes[index], empty)
            if wrong:
                self.violate(wrong, f"{client} replica {replica}")
            return
        with self._mutex:
            disturbed = self.is_disturbed(replica, sent - PROMISE - SLACK, now)
        answer = {**scores, "status": "ok", "reason": "stale" if disturbed else "ok"}
        self.judge(client, replica, owner, "candidates", index, answer, sent)

    def _is_damaged(self, owner: Owner, sent: float) -> bool:
        record = self.users.get(owner)
        return record is not None and sent < record.damaged_until

    def _model(
        self,
        replica: int,
        owner: Owner,
        kind: str,
        index: int,
        answer: Mapping[str, Any],
        sent: float,
        now: float,
    ) -> str:
        record = self.users.get(owner)
        generation, stale = answer["generation"], answer["reason"] == "stale"
        if answer["reason"] not in ("ok", "stale"):
            return "a status and a reason that do not go together"
        if record is None or generation not in record.begun:
            return "a generation that was never published"
        faults = [
            fault_of(self.contents[content], kind, index, self.probes[index], answer)
            for content in record.begun[generation]
        ]
        if all(faults):
            return f"not what the oracle says ({faults[0]})"
        cut_off = stale and self.is_disturbed(replica, sent - PROMISE, now)
        for when, last, by in reversed(record.deleted):
            if generation > last:
                break
            if sent > when if by == replica else sent > when + PROMISE:
                could_know = not self.is_disturbed(replica, when, when + PROMISE + SLACK)
                if cut_off and by != replica and not could_know:
                    self.stale_after_deletion += 1
                else:
                    return "a model after its deletion"
        if not stale and not self.is_disturbed(replica, sent - 2 * PROMISE, now):
            for when, newest in reversed(record.acknowledged):
                if when < sent - PROMISE - SLACK:
                    if generation < newest:
                        return "an old generation"
                    break
        if stale and not self.is_disturbed(replica, sent - PROMISE - SLACK, now):
            self.outcomes["all", "stale, the store well"] += 1
        return ""

    def _nothing(self, replica: int, owner: Owner, reason: str, sent: float, now: float) -> str:
        record = self.users.get(owner)
        disturbed = self.is_disturbed(replica, sent - PROMISE - SLACK, now)
        if reason == "loading":
            return ""
        if reason == "store_unavailable":
            return "" if disturbed else "store_unavailable, and nothing is wrong with the store"
        if reason == "bad_blob":
            return (
                ""
                if self._is_damaged(owner, sent) or disturbed
                else "bad_blob, and the blob is sound"
            )
        if reason == "unknown_user":
            if record is None or disturbed or sent < record.absent_until + PROMISE + SLACK:
                return ""
            return "unknown_user, and there is a model"
        return "a reason that is not documented"

    def _story(self, owner: Owner, sent: float, now: float) -> str:
        """Return what may explain a violation; times are seconds before the request was sent."""
        record = self.users.get(owner)
        if record is None:
            return "unknown user"
        acknowledged = [(f"{sent - when:.3f}", g) for when, g in record.acknowledged[-4:]]
        deleted = [(f"{sent - when:.3f}", g, by) for when, g, by in record.deleted[-2:]]
        spans = {
            replica: [f"{what} {sent - a:.2f} to {sent - b:.2f}" for a, b, what in spans[-3:]]
            for replica, spans in self._disturbed.items()
        }
        return (
            f"sent {sent - self.begin:.3f} s after the begin, answered in {now - sent:.3f} s; "
            f"published {acknowledged}, deleted {deleted}, disturbed {spans}"
        )

    def _violate(self, what: str, detail: str) -> None:
        self.violations.append(Violation(what, detail))
        self.outcomes["all", "violation"] += 1
