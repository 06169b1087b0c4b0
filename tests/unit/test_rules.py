"""Rules: their bytes, the spellings of phrases, and what they take out of counts."""

from __future__ import annotations

import itertools

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm import blob
from perslm.counts import Counts, Specials, count
from perslm.errors import ArgumentError, RulesError
from perslm.rules import Rules, Spelling
from perslm.vocabulary import Sequence, Vocabulary

WORDS = Vocabulary.from_words(
    ["project", "Project", "zephyr", "Zephyr", "ZEPHYR", "Zephyr's", "Zephyr-based", "is", "on"]
)
FINGERPRINT = "0" * 32

spellings = st.builds(
    Spelling,
    st.sampled_from([FINGERPRINT, "1" * 32]),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).map(tuple),
)


@given(st.booleans(), st.frozensets(st.text(min_size=1)), st.frozensets(spellings))
def test_rules_survive_their_bytes(
    opted_out: bool, phrases: frozenset[str], blocked: frozenset[Spelling]
) -> None:
    try:
        rules = Rules(opted_out, phrases, blocked)
        data = rules.to_bytes()
    except UnicodeEncodeError:  # lone surrogates: the command line takes none
        return
    assert Rules.from_bytes(data) == rules
    assert Rules.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize(
    "content",
    [
        [2, False, [], {}],
        [1, 0, [], {}],
        [1, False, [""], {}],
        [1, False, [3], {}],
        [1, False, [], []],
        [1, False, [], {3: []}],
        [1, False, [], {"a": 3}],
        [1, False, [], {"a": [3]}],
        [1, False, [], {"a": [[]]}],
        [1, False, [], {"a": [[-1]]}],
        [1, False, [], {"a": [[2**32]]}],
        [1, False, [], {"a": [["x"]]}],
        [1],
        7,
    ],
)
def test_other_bytes_are_refused(content: object) -> None:
    with pytest.raises(RulesError):
        Rules.from_bytes(msgpack.packb(content))


@given(st.binary(max_size=40))
def test_noise_is_refused_or_read(data: bytes) -> None:
    try:
        read = Rules.from_bytes(data)
    except RulesError:
        return
    assert Rules.from_bytes(read.to_bytes()) == read


def test_both_hold_together() -> None:
    mine = Rules().block(["zephyr"], [WORDS])
    both = mine | Rules(opted_out=True)
    assert both.opted_out
    assert both.blocked == mine.blocked
    assert not Rules()
    assert mine
    assert "zephyr" not in repr(both) + repr(next(iter(mine.blocked)))


def spelled(*phrases: str) -> set[str]:
    rules = Rules().block(phrases, [WORDS])
    assert {s.vocabulary for s in rules.blocked} <= {WORDS.fingerprint}
    return {" ".join(map(WORDS.token, s.ids)) for s in rules.blocked}


def test_words_match_in_any_case_and_joined() -> None:
    assert spelled("ZePhyr") == {"zephyr", "Zephyr", "ZEPHYR", "Zephyr's", "Zephyr-based"}
    assert len(spelled("project zephyr")) == 2 * 5
    assert spelled("zephyr based") == {"Zephyr-based"}
    assert spelled("based") == {"Zephyr-based"}
    assert spelled("unheard") == set()


def test_unblocking_takes_the_spellings_back() -> None:
    rules = Rules().block(["zephyr", "is on"], [WORDS])
    assert rules.unblock(["Is  ON"], [WORDS]) == Rules().block(["Zephyr"], [WORDS])
    with pytest.raises(ArgumentError, match="not blocked"):
        rules.unblock(["on"], [WORDS])
    with pytest.raises(ArgumentError, match="at least one word"):
        rules.block([" - "], [WORDS])


def ngrams(counts: Counts) -> set[tuple[int, ...]]:
    """Return every n-gram that is kept, spelled out."""
    found: set[tuple[int, ...]] = set()
    below: list[tuple[int, ...]] = [()]
    for level in counts.levels:
        pairs = zip(level.context.tolist(), level.word.tolist(), strict=True)
        below = [(*below[context], word) for context, word in pairs]
        found |= set(below)
    return found


def holds(ngram: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return any(ngram[i : i + len(part)] == part for i in range(len(ngram) - len(part) + 1))


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), max_size=8),
    st.frozensets(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), max_size=4),
    st.integers(1, 4),
)
def test_what_is_blocked_leaves_counts(
    texts: list[list[int]], blocked: frozenset[tuple[int, ...]], order: int
) -> None:
    counts = count([Sequence(tuple(t), True, True) for t in texts], order, Specials(8, 6, 7))
    rules = Rules(blocked=frozenset(Spelling(FINGERPRINT, ids) for ids in blocked))
    left = rules.without(counts, FINGERPRINT)
    parts = {ids[i : i + order] for ids in blocked for i in range(max(len(ids) - order, 0) + 1)}
    kept = {n for n in ngrams(counts) if not any(holds(n, part) for part in parts)}
    assert ngrams(left) == (kept if kept - {(6,)} else set())
    assert rules.without(counts, "f" * 32) is counts
    metadata = blob.Metadata(FINGERPRINT, len(texts), "0" * 32, 0)
    again = blob.decode(blob.encode(left, metadata)).counts
    assert all(
        np.array_equal(a.count, b.count) for a, b in zip(again.levels, left.levels, strict=True)
    )


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """A small tokenizer trained here."""
    tokenizers = pytest.importorskip("tokenizers")
    models, trainers, before = tokenizers.models, tokenizers.trainers, tokenizers.pre_tokenizers
    if request.param == "bpe":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = before.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|end|>"],
            initial_alphabet=sorted(before.ByteLevel.alphabet()),
            show_progress=False,
        )
    else:
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer = before.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120,
            unk_token="<unk>",
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=[chr(c) for c in range(33, 127)],
            show_progress=False,
        )
    made.train_from_iterator(["the project of zephyr, a Project that goes on"] * 5, trainer)
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    made.save(str(path))
    return Vocabulary.from_tokenizer_json(path)


def test_an_imported_tokenizer_spells_a_phrase_wherever_it_stands(pieces: Vocabulary) -> None:
    rules = Rules().block(["Project zephyr"], [pieces])
    blocked = {s.ids for s in rules.blocked}
    for phrase, before in itertools.product(
        ("project zephyr", "Project Zephyr", "PROJECT ZEPHYR", "project Zephyr"),
        ("", "the ", "the (", 'the "', "See below.\n"),
    ):
        ids = tuple(pieces.history(before + phrase + " goes on")[1:])
        assert any(holds(ids, part) for part in blocked), (phrase, before)
    ids = tuple(pieces.history("the project of zephyr")[1:])
    assert not any(holds(ids, part) for part in blocked)
