"""One user's prepared messages to one blob: a pure function, the same for every runner."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from builders import hygiene
from builders.prepare import Prepared, Settings
from builders.pruning import shrink
from perslm import blob
from perslm.counts import Specials, count
from perslm.rules import Ids, Rules, spellings
from perslm.vocabulary import Vocabulary

NO_RULES = Rules()


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

    Messages that share a digest, directly or through others, are one; the oldest stays. Nothing of
    this depends on the order in which the messages come, on the names of the sources that hold
    them, or on what the digests are.
    """
    ordered = sorted(messages, key=lambda m: (m.when, m.sequences))
    parent: dict[bytes, bytes] = {}

    def group(digest: bytes) -> bytes:
        """Return the digest that stands for all that are joined with this one."""
        while (above := parent.setdefault(digest, digest)) != digest:
            parent[digest] = digest = parent[above]
        return digest

    for message in ordered:
        for digest in message.digests[1:]:
            parent[group(digest)] = group(message.digests[0])
    seen: set[bytes] = set()
    kept: list[Prepared] = []
    for message in ordered:
        of = group(message.digests[0]) if message.digests else None
        if of is None or of not in seen:
            kept.append(message)
        if of is not None:
            seen.add(of)
    return kept, len(ordered) - len(kept)


def source_digest(
    messages: Iterable[Prepared],
    vocabulary: Vocabulary,
    settings: Settings,
    rules: Rules = NO_RULES,
) -> str:
    """Return 32 hexadecimal digits that tell whether a build would give another blob.

    They change with what any message teaches, the vocabulary, the settings that a user's counts
    depend on, the user's rules and everybody's, and the blob's format.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{blob.VERSION} {vocabulary.fingerprint} {settings.order}".encode())
    digest.update(f" hygiene {hygiene.VERSION} in {settings.min_messages} messages".encode())
    if settings.max_bytes is not None:
        digest.update(f" in {settings.max_bytes} bytes".encode())
    for ids in sorted(_blocked(rules, vocabulary)):
        digest.update(f" without {','.join(map(str, ids))}".encode())
    if rules.opted_out:
        digest.update(b" nothing")
    for message in messages:
        digest.update(b"m")
        for sequence in message.sequences:
            digest.update(bytes((sequence.opens, sequence.closes)))
            digest.update(b",".join(b"%d" % i for i in sequence.ids))
    return digest.hexdigest()


def _blocked(rules: Rules, vocabulary: Vocabulary) -> frozenset[Ids]:
    return spellings(rules.phrases, vocabulary) if rules.phrases else frozenset()


def specials(vocabulary: Vocabulary) -> Specials:
    """Return what counts need to know of a vocabulary."""
    return Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)


def build_user(
    user: str,
    messages: Iterable[Prepared],
    vocabulary: Vocabulary,
    settings: Settings,
    rules: Rules = NO_RULES,
) -> Built:
    """Count a user's messages and return the blob; the order they come in does not matter.

    ``rules`` are the user's and everybody's. The blob of somebody who has opted out holds nothing.
    """
    kept, duplicates = unique([] if rules.opted_out else messages)
    texts = hygiene.learnable(kept, _blocked(rules, vocabulary))
    counts = count((s for text in texts for s in text), settings.order, specials(vocabulary))
    digest = source_digest(kept, vocabulary, settings, rules)
    newest = max((message.when for message in kept), default=0.0)
    created = max(int(newest), 0)  # not now: the same mail gives the same bytes
    metadata = blob.Metadata(vocabulary.fingerprint, len(kept), digest, created)
    allowed = [np.ones(len(level), bool) for level in counts.levels]
    if settings.min_messages > 1:
        in_messages = hygiene.in_messages(counts, texts)
        for k in range(1, counts.order):
            allowed[k] = in_messages[k] >= settings.min_messages
    left, encoded = shrink(counts, metadata, settings.max_bytes, allowed)
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
