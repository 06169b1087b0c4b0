"""Deletions on request: one message of a user, or all before a day, from ledger and store.

What is deleted is gone from the ledger for good: no source brings it back. The model is built again
from what is left, as a first build from that would, and published in the place of all generations.
A build may run meanwhile. It cannot publish what it made from the mail as it was: under the
ledger's lock it sees that the mail has changed, and the store that the generation has.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from builders.build import build_user, source_digest, unique
from builders.duplicates import id_digest
from builders.ledger import Account, Ledger
from builders.ledger_files import Mail
from builders.ledgers import open_ledgers
from builders.report import Status
from builders.run import publish
from perslm.errors import LedgerError, NoModelError, PublishConflictError, VocabularyError
from perslm.store import Head, Store, UserInfo
from perslm.vocabulary import Vocabulary

_TRIES = 10  # against builders and learned messages that come in the same moment


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a deletion did: how many messages went, and the generation now published (0: none)."""

    messages: int
    generation: int


def forget_mail(
    store: Store,
    folder: Path,
    user: str,
    *,
    message_ids: Collection[str] = (),
    before: float | None = None,
) -> Forgotten:
    """Delete a user's messages with these Message-IDs and their copies, and those of before a time.

    ``before`` is a POSIX time. In the store no generation stays that was built with them.

    Raises:
        NoModelError: there is neither a model nor mail of the user.
        LedgerError: no ledger in ``folder`` holds the user's mail, or not all that the model is of.
        VocabularyError: the store has lost the model's vocabulary.
    """
    digests = [id_digest(message_id) for message_id in message_ids]
    with open_ledgers(folder) as ledgers:
        held = [(one, account) for one in ledgers if (account := one.account(user)) is not None]
        info = store.info(user)
        if info is None:
            if not held:
                raise NoModelError(
                    "the user has no model, so nothing is known of their mail; perslm users lists "
                    "those that have one"
                )
            return Forgotten(max(_forget(*one, digests, before) for one in held), 0)
        ledger, account = _builder(held, folder, info)
        data = store.vocabulary(info.vocabulary)
        if data is None:
            raise VocabularyError(
                f"the store does not hold vocabulary {info.vocabulary}: run perslm build with it "
                "once more"
            )
        ledger.learn(account, store.pending(user), info.vocabulary)
        deleted = {one: _forget(one, of_user, digests, before) for one, of_user in held}
        vocabulary = Vocabulary.from_bytes(data)
        generation = _publish_the_rest(store, ledger, account, vocabulary)
        return Forgotten(deleted[ledger], generation)


def _forget(
    ledger: Ledger, account: Account, digests: Collection[bytes], before: float | None
) -> int:
    gone = ledger.forget_messages(account, digests) if digests else 0
    return gone + (ledger.forget_before(account, before) if before is not None else 0)


def _builder(
    held: list[tuple[Ledger, Account]], folder: Path, info: UserInfo
) -> tuple[Ledger, Account]:
    """Return the ledger that the published model is from, as far as that can be told.

    Raises LedgerError if there is none, or the model was built from more mail than it has.
    """
    fitting = [
        (one, account)
        for one, account in held
        if one.fact("vocabulary") == info.vocabulary and account.published is not None
    ]
    fitting.sort(key=lambda found: found[1].published != info.source_digest)
    if not fitting:
        raise LedgerError(
            f"{folder}: no ledger here holds what this user's model was built from; name its "
            "folder with --ledger, build once from all of the user's mail with --rebuild, or "
            "delete the whole user with perslm forget"
        )
    ledger, account = fitting[0]
    if account.published != info.source_digest:
        with closing(Mail(ledger.path)) as mail:
            kept, _ = unique(mail.of(account.id)[2])
        if len(kept) < info.messages:
            raise LedgerError(
                f"{ledger.path}: the user's model was built from more mail than this ledger "
                "holds; build once from all of it with --rebuild, then forget"
            )
    return ledger, account


def _publish_the_rest(
    store: Store, ledger: Ledger, account: Account, vocabulary: Vocabulary
) -> int:
    """Publish the model of what is left, alone, and return its generation (0: nothing is left)."""
    settings, everybody = ledger.settings(), store.rules(None)
    built_by = source_digest((), vocabulary, settings, everybody)
    with closing(Mail(ledger.path)) as mail:
        for _ in range(_TRIES):
            head = store.head(account.user)
            rules = everybody | store.rules(account.user)
            ledger.learn(account, store.pending(account.user), vocabulary.fingerprint)
            user, revision, messages = mail.of(account.id)
            built = build_user(user, messages, vocabulary, settings, rules)
            with ledger.settling(account.id, revision) as valid:
                if not valid:
                    continue
                if not built.messages:
                    store.forget(account.user)
                    ledger.emptied(account.id, store.head(account.user).fence)
                    return 0
                folded = ledger.folding(account.id)
                result = publish(
                    store, built, head, vocabulary.fingerprint, folded=folded, alone=True
                )
                if result.status is Status.PUBLISHED:
                    now = Head(result.generation, head.fence, rules=head.rules)
                    ledger.settled(account.id, now, built.source_digest, built_by, result.pack())
                    return result.generation
                if result.status in (Status.FORGOTTEN, Status.OPTED_OUT):
                    return 0  # the whole user went in this moment
    raise PublishConflictError(head.generation, result.generation)
