"""Progress on standard error: a bar in a terminal, a line for each stage in a log."""

from __future__ import annotations

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
    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def stage(self, name: str, total: int) -> None:
        if not self._quiet:
            stderr.print(f"{name} ({total})")

    def advance(self, amount: int) -> None:
        """Say nothing: a log has the stages."""
