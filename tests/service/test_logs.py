from __future__ import annotations

import json
import logging
import queue

import pytest

from service import logs
from service.logs import Limited, formatter, log_refusal
from service.metrics import CacheFigures, Metrics, Watch
from service.problems import problem_of
from tests.service.support import settings

SECRET = "engineer@example.com"


def refused() -> Watch:
    watch = Metrics(CacheFigures()).watch("http", "score")
    watch.refused("invalid_request", "17")
    return watch


def the_line(caplog: pytest.LogCaptureFixture, form: str) -> str:
    (record,) = caplog.records
    return formatter(settings(log_format=form)).format(record)


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service")


def test_a_refusal_in_json(caplog: pytest.LogCaptureFixture) -> None:
    log_refusal(refused())
    fields = json.loads(the_line(caplog, "json"))
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "INFO",
        "logger": "service.logs",
        "message": "refused",
        "request_id": "17",
        "transport": "http",
        "route": "score",
        "code": "invalid_request",
    }


def test_a_refusal_in_text(caplog: pytest.LogCaptureFixture) -> None:
    log_refusal(refused())
    line = the_line(caplog, "text")
    assert line.endswith(
        "INFO service.logs: refused request_id=17 transport=http route=score code=invalid_request"
    )


def test_what_is_answered_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    log_refusal(Metrics(CacheFigures()).watch("http", "score"))
    assert not caplog.records


def test_of_many_lines_of_a_kind_some_are_written_and_the_rest_is_counted() -> None:
    said: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    limited = Limited(lambda kind, number: said.put((kind, number)), most=3, seconds=3600)
    assert [limited.lets("overloaded") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limited.lets("forbidden")  # others have a number of their own
    limited.flush()
    assert said.get_nowait() == ("overloaded", 2)
    limited.flush()
    assert said.empty()
    assert limited.lets("overloaded")


def test_what_was_left_out_is_said_though_nothing_more_comes() -> None:
    said: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    limited = Limited(lambda kind, number: said.put((kind, number)), most=1, seconds=0.01)
    lets = [limited.lets("overloaded") for _ in range(2)]
    assert lets in ([True, False], [True, True])  # or a second is over in between
    while lets[-1]:
        lets.append(limited.lets("overloaded"))
    assert said.get(timeout=30)[0] == "overloaded"


def test_refusals_cannot_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_refusals", Limited(logs._log_left_out, most=2, seconds=3600))
    for _ in range(1000):
        log_refusal(refused())
    logs.flush()
    *written, last = (formatter(settings()).format(record) for record in caplog.records)
    assert len(written) == 2
    assert last.endswith("INFO service.logs: 998 more refused code=invalid_request")


def test_nor_can_what_is_no_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [logging.getLogger(name) for name in ("service", "uvicorn")]
    for logger in loggers:
        for name, value in (("handlers", []), ("level", logging.INFO), ("propagate", True)):
            monkeypatch.setattr(logger, name, value)
    logs.configure(settings())
    for _ in range(1000):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logs.flush()
    *written, last = capsys.readouterr().err.splitlines()
    assert len(written) == 10
    assert last.endswith("WARNING service.logs: 990 more: Invalid HTTP request received.")


def test_a_bug_is_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        problem = problem_of(error)
    assert (problem.code, problem.message.partition(":")[0]) == ("internal", "an internal error")
    line = the_line(caplog, "json")
    assert json.loads(line)["request_id"] == problem.request_id
    assert "failed: ValueError in " in line
    assert "test_logs.py" in line
    assert SECRET not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_text_of_an_exception_is_left_out(caplog: pytest.LogCaptureFixture, form: str) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("service").exception("it failed\nbadly")
    line = the_line(caplog, form)
    assert "ValueError in " in line
    assert "test_logs.py" in line
    assert SECRET not in line
    assert "\n" not in line
