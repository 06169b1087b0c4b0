"""One user's prepared messages to one blob: a pure function, the same for every runner."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from builders.prepare import Prepared, Settings
from builders.pruning import shrink
from perslm import blob
from perslm.counts import Specials, count
from perslm.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Built:
    """A user's blob and what went into it. ``source_digest`` identifies mail and settings.

    ``ngrams`` are in the blob, by order; ``pruned`` of all that were counted are not.
    """

    user: str
    blob: bytes
    source_digest: str
    messages: int
    duplicates: int
    tokens: int
    ngrams: tuple[int, ...]
    pruned: int


def unique(messages: Iterable[Prepared]) -> tuple[list[Prepared], int]:
    """Return the messages in time order without duplicates, and how many those were.

    Two messages that share a digest are one; the older stays. Nothing of this depends on the order
    in which the messages come, or on the names of the sources that hold them.
    """
    seen: set[bytes] = set()
    kept: list[Prepared] = []
    duplicates = 0
    for message in sorted(messages, key=lambda m: (m.when, m.digests, m.sequences)):
        if seen.isdisjoint(message.digests):
            kept.append(message)
        else:
            duplicates += 1
        seen.update(message.digests)
    return kept, duplicates


def source_digest(messages: Iterable[Prepared], vocabulary: Vocabulary, settings: Settings) -> str:
    """Return 32 hexadecimal digits that tell whether a build would give another blob.

    They change with what any message teaches, the vocabulary, the order, the most bytes and the
    blob's format.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{blob.VERSION} {vocabulary.fingerprint} {settings.order}".encode())
    if settings.max_bytes is not None:
        digest.update(f" in {settings.max_bytes} bytes".encode())
    for message in messages:
        for sequence in message.sequences:
            digest.update(bytes((sequence.opens, sequence.closes)))
            digest.update(b",".join(b"%d" % i for i in sequence.ids))
    return digest.hexdigest()


def specials(vocabulary: Vocabulary) -> Specials:
    """Return what counts need to know of a vocabulary."""
    return Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)


def build_user(
    user: str, messages: Iterable[Prepared], vocabulary: Vocabulary, settings: Settings
) -> Built:
    """Count a user's messages and return the blob; the order they come in does not matter."""
    kept, duplicates = unique(messages)
    counts = count(
        (s for message in kept for s in message.sequences), settings.order, specials(vocabulary)
    )
    digest = source_digest(kept, vocabulary, settings)
    newest = max((message.when for message in kept), default=0.0)
    created = max(int(newest), 0)  # not now: the same mail gives the same bytes
    metadata = blob.Metadata(vocabulary.fingerprint, len(kept), digest, created)
    if settings.max_bytes is None:
        left, encoded = counts, blob.encode(counts, metadata)
    else:
        left, encoded = shrink(counts, metadata, settings.max_bytes)
    return Built(
        user=user,
        blob=encoded,
        source_digest=digest,
        messages=len(kept),
        duplicates=duplicates,
        tokens=counts.tokens,
        ngrams=left.ngrams,
        pruned=sum(counts.ngrams) - sum(left.ngrams),
    )
