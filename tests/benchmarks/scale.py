"""What many users need: a load of made-up ones into one embedded server, and plans for more.

    python -m tests.benchmarks.scale [--users 200000] [--json]
    python -m tests.benchmarks.scale --plan

The load publishes models whose sizes are drawn from ``SIZES``, those of real people's models, and
whose counts are made up. Bytes are the server's own figures; other work on the machine slows the
rates, so the seconds of processor time are told beside them. The plan is arithmetic over
``Figures``; docs/scale.md has its tables, and a test holds it to them.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from perslm.bench.corpus import SPECIALS, Corpus, invent
from perslm.bench.steps import beam_steps
from perslm.blob import Metadata, encode
from perslm.counts import count
from perslm.model import PersonalModel
from perslm.store import Head, Store, open_store

SIZES: Final = (1650, 2198, 2682, 3278, 3730, 4410, 8228, 9288, 12146, 27337, 37630)
"""Bytes of real people's models: the smallest, every tenth of them by size, the largest.

Those of 49 people who sent 817 messages each on average, built with the defaults; with
``--min-messages 1`` they are three times as large.
"""

_KINDS = 50  # different sizes of made-up models
_WRITERS = 4  # made-up people, each with a model of every size
_TOKENS = 60_000  # that each of them wrote
_PUBLISHERS = 8  # threads
_FINGERPRINT = "0" * 32


# The load


def size_at(share: float) -> int:
    """Return the size of a model that this share of models does not exceed."""
    return int(np.interp(share, np.linspace(0, 1, len(SIZES)), SIZES))


def blob_of(corpus: Corpus, size: int) -> bytes:
    """Return a model of about so many bytes: of as many sentences of the user as it takes."""
    sentences = corpus.users[0]
    low, high, best = 1, len(sentences), b""
    while low <= high:
        tried = (low + high) // 2
        best = encode(count(sentences[:tried], 3, SPECIALS), Metadata(_FINGERPRINT))
        low, high = (tried + 1, high) if len(best) < size else (low, tried - 1)
    return best


def name(i: int) -> str:
    return f"first.last{i:07}@example.com"


def percentile(seconds: list[float], share: float) -> float:
    return float(np.quantile(seconds, share)) * 1e3


def load(users: int, directory: Path, found: dict[str, float]) -> None:
    """Publish so many models into a new embedded server in ``directory``, and fill ``found``."""
    people = [invent(_TOKENS, seed=i) for i in range(_WRITERS)]
    blobs = [
        blob_of(person, size_at((i + 0.5) / _KINDS)) for person in people for i in range(_KINDS)
    ]
    chance = random.Random(1)
    chosen = [chance.randrange(len(blobs)) for _ in range(users)]
    found |= {"users": users, "blob_bytes": sum(len(blobs[i]) for i in chosen)}
    with open_store(f"embedded:{directory}", timeout=60) as store:
        store.ping()
        warm = users // 10  # what the server needs for anybody is no user's
        everybody = range(users)
        with ThreadPoolExecutor(_PUBLISHERS) as pool:

            def publish_all(some: range) -> int:
                for _ in pool.map(lambda i: publish(store, name(i), blobs[chosen[i]]), some):
                    pass
                return sum(len(blobs[chosen[i]]) for i in some)

            before = publish_all(everybody[:warm]) - memory(store)
            with measured(found, "publish", store, users - warm):
                published = publish_all(everybody[warm:])
        found["memory_bytes"] = memory(store)
        found["beyond_blob_bytes"] = (before + found["memory_bytes"] - found["blob_bytes"]) / (
            users - warm
        )
        found["publish_bytes_beyond_blob"] = found.pop("publish_sent") - published / (users - warm)
        with measured(found, "heads", store, users):
            heads = store.heads([name(i) for i in range(users)])
        assert all(head.generation == 1 for head in heads)
        some = [name(chance.randrange(users)) for _ in range(min(users, 2000))]
        times = []
        for user in some:
            began = time.perf_counter()
            store.load(user, strict=True)
            times.append(time.perf_counter() - began)
        found["cold_load_p50_ms"], found["cold_load_p99_ms"] = (
            percentile(times, share) for share in (0.5, 0.99)
        )
        times = []
        for i in range(20):
            model = PersonalModel.from_blob(blobs[i * len(blobs) // 20])
            for step in beam_steps(people[0], 0, model, number=50):
                began = time.perf_counter()
                states = model.states(step.histories)
                model.score(states, step.candidates)
                model.weights(states)
                times.append(time.perf_counter() - began)
        found["warm_step_p50_ms"], found["warm_step_p99_ms"] = (
            percentile(times, share) for share in (0.5, 0.99)
        )
        client = store._connection.client()
        found["aof_bytes"] = client.info("persistence")["aof_current_size"]
    began = time.perf_counter()
    with open_store(f"embedded:{directory}", timeout=600) as store:
        store.ping()
        found["restart_seconds"] = time.perf_counter() - began
        client = store._connection.client()
        client.save()
        found["rdb_bytes"] = (directory / "dump.rdb").stat().st_size


def publish(store: Store, user: str, blob: bytes) -> None:
    store.publish(
        user,
        blob,
        parent=Head(0, 0),
        source_digest=uuid.uuid4().hex,
        messages=800,
        tokens=30_000,
        vocabulary=_FINGERPRINT,
    )


def memory(store: Store) -> int:
    used: int = store._connection.client().info("memory")["used_memory"]
    return used


class measured:  # noqa: N801 - it reads as a verb
    """How many users a second: by the clock, and by the processor time of client and server."""

    def __init__(self, found: dict[str, float], what: str, store: Store, users: int) -> None:
        self._found, self._what, self._store, self._users = found, what, store, users

    def _now(self) -> tuple[float, float, float, int]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        info = self._store._connection.client().info("cpu")
        server = info["used_cpu_user"] + info["used_cpu_sys"]
        sent = self._store._connection.client().info("stats")["total_net_input_bytes"]
        return time.perf_counter(), own.ru_utime + own.ru_stime, server, sent

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *_: object) -> None:
        *seconds, sent = np.subtract(self._now(), self._began).tolist()
        for kind, passed in zip(("", "_client_cpu", "_server_cpu"), seconds, strict=True):
            self._found[f"{self._what}_per_second{kind}"] = self._users / passed
        self._found[f"{self._what}_sent"] = sent / self._users


# The plan


def _figure(value: float, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Figures:
    """What the plan rests on; docs/scale.md says where each comes from."""

    blob_bytes: float = _figure(9294, "bytes of a model: the mean of `SIZES`")
    beyond_bytes: float = _figure(200, "bytes in the server's memory for a generation, beside it")
    publish_bytes: float = _figure(4100, "bytes sent with it: the script, and what is said of it")
    publishes_a_second: float = _figure(4500, "publishes, for a core of the server")
    unchanged_a_second: float = _figure(45000, "users looked at and left, for a core of a builder")
    messages_a_second: float = _figure(1270, "JSON lines to published models, for a core")
    steps_a_second: float = _figure(28800, "beam steps that the service answers, for a core")

    messages: float = _figure(800, "messages of a user before the first build")
    messages_a_day: float = _figure(10, "messages that a user sends a day")
    changed: float = _figure(0.5, "share of users whose model changes in a night")
    active: float = _figure(0.4, "share of users who write with suggestions on a day")
    loads_a_day: float = _figure(20, "loads a day of an active user's model that no service had")
    steps_a_day: float = _figure(5000, "steps a day of an active user: 600 words, 8 steps each")
    peak: float = _figure(5, "the busiest hour, as a multiple of the mean")

    kept_days: float = _figure(7, "days that a replaced generation stays")
    copies: float = _figure(2, "a primary and its replica")
    headroom: float = _figure(1.4, "memory for fragmentation, buffers and rewriting the log")
    node_gib: float = _figure(64, "GiB of memory of a node")
    amplification: float = _figure(1.2, "bytes on disk for each stored, in an LSM tree")
    disk_memory: float = _figure(0.05, "memory for a byte on disk: indexes, filters, cache")
    night_hours: float = _figure(6, "hours that a night has")
    busy: float = _figure(0.5, "share of a core that is planned to be in use")
    ram_price: float = _figure(4, "$ a month for a GiB of memory, with the CPU that comes with it")
    ssd_price: float = _figure(0.12, "$ a month for a GiB of SSD")
    core_price: float = _figure(0.04, "$ an hour for a core")


USERS: Final = (1_000_000, 100_000_000, 1_500_000_000)
_MONTH_HOURS = 730
_MONTH_NIGHTS = 30.4
_GIB = 2**30


def plan(users: int, f: Figures = Figures()) -> dict[str, str]:
    """Return what so many users need, row by row."""
    kept = f.changed * f.kept_days  # replaced generations of a user
    blobs = users * f.blob_bytes
    replaced = users * kept * f.blob_bytes
    beside = users * (1 + kept) * f.beyond_bytes
    stored = blobs + replaced + beside
    ram = stored * f.copies * f.headroom
    ssd = stored * f.copies * f.amplification
    cache = ssd * f.disk_memory
    changed = users * f.changed
    night_seconds = f.night_hours * 3600
    night_bytes = changed * (f.blob_bytes + f.publish_bytes)
    first_hours = users * f.messages / f.messages_a_second / 3600
    night_core_hours = (
        users * f.messages_a_day / f.messages_a_second + users / f.unchanged_a_second
    ) / 3600
    a_day = users * f.active
    loads = a_day * f.loads_a_day * f.peak / 86400
    steps = a_day * f.steps_a_day * f.peak / 86400
    serving = steps / f.steps_a_second / f.busy
    builds = night_core_hours / f.busy * _MONTH_NIGHTS * f.core_price
    serve_price = serving * _MONTH_HOURS * f.core_price
    ram_price, ssd_price = (
        ram / _GIB * f.ram_price,
        (ssd * f.ssd_price + cache * f.ram_price) / _GIB,
    )
    rest = builds + serve_price
    return {
        "**Stored**": "",
        "models in use": size(blobs),
        "replaced generations": size(replaced),
        "beside the blobs": size(beside),
        "**Redis Cluster**": "",
        "memory, all copies": size(ram),
        f"nodes of {f.node_gib:.0f} GiB": number(max(6.0, np.ceil(ram / _GIB / f.node_gib))),
        "a month": dollars(ram_price),
        "**Kvrocks**": "",
        "disk, all copies": size(ssd),
        "memory for indexes and cache": size(cache),
        "a month ": dollars(ssd_price),
        "**Builds**": "",
        "first build, core hours": number(first_hours),
        "first build": dollars(first_hours / f.busy * f.core_price),
        "a night, core hours": number(night_core_hours),
        f"cores for {f.night_hours:.0f} hours": number(
            np.ceil(night_core_hours / f.night_hours / f.busy)
        ),
        "publishes a second": number(changed / night_seconds),
        "cores of primaries for them": number(
            np.ceil(changed / night_seconds / f.publishes_a_second / f.busy)
        ),
        "network into primaries": bits(night_bytes / night_seconds),
        "a month  ": dollars(builds),
        "**Serving at the busiest hour**": "",
        "steps a second": number(steps),
        "cores of the service": number(np.ceil(serving)),
        "cold loads a second": number(loads),
        "network from the store": bits(loads * f.blob_bytes),
        "a month   ": dollars(serve_price),
        "**All together**": "",
        "a month, on Redis Cluster": dollars(ram_price + rest),
        "a month, on Kvrocks": dollars(ssd_price + rest),
        "a user and year, on Redis Cluster": dollars((ram_price + rest) * 12 / users),
        "a user and year, on Kvrocks": dollars((ssd_price + rest) * 12 / users),
    }


def number(value: float) -> str:
    """Return two digits that count, or all of a number below 100."""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def scaled(value: float, step: int, units: str) -> str:
    names = units.split()
    while value >= step and len(names) > 1:
        value, names = value / step, names[1:]
    return f"{number(value)} {names[0]}"


def size(value: float) -> str:
    return scaled(value, 1024, "B KiB MiB GiB TiB PiB")


def bits(value: float) -> str:
    return scaled(value * 8, 1000, "bit/s kbit/s Mbit/s Gbit/s Tbit/s")


def dollars(value: float) -> str:
    return f"${number(value)}"


def table(f: Figures = Figures()) -> str:
    """Return the plans for ``USERS`` as a table in Markdown."""
    plans = [plan(users, f) for users in USERS]
    names = ["1 M", "100 M", "1.5 B"]
    lines = ["| users | " + " | ".join(names) + " |", "|---|--:|--:|--:|"]
    lines += [f"| {row.strip()} | " + " | ".join(p[row] for p in plans) + " |" for row in plans[0]]
    return "\n".join(lines)


def figures(f: Figures = Figures()) -> str:
    """Return what the plans rest on as a table in Markdown."""
    lines = ["| name | value | what it is |", "|---|--:|---|"]
    lines += [
        f"| `{one.name}` | {getattr(f, one.name):,g} | {one.metadata['meaning']} |"
        for one in fields(f)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plan", action="store_true", help="no load: the tables of docs/scale.md")
    parser.add_argument(
        "--assume", action="append", default=[], metavar="NAME=VALUE",
        help="another figure for the plan, by its name in Figures",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.plan:
        pairs = (text.partition("=")[::2] for text in arguments.assume)
        chosen = replace(Figures(), **{name: float(value) for name, value in pairs})
        print(figures(chosen), table(chosen), sep="\n\n")
        return
    found: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="perslm-scale-") as place:
            load(arguments.users, Path(place) / "store", found)
    finally:  # what was found until then took its time
        if arguments.json:
            print(json.dumps(found))
        else:
            for what, value in found.items():
                print(f"{what:32} {value:16,.2f}")


if __name__ == "__main__":
    main()
