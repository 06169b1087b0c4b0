"""The parts of ``perslm bench``: what is measured on, by whom, and how it is summed up.

No test asserts a time. What is asserted: that contenders take turns on the same work, that all of
them give perslm's answers, and that one who does not ends the run.
"""

from __future__ import annotations

import gc
import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from perslm.bench import peers, scoring
from perslm.bench.clock import QUICK, Contender, Pace, race, race_threads
from perslm.bench.corpus import BOS, EOS, SIZE, SPECIALS, UNKNOWN, count_tokens, invent, read
from perslm.bench.published import PUBLISHED
from perslm.bench.report import MARK, markers, number, replace_table
from perslm.bench.steps import beam_steps, merge
from perslm.bench.subject import Subject
from perslm.counts import count
from perslm.errors import ArgumentError, PerslmError, SourceError

BEGIN, END = markers(MARK)

TOKENS = 1500


@pytest.fixture(scope="module", params=[3, 5])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A made-up user at one order."""
    return Subject(invent(TOKENS).users[0], request.param, tmp_path_factory.mktemp("bench"))


# --- corpus ---------------------------------------------------------------------------------------


def test_made_up_users_are_always_the_same() -> None:
    one, other = invent(TOKENS), invent(TOKENS)
    assert one.users == other.users
    assert one.users[0] != invent(TOKENS, seed=5).users[0]
    assert [count_tokens(user) for user in one.users] == pytest.approx(
        [TOKENS >> i for i in range(4)], rel=0.1
    )
    assert int(one.frequency.sum()) == sum(len(s.ids) for user in one.users for s in user)


def test_made_up_users_repeat_themselves_as_people_do() -> None:
    # the share of distinct n-grams among tokens, orders 1 to 5: real mail of 58,233 tokens has
    # 0.07, 0.35, 0.57, 0.65, 0.66, and that of 55,688 has 0.10, 0.46, 0.71, 0.77, 0.75
    counts = count(invent(60_000).users[0], 5, SPECIALS)
    shares = np.array(counts.ngrams) / counts.tokens
    assert (shares > [0.06, 0.35, 0.57, 0.65, 0.65]).all()
    assert (shares < [0.11, 0.47, 0.72, 0.78, 0.76]).all()


def test_read_numbers_words_by_frequency(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"sentences": ["tea tea cake", ""]}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"sentences": ["cake tea milk"]}) + "\n")
    (tmp_path / "notes.txt").write_text("not read")
    corpus = read(tmp_path)
    assert [[s.ids for s in user] for user in corpus.users] == [[(3, 3, 4)], [(4, 3, 5)]]
    assert corpus.frequency[[UNKNOWN, 3, 4, 5, 6]].tolist() == [0, 3, 2, 1, 0]
    narrow = corpus.narrow(5)
    assert [s.ids for s in narrow.users[1]] == [(4, 3, UNKNOWN)]
    assert len(narrow.frequency) == 5
    assert corpus.by_size(0) == [0, 1]
    assert "tea" not in repr(corpus)


@pytest.mark.parametrize(
    "line", ["{", '{"text": "no sentences"}', '{"sentences": []}', "[1]", "\x00"]
)
def test_read_refuses_without_repeating_what_it_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mail.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(SourceError, match="JSON lines") as refused:
        read(path)
    assert line not in str(refused.value)
    assert refused.value.__cause__ is None


# --- beam steps -----------------------------------------------------------------------------------


def test_beam_steps_are_realistic(subject: Subject) -> None:
    corpus = invent(TOKENS)
    steps = beam_steps(corpus, 0, subject.model, number=5)
    again = beam_steps(corpus, 0, subject.model, number=5)
    assert all(a.histories == b.histories for a, b in zip(steps, again, strict=True))
    assert len({tuple(map(tuple, s.candidates.tolist())) for s in steps}) == 5
    beginnings = {(BOS, *s.ids[:n]) for s in corpus.users[0] for n in range(len(s.ids) + 1)}
    for step in steps:
        assert step.candidates.shape == (8, 64)
        assert step.candidates.dtype == np.uint32
        assert set(step.histories) <= beginnings
        for row in step.candidates:
            assert len(set(row.tolist())) == 64
            assert not {UNKNOWN, BOS, EOS} & set(row.tolist())
        # the user's likeliest word, unless it is the end, is always a candidate
        first = subject.model.continuations(subject.model.states(step.histories), 1)[0][:, 0]
        at_hand = [w in row for w, row in zip(first, step.candidates, strict=True) if w != EOS]
        assert all(at_hand)
    large = merge(steps)
    assert large.candidates.shape == (40, 64)
    assert len(large.histories) == 40


# --- peers ----------------------------------------------------------------------------------------


def test_every_peer_gives_our_answers(subject: Subject) -> None:
    steps = beam_steps(invent(TOKENS), 0, subject.model, number=3)
    checked = set()
    for step in steps:
        ids, model = step.candidates.tolist(), subject.model
        logprobs, behind = model.score(model.states(step.histories), step.candidates)
        states = subject.places(step.histories)
        ours = logprobs.ravel().astype(float)
        known = ours > peers.IMPOSSIBLE
        assert 0 < known.sum() < len(ours)
        lengths = [model.context_length(state) for state in behind.ravel().tolist()]
        found = subject.arcs.step(states, ids)
        assert [p for p, _ in found] == pytest.approx(ours, abs=1e-6, rel=1e-6)
        assert subject.automaton.state_order[[n for _, n in found]].tolist() == lengths
        singly = zip(np.repeat(states, 64).tolist(), step.candidates.ravel().tolist(), strict=True)
        assert [subject.arcs.word(s, w) for s, w in singly] == found
        if subject.fst is not None:
            checked.add("pywrapfst")
            through = subject.fst.step(states, ids)
            assert [p for p, _ in through] == pytest.approx(ours, abs=1e-6, rel=1e-6)
            assert [n for _, n in through] == [n for _, n in found]
        if subject.kenlm is not None:
            checked.add("kenlm-ex")
            theirs = [subject.kenlm.state(history) for history in step.histories]
            names = [[peers.NAMES[i] for i in row] for row in ids]
            natural = subject.kenlm.natural(subject.kenlm.score(theirs, names))
            assert natural[known] == pytest.approx(ours[known], abs=1e-5)
            assert (natural[~known] < peers.IMPOSSIBLE).all()
            kept = subject.kenlm.step(theirs, names)
            assert [p for p, _ in kept] == subject.kenlm.score(theirs, names)
    assert checked | set(peers.absent()) >= {"pywrapfst", "kenlm-ex"}


def test_absent_peers_are_named_and_left_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in peers.PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)
    missing = peers.absent()
    assert missing["kenlm-ex"] == "not installed: pip install kenlm-ex"
    assert "perslm[interop]" in missing["pywrapfst"]
    alone = Subject(subject.sentences, subject.order, tmp_path)
    steps = beam_steps(invent(TOKENS), 0, alone.model, number=2)
    names = {m.name for m in scoring.step(alone, steps, QUICK).measured}
    assert names - {"numpy twin"} == {"perslm", "dict"}


def test_files_for_peers_hold_made_up_names_only(subject: Subject) -> None:
    if subject.kenlm is None:
        pytest.skip("kenlm-ex is not installed")
    lines = subject.kenlm.path.read_text().splitlines()
    fields = [line.split("\t") for line in lines if "\t" in line]
    assert len(fields) >= subject.ngrams
    assert {w for _, words, *_ in fields for w in words.split()} <= set(peers.NAMES)
    assert len(set(peers.NAMES)) == SIZE


# --- clock ----------------------------------------------------------------------------------------


def test_contenders_take_turns_on_all_arguments() -> None:
    calls: list[str] = []
    contenders = [
        Contender(name, lambda i, name=name: calls.append(f"{name}{i}"), [(1,), (2,), (3,)])
        for name in "ab"
    ]
    timings = race(contenders, Pace(1e-3, 4))
    assert [len(t.rounds) for t in timings] == [4, 4]
    assert all((t.samples > 0).all() for t in timings)
    turns = [calls[0][0]]
    turns += [b[0] for a, b in pairwise(calls) if a[0] != b[0]]
    assert turns == ["a", "b"] * 5  # once to warm up
    assert set(calls) == {f"{name}{i}" for name in "ab" for i in (1, 2, 3)}


def test_who_is_slow_has_one_turn() -> None:
    calls: list[str] = []
    slow = Contender("slow", lambda: calls.append("slow"), [()])
    fast = Contender("fast", lambda: calls.append("fast"), [()])
    nothing = Pace(0.0, 3)  # everything is slower than ten slots of no time
    timings = race([slow, fast], nothing)
    assert calls == ["slow", "fast"]
    assert [(len(t.samples), len(t.rounds)) for t in timings] == [(1, 1), (1, 1)]


def test_before_is_called_before_every_call() -> None:
    events: list[str] = []
    contender = Contender(
        "a", lambda: events.append("call"), [()], None, lambda: events.append("before")
    )
    race([contender], Pace(1e-5, 3))
    assert events == ["before", "call"] * (len(events) // 2)
    assert len(events) >= 8


def test_the_garbage_collector_is_off_and_on_again() -> None:
    seen = set()
    race([Contender("a", lambda: seen.add(gc.isenabled()), [()])], QUICK)
    race_threads([Contender(n, lambda: seen.add(gc.isenabled()), [()]) for n in "ab"], QUICK)
    assert seen == {False}
    assert gc.isenabled()


def test_who_answers_otherwise_ends_the_run() -> None:
    def contender(name: str, *answers: float) -> Contender:
        return Contender(name, lambda: np.array(answers), [()], np.array)

    agreed = scoring.agree(
        [
            contender("perslm", -1.5, -np.inf),
            contender("close", -1.500001, -np.inf),
            contender("kenlm", -1.5, -232.0),
            Contender("copy", np.zeros, [(2,)]),
        ]
    )
    assert agreed == {"close": pytest.approx(1e-6 / 1.5), "kenlm": 0}
    for wrong in ((-1.6, -np.inf), (-1.5, -20.0), (-np.inf, -np.inf), (-1.5,)):
        with pytest.raises(PerslmError, match="other and perslm differ"):
            scoring.agree([contender("perslm", -1.5, -np.inf), contender("other", *wrong)])


# --- report ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1234.5, "1,230"), (12.345, "12.3"), (0.0123456, "0.0123"), (999.9, "1,000")],
)
def test_three_significant_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter ü\n", "utf-8")
    assert (
        replace_table(path, "| new |") == f"before\n\n{BEGIN}\n| new |\n{END}\n\nafter ü\n".encode()
    )
    for text in ("", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"):
        path.write_text(text)
        with pytest.raises(ArgumentError, match="needs the lines"):
            replace_table(path, "| new |")


def test_published_figures_are_positive_and_belong_to_rows() -> None:
    assert {key for key, _ in PUBLISHED} == {"learn", "step", "distribution", "blob", "memory"}
    assert all(value > 0 for row in PUBLISHED.values() for value in row.values())
