"""``perslm build --runner spark``: from its options to ``builders.spark``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from perslm.store import DEFAULT_URL, open_store
from perslm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from builders.prepare import Settings
    from builders.report import Report
    from builders.routing import Progress, Router


def build_on_spark(
    sources: list[str],
    *,
    store: str | None,
    master_keys: Path | None,
    master: str | None,
    conf: Iterable[str],
    vocabulary: Vocabulary,
    user: str | None,
    me: Collection[str],
    by_file: bool,
    settings: Settings,
    window: float | None,
    progress: Progress,
    report: Report,
) -> Router:
    """Start Spark, build, stop it; ``report`` is filled. Returns who was taken for whom.

    Raises what ``builders.spark.session`` and ``builders.spark.build`` do.
    """
    from builders.spark import Target, Whose, build, session

    url = store or os.environ.get("PERSLM_STORE") or DEFAULT_URL
    keys = str(master_keys) if master_keys else None
    with open_store(url, master_keys=keys, patient=True) as opened:
        opened.ping()  # before Spark is started, and mail is read: that may take hours
        with session(master, conf) as spark:
            return build(
                spark,
                sources,
                store=opened,
                target=Target(url, opened.tenant, keys),
                vocabulary=vocabulary,
                whose=Whose(user, me, by_file),
                settings=settings,
                window=window,
                progress=progress,
                report=report,
            )
