from __future__ import annotations

import json
import logging

import pytest

from service.logs import formatter, log_refusal
from service.metrics import CacheFigures, Metrics, Watch
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
