"""Fill a cache of 24 MiB with ten times as much, and print by how much this process grew.

Two numbers, in bytes: for models, and then for a flood of unknown users on top of them.
"""

from __future__ import annotations

import gc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from perslm.rules import Rules
from perslm.store import Stored
from service.cache import ModelCache
from tests.service.support import FINGERPRINT, blob_of, settings
from tests.support import Seq


@dataclass
class Models:
    """A store that has a model for everyone whose id is a number, and for nobody else."""

    blob: bytes

    def of_tenant(self, tenant: str) -> Models:
        return self

    def rules(self, user: str | None) -> Rules:
        return Rules()

    def fetch(self, user: str) -> Stored | None:
        if not re.fullmatch("[0-9]+", user):
            return None
        copy = bytes(bytearray(self.blob))  # as each comes from the network
        return Stored(user, 1, 0, len(copy), 0.0, "0" * 32, 1, 1, FINGERPRINT, copy)


def resident() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    random = Random(1)
    mail = [Seq(random.choices(range(2, 12), k=30), True, True) for _ in range(400)]
    store: Any = Models(blob_of(mail, 5))
    limits = settings(fresh_seconds=3600.0, cache_bytes=24 << 20)
    warm = ModelCache(store, limits)
    size = warm.get("1").bytes
    warm.get("nobody")
    cache = ModelCache(store, limits)
    before = resident()
    for user in range(10 * (24 << 20) // size):
        cache.get(str(user))
    models = resident() - before
    for i in range(20_000):
        cache.get(f"nobody-{i:0200}")
    print(models, resident() - before)


if __name__ == "__main__":
    main()
