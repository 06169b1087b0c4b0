"""One run of the soak: what is started, in which order, what is measured, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from perslm import encryption
from perslm.store import open_store
from service.keyfile import create
from tests.service.server import Reply
from tests.soak.clients import (
    Crowd,
    Load,
    Replica,
    export_caller,
    http_caller,
    library_caller,
    score_once,
    stream_caller,
    unary_caller,
)
from tests.soak.contents import WEIGHT, make_contents, make_probes
from tests.soak.faults import ENCRYPTED, Faults
from tests.soak.ledger import SETTLING, Ledger, Owner, Record
from tests.soak.nasty import nasty_caller
from tests.soak.proxy import Proxy
from tests.soak.stores import Pair
from tests.soak.writers import Writer

TENANTS = ("default", ENCRYPTED)
TIMES_THE_CACHE = 10
_START_SECONDS = 30.0
_OVERHEAD_BYTES = 80 << 20
"""What a process may need beside the cache: threads, connections, requests and loads under way."""


@dataclass(frozen=True)
class Plan:
    """How much, how long, and from which seed."""

    seconds: float
    seed: int
    users: int = 800
    contents: int = 24
    pause: float = 0.04
    faults: tuple[str, ...] = ()  # these only; none: all
    grace: float = 0.010  # seconds that a request may outlive its deadline by


@dataclass
class Report:
    """What a run found; ``violations`` must be empty."""

    plan: Plan
    violations: list[str] = field(default_factory=list)
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)  # p50, p99, most
    replicas: list[dict[str, Any]] = field(default_factory=list)
    stale_after_deletion: int = 0

    def text(self) -> str:
        """Return the report for people."""
        plan = self.plan
        lines = [f"soak of {plan.seconds:.0f} s, seed {plan.seed}, {plan.users} users"]
        for client, outcomes in sorted(self.outcomes.items()):
            counted = ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
            lines.append(f"  {client:14} {counted}")
        lines.append("  faults         " + ", ".join(f"{n} {f}" for f, n in self.faults.items()))
        for client, (p50, p99, most) in sorted(self.milliseconds.items()):
            lines.append(f"  {client:14} p50 {p50:.2f} ms, p99 {p99:.1f} ms, most {most:.0f} ms")
        for number, facts in enumerate(self.replicas):
            lines.append(f"  replica {number}      {json.dumps(facts)}")
        lines.append(
            f"  {self.stale_after_deletion} answers called stale, by a replica cut off from the "
            "store, with a model deleted meanwhile"
        )
        lines += [f"VIOLATION {violation}" for violation in self.violations[:20]]
        lines.append(f"{len(self.violations)} violations; --seed {plan.seed} repeats the schedule")
        return "\n".join(lines)


class Service:
    """A process of the service, and what is measured of it from outside."""

    def __init__(self, number: int, directory: Path, settings: dict[str, Any]) -> None:
        self._directory = directory
        directory.mkdir()
        (directory / "settings.json").write_text(json.dumps(settings))
        self.clock = directory / "clock"
        self.clock.write_bytes(struct.pack("<d", 0.0))
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.server", str(directory)], stderr=log
            )
        self.pid = self._process.pid
        self.cache_bytes = settings["cache_bytes"]
        self.base_bytes = self.most_bytes = self.most_cached = 0
        self.figures: dict[str, float] = {}

    def urls(self) -> list[str]:
        """Return where it listens, once it does."""
        ready = self._directory / "ready"
        deadline = time.monotonic() + _START_SECONDS
        while not ready.exists():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        urls: list[str] = json.loads(ready.read_text())
        return urls

    def memory(self) -> int:
        """Return the resident set, in bytes; 0 if the process has died."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it in good order."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(3 * _START_SECONDS)
        assert code == 0, f"the service ended with {code}: {self.log()}"

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Return the end of its log."""
        return (self._directory / "log").read_text()[-2000:]

    def deadlines(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._directory / "deadlines.json").read_text())
        return found


def run(plan: Plan) -> Report:
    """Run the soak, and return what it found."""
    random = Random(plan.seed)
    probes = make_probes(random)
    contents = make_contents(plan.seed, plan.contents, probes)
    ledger = Ledger(contents, probes)
    report = Report(plan)
    directory = Path(tempfile.mkdtemp(prefix="perslm-soak-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        pair = Pair(directory)
        stack.callback(pair.close)
        proxy = Proxy([directory / f"proxy{i}" for i in range(4)])
        stack.callback(proxy.close)
        proxy.point_to(pair.primary.port)
        owners: list[Owner] = [
            (tenant, f"writer-{i}") for i in range(plan.users // 2) for tenant in TENANTS
        ]
        ledger.users.update({owner: Record() for owner in owners})
        crowd = Crowd(owners)
        master = directory / "master"
        encryption.create(master)
        writers = []
        for listener, writing in zip((2, 3), pair.writing, strict=True):
            url = f"unix://{proxy.paths[listener]}"
            stores = {
                tenant: stack.enter_context(
                    open_store(
                        url, tenant=tenant, master_keys=master if tenant == ENCRYPTED else None
                    )
                )
                for tenant in TENANTS
            }
            writers.append(Writer(ledger, crowd, stores, writing))
        for owner in owners:
            writers[0].publish(owner, random.randrange(plan.contents))
        mean = sum(content.nbytes for content in contents) / len(contents)
        keys = {
            tenant: create(
                directory / "keys",
                tenant,
                ["score", "model:read", "forget", "admin"],
                tenant=tenant,
            )[0]
            for tenant in TENANTS
        }
        services = []
        for number, (http, grpc) in enumerate(
            (
                ("127.0.0.1:0", "127.0.0.1:0"),
                (f"unix:{directory}/http", f"unix:{directory}/grpc"),
            )
        ):
            settings = {
                "store": f"unix://{proxy.paths[number]}",
                "http": http,
                "grpc": grpc,
                "keys": str(directory / "keys"),
                "master_keys": str(master),
                "weight": WEIGHT,
                "cache_bytes": int(mean * plan.users / TIMES_THE_CACHE),
            }
            services.append(Service(number, directory / f"service{number}", settings))
            stack.callback(services[-1].kill)
        replicas = [
            Replica(number, *service.urls(), keys) for number, service in enumerate(services)
        ]
        load = Load(ledger, crowd, replicas, plan.seed, plan.pause)
        stack.callback(load.stop)
        for service in services:
            service.base_bytes = service.memory()
        for replica in replicas:
            load.start("http json", replica, http_caller("json"))
            load.start("http msgpack", replica, http_caller("msgpack"))
            load.start("http msgpack", replica, http_caller("msgpack"))
            load.start("grpc unary", replica, unary_caller)
            load.start("grpc unary", replica, unary_caller)
            load.start("grpc stream", replica, stream_caller)
            load.start("grpc stream", replica, stream_caller)
            load.start("client http", replica, library_caller("http"))
            load.start("client grpc", replica, library_caller("grpc"))
            load.start("export", replica, export_caller)
            load.start("nasty", replica, nasty_caller)
        for replica, writer in zip(replicas, writers, strict=True):
            load.start("writer", replica, writer.work)
        watching = threading.Thread(target=_watch, args=(load, services, replicas, ledger))
        watching.start()
        faults = Faults(
            ledger,
            pair,
            proxy,
            replicas,
            [service.pid for service in services],
            [service.clock for service in services],
            master,
            random,
            plan.faults,
        )
        try:
            faults.run(plan.seconds)
        finally:
            load.stop()
            watching.join()
        time.sleep(SETTLING)
        _sweep(ledger, replicas)
        for service in services:
            service.stop()
        _judge_services(services, faults, ledger, report)
        report.faults = dict(sorted(faults.injected.items()))
    _summarize(ledger, report)
    return report


def _watch(load: Load, services: list[Service], replicas: list[Replica], ledger: Ledger) -> None:
    """Look at the memory of the services, and at what they say of their caches."""
    while not load.stopped.wait(0.5):
        for service, replica in zip(services, replicas, strict=True):
            memory = service.memory()
            if memory == 0:
                ledger.violate("died", service.log())
                load.stopped.set()
                return
            service.most_bytes = max(service.most_bytes, memory)
            connection = replica.connect()
            try:
                connection.request("GET", "/metrics", headers=replica.headers("default"))
                response = connection.getresponse()
                text = Reply(response.status, response.headers, response.read()).body.decode()
            except OSError as error:
                ledger.violate("no metrics", type(error).__name__)
                continue
            finally:
                connection.close()
            for line in text.splitlines():
                name, _, value = line.rpartition(" ")
                if name.startswith("perslm_cache"):
                    service.figures[name] = float(value)
            service.most_cached = max(
                service.most_cached, int(service.figures["perslm_cache_bytes"])
            )


def _sweep(ledger: Ledger, replicas: list[Replica]) -> None:
    """Ask every replica for every user: nothing that was acknowledged may be lost."""
    for replica in replicas:
        connection = replica.connect()
        for owner, record in ledger.users.items():
            for _ in range(100):
                answer = score_once(ledger, "sweep", replica, owner, connection)
                if answer["reason"] not in ("loading", "stale"):
                    break
                time.sleep(0.02)
            expected = record.generation and record.absent_until < float("inf")
            if expected and answer["status"] != "ok":
                ledger.violate("lost", f"replica {replica.number} says {answer['reason']}")
            elif expected and answer["generation"] < record.generation:
                ledger.violate("lost", f"replica {replica.number} has an older generation")
        connection.close()


def _judge_services(
    services: list[Service], faults: Faults, ledger: Ledger, report: Report
) -> None:
    """Hold memory and deadlines to their bounds."""
    largest = max(content.nbytes for content in ledger.contents)
    for number, service in enumerate(services):
        bound = service.base_bytes + int(1.3 * service.cache_bytes) + _OVERHEAD_BYTES
        if service.most_bytes > bound:
            ledger.violate("memory", f"{service.most_bytes} bytes are over {bound}")
        if service.most_cached > service.cache_bytes + largest:
            ledger.violate("memory", f"the cache holds {service.most_cached} bytes")
        found = service.deadlines()
        excused = 0
        for end, late, queued, collecting in found["late"]:
            frozen = any(a <= end and end - late <= b for a, b in faults.frozen[number])
            if frozen or queued >= late - report.plan.grace:
                excused += 1
            else:
                ledger.violate(
                    "deadline",
                    f"replica {number} worked {late * 1e3:.1f} ms longer, "
                    f"{queued * 1e3:.1f} ms of it waiting for a processor, "
                    f"{collecting * 1e3:.1f} ms collecting garbage",
                )
        report.replicas.append(
            {
                "base_mib": service.base_bytes >> 20,
                "most_mib": service.most_bytes >> 20,
                "bound_mib": bound >> 20,
                "cache_mib": round(service.cache_bytes / (1 << 20), 1),
                "most_cached_mib": round(service.most_cached / (1 << 20), 1),
                "with_deadline": found["number"],
                "latest_ms": round(1e3 * found["longest"], 1),
                "late_for_want_of_a_processor": excused,
                "full_collections": found["collections"],
                "longest_collection_ms": round(1e3 * found["longest_collection"], 1),
                **{
                    name.removeprefix("perslm_").removesuffix("_total"): int(value)
                    for name, value in service.figures.items()
                    if "created" not in name
                },
            }
        )


def _summarize(ledger: Ledger, report: Report) -> None:
    outcomes: dict[str, Counter[str]] = {}
    for (client, outcome), number in ledger.outcomes.items():
        outcomes.setdefault(client, Counter())[outcome] = number
    report.outcomes = {client: dict(counted) for client, counted in outcomes.items()}
    for client, seconds in ledger.seconds.items():
        p50, p99 = np.percentile(seconds, [50, 99])
        report.milliseconds[client] = [1e3 * p50, 1e3 * p99, 1e3 * max(seconds)]
    report.stale_after_deletion = ledger.stale_after_deletion
    report.violations = [str(violation) for violation in ledger.violations]
