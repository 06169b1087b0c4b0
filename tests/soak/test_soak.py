"""The soak in short: every fault once, on whatever machine this is."""

from __future__ import annotations

from tests.soak.run import Plan, run


def test_nothing_that_breaks_harms_an_answer() -> None:
    # a machine that runs other tests makes threads wait; ``make soak`` holds deadlines to 10 ms
    report = run(Plan(seconds=14.0, seed=4, users=100, contents=8, grace=1.0))
    assert not report.violations, report.text()
    assert len(report.faults) > 10
    served = [outcomes["ok"] for client, outcomes in report.outcomes.items() if "ok" in outcomes]
    assert min(served) > 5  # by every way
