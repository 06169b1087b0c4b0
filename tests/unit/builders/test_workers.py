"""Work in other processes: in order, bounded, and ended cleanly however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.workers import ordered_map
from perslm.errors import MissingExtraError, PerslmError

_offset = 0


def set_up(offset: int) -> None:
    global _offset  # noqa: PLW0603 - as the processes of a build keep what they were given
    _offset = offset


def add(number: int) -> tuple[int, int]:
    return number + _offset, os.getpid()


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(number)


def miss(number: int) -> int:
    raise MissingExtraError("the language gate", "builders")


def fail_to_set_up(offset: int) -> None:
    raise ValueError("no set-up")


def large(number: int) -> bytes:
    return bytes(1 << 20)


def ignores_interrupts(number: int) -> bool:
    os.kill(os.getpid(), signal.SIGINT)
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_from_processes_that_were_set_up(jobs: int) -> None:
    found = list(ordered_map(add, range(20), jobs=jobs, setup=set_up, setup_arguments=(100,)))
    assert [number for number, _ in found] == list(range(100, 120))
    assert (os.getpid() in {process for _, process in found}) is (jobs == 1)
    set_up(0)


def test_only_a_few_chunks_are_in_flight() -> None:
    taken: list[int] = []

    def chunks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(add, chunks(), jobs=2, setup=set_up, setup_arguments=(0,))
    next(results)
    assert len(taken) == 6
    results.close()
    assert len(taken) == 6
    assert not multiprocessing.active_children()


def test_a_killed_process_is_an_error_with_a_remedy() -> None:
    with pytest.raises(PerslmError, match="--jobs"):
        list(ordered_map(die, range(10), jobs=2, setup=set_up, setup_arguments=(0,)))
    assert not multiprocessing.active_children()


def test_what_the_work_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="0"):
        list(ordered_map(fail, range(10), jobs=2, setup=set_up, setup_arguments=(0,)))
    assert not multiprocessing.active_children()


def test_an_error_keeps_its_attributes_and_says_where_it_was_raised() -> None:
    with pytest.raises(MissingExtraError, match="pip install") as raised:
        list(ordered_map(miss, range(4), jobs=2, setup=set_up, setup_arguments=(0,)))
    assert raised.value.extra == "builders"
    assert "in miss" in raised.value.__notes__[0]


def test_what_the_setup_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="no set-up"):
        list(ordered_map(add, range(4), jobs=2, setup=fail_to_set_up, setup_arguments=(0,)))


def test_results_larger_than_a_pipe_holds() -> None:
    chunks = [bytes(1 << 20)] * 8
    found = ordered_map(large, chunks, jobs=2, setup=set_up, setup_arguments=(0,))
    assert [len(result) for result in found] == [1 << 20] * 8


def test_a_process_that_dies_while_it_sends_is_an_error_not_a_wait() -> None:
    results = ordered_map(large, range(20), jobs=2, setup=set_up, setup_arguments=(0,))
    next(results)
    # More than a pipe holds is still to be sent, and nobody reads it.
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(PerslmError, match="--jobs"):
        list(results)
    assert not multiprocessing.active_children()


def test_processes_leave_interrupts_to_the_parent() -> None:
    found = ordered_map(ignores_interrupts, range(4), jobs=2, setup=set_up, setup_arguments=(0,))
    assert list(found) == [True] * 4
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import itertools\n"
        "from builders.workers import ordered_map\n"
        "from tests.unit.builders.test_workers import add, set_up\n"
        "if __name__ == '__main__':\n"
        "    chunks = itertools.count()\n"
        "    results = ordered_map(add, chunks, jobs=2, setup=set_up, setup_arguments=(0,))\n"
        "    print(next(results), flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"(0, ")
        parent.kill()
        # Every process holds the other end of this pipe: it closes when the last one has ended.
        assert parent.communicate(timeout=30)[0] == b""
