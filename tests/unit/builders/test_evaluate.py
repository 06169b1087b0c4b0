"""``builders.evaluate``: figures against sums by hand, resuming, and judging suggestions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.evaluate.answers import Answers, System
from builders.evaluate.crossfit import cross_fit
from builders.evaluate.hindsight import WEIGHTS, hindsight
from builders.evaluate.mail import Letter, letter_of
from builders.evaluate.measure import Tally, tally
from builders.evaluate.page import markdown, page
from builders.evaluate.run import (
    Made,
    Plan,
    enough,
    evaluate,
    mail_digest,
    model_of,
    split,
    suggest,
)
from builders.evaluate.summary import interval, summarize
from builders.evaluate.targets import Targets
from builders.evaluate.typing import (
    LONGEST,
    Outcome,
    above,
    average_exact_match,
    exact_match,
    judged,
    places,
)
from builders.prepare import Settings
from perslm.backoff import Gates, population
from perslm.beam import PersonalOnly, PooledModel
from perslm.counts import Specials, count
from perslm.errors import ArgumentError
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel
from perslm.suggest import Suggester, Suggestion
from perslm.vocabulary import Vocabulary

WORDS = [
    *("we", "will", "meet", "on", "monday", "please", "send", "the", "plan", "to", "me", "soon"),
    *("thanks", "."),
]
VOCABULARY = Vocabulary.from_words(WORDS)
SECRET = "xyzzy"
LINES = ["We will meet on monday.", "Please send the plan to me soon.", "thanks, we will meet."]


class Shared:
    """A global LM that counts how often it is asked."""

    def __init__(self) -> None:
        pooled = [s for line in LINES for s in VOCABULARY.encode(line.lower())]
        self._model = PooledModel(
            count(pooled, 2, Specials(VOCABULARY.size, VOCABULARY.bos, VOCABULARY.eos)), 0.5
        )
        self.asked = self.steps = 0

    def logprobs(self, histories: Sequence[Sequence[int]]) -> Float32Array:
        self.steps += 1
        return self._model.logprobs(histories)

    def sequence(self, ids: Sequence[int]) -> Iterator[Float32Array]:
        self.asked += 1
        for t in range(1, len(ids), 2):  # blocks of two, the last maybe of one
            ends = range(t, min(t + 2, len(ids)))
            yield self._model.logprobs([ids[:end] for end in ends])


class Silent:
    def stage(self, name: str, total: int) -> None:
        self.left = total

    def advance(self, amount: int) -> None:
        self.left -= amount


def letter(text: str, when: float = 0.0) -> Letter:
    return letter_of(text.lower(), VOCABULARY, when=when)


def mail(person: int, number: int) -> list[Letter]:
    random = np.random.default_rng(person)
    return [letter(LINES[i], n) for n, i in enumerate(random.integers(0, 3, number).tolist())]


LEARN = Settings(3, min_messages=1)


def made_of(letters: list[Letter], settings: Settings = LEARN) -> Made:
    return model_of(letters, VOCABULARY, settings, population(settings.order))


def run(folder: Path, shared: Shared, mails: dict[str, list[Letter]], **plan: Any) -> Any:
    """What ``perslm evaluate`` does, without its report."""
    progress = Silent()
    settings = Plan(**{"settings": LEARN, "amounts": (3,), "places": 4, **plan})
    figures = evaluate(
        mails,
        plan=settings,
        models=lambda _, letters, settings: made_of(letters, settings),
        targets=Targets(shared, "shared", folder / "targets"),
        folder=folder / "users",
        progress=progress,
    )
    assert progress.left == 0
    typing = suggest(
        mails,
        plan=settings,
        models=lambda _, letters, settings: made_of(letters, settings),
        suggester=Suggester(shared, VOCABULARY, best=1, width=2, tokens=6),
        name="shared",
        answers=Answers(folder / "answers"),
        progress=progress,
    )
    assert progress.left == 0
    return {user: {**figures[user], "typing": typing[user]} for user in mails}


def test_a_tally_is_the_sum_over_words(tmp_path: Path) -> None:
    shared = Shared()
    model = made_of([letter(LINES[0])] * 3).model
    letters = [letter(f"please send the plan. we {SECRET} meet.")]
    targets = [Targets(shared, "shared", tmp_path).of(letters[0])]
    found = tally(model, letters, targets)
    tokens, global_nats, mixed_nats, known = 0, 0.0, 0.0, 0
    for sentence in letters[0].sequences:
        ids = [VOCABULARY.bos, *sentence.ids, VOCABULARY.eos]
        for t in range(1, len(ids)):
            row = shared.logprobs([ids[:t]])
            states = model.states([ids[:t]])
            tokens += 1
            global_nats -= float(row[0, ids[t]])
            mixed_nats -= float(model.mix(states, row, positions=[t - 1])[0, ids[t]])
            known += bool(np.isfinite(model.distribution(states)[0, ids[t]]))
    assert (found.tokens, found.words, found.known) == (tokens, 7, known)
    assert 0 < known < tokens
    assert found.global_nats == pytest.approx(global_nats, rel=1e-5)
    assert found.mixed_nats == pytest.approx(mixed_nats, rel=1e-5)
    assert found.reduction == pytest.approx(
        1 - math.exp((mixed_nats - global_nats) / tokens), abs=1e-5
    )


def test_tallies_add() -> None:
    total = Tally()
    total += Tally(tokens=2, words=1, global_nats=3.0, mixed_nats=2.0, known=1)
    total += Tally(tokens=3, words=2, global_nats=4.0, mixed_nats=5.0)
    assert (total.tokens, total.words, total.global_nats, total.mixed_nats) == (5, 3, 7.0, 7.0)
    assert total.reduction == 0.0


@pytest.mark.parametrize(("letters", "tests"), [(10, 2), (11, 3), (2, 1)])
def test_the_newest_letters_are_the_test(letters: int, tests: int) -> None:
    everything = mail(0, letters)
    past, future = split(everything, 0.2)
    assert past + future == everything
    assert len(future) == tests


def test_who_was_done_is_not_asked_again(tmp_path: Path) -> None:
    shared = Shared()
    everybody = {"cy": mail(3, 5), "bo": mail(2, 12), "ann": mail(1, 20)}
    mails = enough(everybody)
    assert list(mails) == ["ann", "bo"]
    users = run(tmp_path, shared, mails, budgets=(2048,))
    assert set(users["ann"]["amounts"]) == {"3", "all"}
    assert users["ann"]["amounts"]["all"]["reduction"] > 0
    assert set(users["ann"]["budgets"]) == {"2048"}
    assert set(users["ann"]["typing"]) == {"global", "mixed", "personal"}
    asked, suggested = shared.asked, shared.steps
    assert asked > 0
    assert suggested > 0
    assert run(tmp_path, shared, mails, budgets=(2048,)) == users
    assert (shared.asked, shared.steps) == (asked, suggested)
    # a file that a killed run left is no result
    for path in (tmp_path / "users").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert run(tmp_path, shared, mails, budgets=(2048,)) == users


def test_answers_are_kept_as_they_come(tmp_path: Path) -> None:
    shared = Shared()
    letters = mail(1, 30)
    systems = {"global": System("shared", Suggester(shared, VOCABULARY, best=1, width=2))}

    def ask(number: int) -> list[Outcome]:
        seen: list[int] = []
        where = places("ann", letters, number)
        found = Answers(tmp_path).of("letters", letters, where, systems, seen.append)
        assert sum(seen) == len(where) == len(found["global"])
        return found["global"]

    first, steps = ask(7), shared.steps
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])  # the run was killed
    assert ask(7) == first
    assert steps < shared.steps < 2 * steps
    steps = shared.steps
    more = ask(20)
    assert len(more) == 20
    assert shared.steps < 4 * steps
    steps = shared.steps
    assert (ask(20), ask(7)) == (more, first)
    assert shared.steps == steps
    systems["global"] = System("another", systems["global"].suggester)
    assert ask(7) == first
    assert shared.steps > steps


def test_other_mail_is_tested_anew(tmp_path: Path) -> None:
    mails = {"ann": mail(1, 20)}
    first = run(tmp_path, Shared(), mails)["ann"]
    mails["ann"].append(letter(LINES[2], 99.0))
    second = run(tmp_path, Shared(), mails)["ann"]
    assert (
        first["letters"] + first["test_letters"] + 1 == second["letters"] + second["test_letters"]
    )
    assert run(tmp_path, Shared(), mails)["ann"] == second
    assert mail_digest("ann", mails["ann"]) != mail_digest("bo", mails["ann"])


def test_the_best_constant_weight_is_the_best(tmp_path: Path) -> None:
    shared, letters = Shared(), mail(5, 20)
    past, future = split(letters, 0.2)
    made = made_of(past)
    targets = [Targets(shared, "shared", tmp_path).of(one) for one in future]
    found = hindsight(made.model, made.katz(), future, targets)
    for key, model in (("single", made.model), ("single_katz", made.katz())):
        reductions = []
        for weight in WEIGHTS.tolist():
            constant = PersonalModel.from_counts(
                made.counts, model.metadata, weight=weight, estimator=model.estimator
            )
            reductions.append(tally(constant, future, targets).reduction)
        assert found[key] == pytest.approx(max(reductions), abs=1e-5)
        assert found[f"{key}_weight"] == pytest.approx(WEIGHTS[int(np.argmax(reductions))])


def test_gates_of_others_are_fitted_once(tmp_path: Path) -> None:
    shared = Shared()
    mails = {name: mail(i, 30) for i, name in enumerate(("ann", "bo", "cy"))} | {"di": mail(9, 12)}

    def fit(mails: dict[str, list[Letter]], name: str = "all") -> dict[str, Gates]:
        return cross_fit(
            mails,
            name=name,
            vocabulary=VOCABULARY,
            targets=Targets(shared, "shared", tmp_path / "targets"),
            order=2,
            folder=tmp_path / "gates",
            progress=Silent(),
        )

    gates, asked = fit(mails), shared.asked
    assert set(gates) == set(mails)
    assert not np.array_equal(gates["ann"].table, gates["bo"].table)
    again = fit(mails)
    assert shared.asked == asked
    assert all(np.array_equal(again[user].table, gates[user].table) for user in mails)
    # one's own mail has no part in one's gates
    others = fit({**mails, "ann": mail(77, 30)}, "another ann")
    assert np.array_equal(others["ann"].table, gates["ann"].table)
    assert not np.array_equal(others["bo"].table, gates["bo"].table)
    with pytest.raises(ArgumentError, match="two people"):
        fit({"ann": mails["ann"]}, "alone")


def test_a_cut_answer_of_the_global_lm_is_asked_for_again(tmp_path: Path) -> None:
    shared = Shared()
    targets = Targets(shared, "shared", tmp_path)
    first = targets.of(letter(LINES[0]))
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-4])
    assert np.array_equal(targets.of(letter(LINES[0]))[0], first[0])
    assert shared.asked == 2
    assert Targets(shared, "another", tmp_path).of(letter(LINES[0]))
    assert shared.asked == 3


def test_no_text_is_on_disk_or_in_a_report(tmp_path: Path) -> None:
    vocabulary_words = [*WORDS, SECRET]
    mails = {"ann": [letter(f"{line} {SECRET}.", i) for i, line in enumerate(LINES * 5)]}
    users = [*run(tmp_path, Shared(), mails, budgets=(2048,)).values()]
    report = {
        "summary": summarize(users),
        "users": users,
        "global_lm": "shared",
        "order": 3,
        "min_messages": 1,
        "test_share": 0.2,
        "cross_fit": True,
        "made_by": "a test",
    }
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for word in vocabulary_words[2:]:
        assert f'"{word}"'.encode() not in files
    assert SECRET.encode() not in files
    for text in (page(report), markdown(report), json.dumps(report)):
        assert SECRET not in text
        assert "monday" not in text
        assert "ann" not in text.replace("annotation", "").replace("channel", "")
    assert page(report).count("<table>") == page(report).count("</table>") == 6
    assert page(report).count("<svg") == 5


def test_places_begin_words_and_stay_the_same() -> None:
    letters = mail(4, 30)
    chosen = places("ann", letters, 10)
    assert len(chosen) == 10
    assert chosen == places("ann", letters, 10)
    assert chosen != places("bo", letters, 10)
    for place in chosen:
        text = letters[place.letter].text
        assert text[place.cursor - 1].isspace()
        assert not text[place.cursor].isspace()
    assert len(places("ann", letters[:1], 1000)) == len(letters[0].text.split()) - 1


@pytest.mark.parametrize(
    ("written", "right", "saved"),
    [
        ("please send the plan to me soon.", 6, len("send the plan to me soon.")),
        ("please send the letter to me soon.", 2, 0),
        ("please send", 1, 0),
        ("please call", 0, 0),
    ],
)
def test_a_suggestion_is_judged_by_what_was_written(written: str, right: int, saved: int) -> None:
    model = made_of([letter(LINES[1])] * 3).model
    suggester = Suggester(PersonalOnly(model), VOCABULARY, best=1)
    found = judged(suggester.suggest(written[:7]), written[7:])
    assert (found.words, found.right, found.saved) == (6, right, saved)
    assert found.begun == len(" ".join(["send", "the", "plan", "to", "me", "soon."][:right]))
    assert Outcome.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_exact_match_by_hand() -> None:
    shown = [
        Outcome(-1.0, 3, 3, 12, 12),
        Outcome(-2.0, 2, 1, 0, 4),
        Outcome(-3.0, 1, 0, 0, 0),
    ]
    assert exact_match(shown)[:4] == pytest.approx([2 / 3, 1 / 2, 1.0, math.nan], nan_ok=True)
    assert len(exact_match(shown)) == LONGEST
    assert average_exact_match(shown) == pytest.approx(4 / 6)
    nothing = judged([], "and so on")
    assert above([nothing, *shown], -2.0) == shown[:2]
    assert above([nothing, *shown], -math.inf) == shown
    assert math.isnan(average_exact_match([]))
    assert Outcome.from_json(nothing.as_json()) == nothing
    assert judged([Suggestion("we meet", (1, 2), -2.0, -1.0)], "we met").begun == 2


def test_systems_are_compared_at_the_same_coverage() -> None:
    """Each has its own threshold; the gain is of averages, and its interval over people."""
    right, wrong = [2, 2, 9, 9], [2, 0, 0, 0]
    users = [
        {
            "global": [[-1.0, *wrong], [-2.0, *right], [-3.0, *wrong], [-4.0, *wrong]],
            "mixed": [[-0.1, *right], [-0.2, *right], [-0.3, *wrong], [None, 0, 0, 0, 0]],
            "personal": [[-0.1, *wrong]] * 4,
        }
    ] * 5
    figures = Tally(tokens=10, words=5, global_nats=20.0, mixed_nats=19.0).as_json()
    everybody = [{"amounts": {"all": {**figures, "bytes": 10}}, "typing": u} for u in users]
    typing = summarize(everybody)["typing"]
    half = [next(c for c in curve if c["coverage"] == 0.5) for curve in typing["curves"].values()]
    assert [c["exact_match"] for c in half] == [0.5, 1.0, 0.0]
    assert [c["threshold"] for c in half] == [-2.0, -0.2, -0.1]
    assert [c["characters_saved_per_place"] for c in half] == [9 / 4, 9 / 2, 0]
    assert typing["relative_gain"]["0.5"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert typing["curves"]["mixed"][-1]["shown"] == 15


def test_an_interval_holds_its_mean() -> None:
    found = interval([0.1, 0.2, 0.3, 0.4])
    assert found["low"] < found["mean"] < found["high"]
    assert found["mean"] == pytest.approx(0.25)
    assert found == interval([0.1, 0.2, 0.3, 0.4])
    assert interval([0.5]) == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_the_summary_counts_who_gains_and_who_is_harmed() -> None:
    figures = Tally(tokens=10, words=5, global_nats=20.0, mixed_nats=20.0).as_json()
    users = [
        {"amounts": {"all": {**figures, "reduction": r, "bytes": 1000}}, "typing": None}
        for r in (0.3, 0.1, -0.0005, -0.2)
    ]
    found = summarize(users)["amounts"]["all"]
    assert (found["improved"], found["harmed"], found["worst"]) == (0.5, 0.25, -0.2)
    assert found["reduction"]["mean"] == pytest.approx(0.04988, abs=1e-4)


@pytest.mark.parametrize("plan", [{"test_share": 0.0}, {"test_share": 1.0}, {"amounts": (0,)}])
def test_plans_that_cannot_be(plan: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Plan(**plan)
