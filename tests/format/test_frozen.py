"""The blobs in ``fixtures/format`` load for ever, and hold what was counted when they were made."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fixtures.format import make
from fixtures.format.make import DIGEST, FINGERPRINT, FOLDER, MODELS, WEIGHTS, digest, listing
from perslm.blob import decode, encode
from tests.format import reference
from tests.format.corpus import cuts, grams, on_every_backend

EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))
FROZEN = sorted(EXPECTED)


def test_every_blob_is_expected() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.blob")) == FROZEN
    assert sorted(f"v1-{name}.blob" for name in MODELS) == FROZEN


@pytest.mark.parametrize("file", FROZEN)
def test_it_loads(file: str) -> None:
    blob = (FOLDER / file).read_bytes()
    expected = EXPECTED[file]
    for _ in on_every_backend():
        decoded = decode(blob)
        counts, metadata = decoded.counts, decoded.metadata
        specials = counts.specials
        assert [specials.size, specials.bos, specials.eos] == expected["specials"]
        assert counts.order == expected["order"]
        assert [len(level) for level in counts.levels] == expected["entries"]
        assert counts.tokens == expected["tokens"]
        assert metadata.fingerprint == expected["fingerprint"] == FINGERPRINT
        assert metadata.source_digest == expected["source_digest"] == DIGEST
        assert metadata.messages == expected["messages"]
        assert metadata.created == expected["created"]
        assert metadata.weights == (WEIGHTS if expected["weights"] else None)

        found, cut = grams(counts), cuts(counts)
        for ngram, n in expected["most frequent"].items():
            assert found[tuple(map(int, ngram.split()))] == n
        assert sum(cut.values()) == expected["events cut"]
        assert (counts.cut is not None) == expected["pruned"]
        whole = None if counts.cut is None else counts.count_of_counts().tolist()
        assert digest(listing(found, cut, whole)) == expected["sha256 of the listing"]

        written = encode(counts, metadata)
        if expected["sections skipped"]:
            assert len(written) < len(blob)
            assert blob.startswith(written[:-4])
        else:
            assert written == blob


@pytest.mark.parametrize("file", FROZEN)
def test_the_reference_reads_it(file: str) -> None:
    found = reference.read((FOLDER / file).read_bytes())
    expected = EXPECTED[file]
    lines = listing(found.counts, found.cut, found.whole)
    assert digest(lines) == expected["sha256 of the listing"]
    skipped = {str(kind): content.hex() for kind, content in found.skipped.items()}
    assert skipped == expected["sections skipped"]


def test_they_take_every_branch() -> None:
    read = (reference.read((FOLDER / file).read_bytes()) for file in FROZEN)
    assert set(sum((blob.seen for blob in read), Counter[str]())) == reference.BRANCHES


def test_they_are_never_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "MODELS", {"small": MODELS["small"]})
    before = {path: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError):
        make.main()
    assert before == {path: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
