"""Progress on standard error: a bar in a terminal, a line for each tenth of a stage in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from perslm.cli.common import stderr


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[_Bar | _Lines]:
    """Yield a ``builders.routing.Progress`` for a run; with ``quiet`` it shows nothing."""
    if quiet or not stderr.is_terminal:
        yield _Lines(quiet)
        return
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # rarely, for what is measured meanwhile is felt by every thread
    with Bar(*columns, console=stderr, refresh_per_second=2) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def stage(self, name: str, total: int) -> None:
        self._bar.reset(self._task, description=name, total=total)

    def advance(self, amount: int) -> None:
        self._bar.advance(self._task, amount)


class _Lines:
    """A line when a stage begins, and at each tenth of it how long the rest will take."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._name, self._total, self._done = "", 0, 0
        self._began = 0.0

    def stage(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        self._began = time.monotonic()
        if not self._quiet:
            stderr.print(f"{name} ({total})")

    def advance(self, amount: int) -> None:
        before, self._done = self._done, self._done + amount
        if self._quiet or not self._total:
            return
        tenths = min(10 * self._done // self._total, 10)
        if 10 * before // self._total < tenths < 10:
            elapsed = time.monotonic() - self._began
            left = elapsed * (self._total - self._done) / self._done
            stderr.print(f"{self._name}: {10 * tenths}%, {_span(left)} left")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
