"""``perslm top``: a running service in a terminal, anew every second.

What is shown comes from ``perslm.monitor``. In a terminal the screen is used, and q ends it; where
the output goes to a file or a pipe, each second is a block of text, or with ``--json`` a line.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from perslm.cli.common import JsonOption, add_command, print_json, stdout
from perslm.errors import ServiceError
from perslm.monitor import Monitor, Reading, RefusedError, summary

_UNKNOWN = "–"


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(
        app,
        top,
        "perslm top",
        "perslm top https://scorer:8443 --ca ca.pem --token KEY",
        "perslm top unix:/run/perslm.sock --once --json",
    )


def top(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar="PERSLM_URL",
            help="Where the service answers HTTP: http://HOST:PORT, https://HOST:PORT, unix:/PATH.",
        ),
    ] = "http://127.0.0.1:8377",
    token: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="PERSLM_TOKEN",
            help="A key or token with the scope admin, where the service asks for one.",
        ),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The authorities to trust instead of the system's."),
    ] = None,
    cert: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Our own certificate with its key, if the service asks for one."
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.05, help="Seconds from one look at the service to the next.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show what happens in one interval, and exit.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Watch a running service: requests, latencies, the cache, what went wrong.

    Reads /metrics and /readyz every second until q or Ctrl-C. While the service does not answer it
    says so and goes on trying; with --once that is an error. Latencies are read off the buckets of
    histograms, so they are about right only.

    With --json each interval is one line: ready and reason, requests by outcome, latency by
    transport and route (seconds), phases, without (the user's model) and refused by reason, cache,
    workers, lag, process. A service that is away is {"ready": false, "reason": "away", "problem":
    …}.
    """
    monitor = Monitor(url, token, ca, cert)
    first = monitor.read() if once else None
    try:
        if once:
            assert first is not None
            time.sleep(interval)
            _print(monitor, summary(first, monitor.read()), json)
        elif json or not stdout.is_terminal:
            for state in _states(monitor, interval, time.sleep):
                _print(monitor, state, json)
                sys.stdout.flush()
        else:
            _watch(monitor, interval)
    except KeyboardInterrupt:
        pass  # the way to end it


def _watch(monitor: Monitor, interval: float) -> None:
    """Show states on the screen of the terminal until somebody presses q."""
    with _keys() as pause, Live(console=stdout, screen=True, auto_refresh=False) as live:
        live.update(Text(f"{monitor.location}: asking …"), refresh=True)
        for state in _states(monitor, interval, pause):
            live.update(_view(monitor, state), refresh=True)


class _EndError(Exception):
    """Somebody pressed q."""


def _states(
    monitor: Monitor, interval: float, pause: Callable[[float], object]
) -> Iterator[dict[str, Any]]:
    """Yield a state for every interval, whether or not there is an answer.

    Raises RefusedError if the first answer is a refusal: whoever starts this can mend it.
    """
    before: Reading | None = None
    answered = time.monotonic()
    due = answered
    told = False
    while True:
        try:
            now = monitor.read()
        except ServiceError as error:
            if isinstance(error, RefusedError) and not told:
                raise
            before = None
            seconds = time.monotonic() - answered
            yield {"ready": False, "reason": "away", "problem": str(error), "seconds": seconds}
        else:
            told = True
            answered = now.at
            if before is not None:
                yield summary(before, now)
            before = now
        due = max(due + interval, time.monotonic())
        try:
            pause(max(0.0, due - time.monotonic()))
        except _EndError:
            return


@contextmanager
def _keys() -> Iterator[Callable[[float], None]]:
    """Yield what waits for so many seconds, and raises _EndError if q is pressed meanwhile."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, termios.error):  # no terminal to read keys from
        yield time.sleep
        return

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            keys = os.read(descriptor, 64)  # past the buffer, which select knows nothing of
            if b"q" in keys.lower():
                raise _EndError
            if not keys:  # the terminal is gone
                raise KeyboardInterrupt

    tty.setcbreak(descriptor)
    try:
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _print(monitor: Monitor, state: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"url": monitor.location, **state})
    else:
        stdout.print(_view(monitor, state))


def _view(monitor: Monitor, state: dict[str, Any]) -> RenderableType:
    """Return what is shown of a state."""
    name = Text(f"perslm {monitor.location}  ", "bold")
    if "problem" in state:
        away = Text(f"away for {state['seconds']:.0f} s, trying again: ", "bold red")
        return Text.assemble(name, away, state["problem"])
    ready = state["ready"]
    said = "ready" if ready else f"not ready: {state['reason']}"
    process = state["process"]
    head = Text.assemble(
        name,
        (said, "green" if ready else "bold red"),
        f"  {state['per_second']:,.1f} requests/s  {_number(process['cores'], 2)} cores  "
        f"{_bytes(process['memory_bytes'])} resident",
    )
    restarts = f", {state['restarts']:.0f} restarts" if state["restarts"] else ""
    lag = "".join(f"  {p} {_seconds(state['lag'][p])}" for p in ("p50", "p99"))
    facts = Text(
        f"{_number(state['workers'], 0)} workers{restarts}  "
        f"{state['in_flight']:.2f} requests in flight, {state['waiting']:.2f} of them waiting for "
        f"a model  {state['sheds_per_second']:,.1f} sheds/s"
        + (f"  new generations used after{lag}" if state["lag"]["new"] else "")
    )
    sides = Table.grid(padding=(0, 3))
    sides.add_row(_phases(state), _reasons(state), _cache(state))
    return Group(head, facts, "", _routes(state), "", sides)


def _routes(state: dict[str, Any]) -> Table:
    table = _table("route", "per s", "p50", "p90", "p99", "outcomes, per s")
    table.columns[-1].justify = "left"
    for row in state["latency"]:
        outcomes = (
            f"{r['reason']} {_number(r['per_second'])}"
            for r in state["requests"]
            if (r["transport"], r["route"]) == (row["transport"], row["route"])
        )
        table.add_row(
            f"{row['transport']} {row['route']}",
            _number(row["per_second"]),
            *(_seconds(row[p]) for p in ("p50", "p90", "p99")),
            ", ".join(outcomes),
        )
    return table


def _phases(state: dict[str, Any]) -> Table:
    table = _table("phase", "p50", "p90", "p99")
    for row in state["phases"]:
        table.add_row(row["phase"], *(_seconds(row[p]) for p in ("p50", "p90", "p99")))
    return table


def _reasons(state: dict[str, Any]) -> Table:
    table = _table("no model, refused", "per s")
    rows = {**state["without"], "stale": state["stale_per_second"], **state["refused"]}
    for reason, rate in rows.items():
        if rate:
            table.add_row(reason, _number(rate))
    return table


def _cache(state: dict[str, Any]) -> Table:
    cache = state["cache"]
    table = _table("cache", "")
    rate = cache["hit_rate"]
    table.add_row("hits", _UNKNOWN if rate is None else f"{100 * rate:.1f}%")
    table.add_row("models", _number(cache["models"], 0))
    table.add_row("entries", _number(cache["entries"], 0))
    table.add_row("memory", _bytes(cache["bytes"]))
    table.add_row("loads/s", _number(cache["loads_per_second"]))
    table.add_row("evictions/s", _number(cache["evictions_per_second"]))
    for reason, number in cache["failures_per_second"].items():
        table.add_row(f"{reason}/s", _number(number), style="red")
    return table


def _table(first: str, *others: str) -> Table:
    return Table(
        Column(first, no_wrap=True),
        *(Column(name, justify="right", no_wrap=name != others[-1]) for name in others),
        box=None,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )


def _number(value: float | None, digits: int = 1) -> str:
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms"


def _bytes(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value / (1 << 20):,.1f} MiB"
