"""The exception tree: what it promises of every class in it."""

from __future__ import annotations

import pickle
import re

import pytest

from perslm import errors
from perslm.errors import PerslmError


def every(kind: type[PerslmError]) -> list[type[PerslmError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in every(child))]


EXAMPLES = [
    errors.ArgumentError("k must be at least 1"),
    errors.MissingExtraError("the service", "service"),
    errors.VocabularyError("broken"),
    errors.VocabularyMismatchError("a" * 32, "b" * 32),
    errors.BlobError("rule 5: the checksum does not match", 60),
    errors.RulesError("they are damaged"),
    errors.AutomatonError("labels do not ascend", 3),
    errors.InteropError("a count is missing", 7),
    errors.SourceError("a.mbox", "is empty", "give another"),
    errors.StoreUnavailableError("down"),
    errors.NoModelError("none"),
    errors.PublishConflictError(3, 4),
    errors.ForgottenError(),
    errors.ServiceError("busy", 503),
    errors.LedgerError("another build has it"),
    errors.OptedOutError(),
    errors.TooManyPendingError(1000),
    errors.DecryptionError("there are no master keys", "name their file"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_errors_survive_the_way_between_processes(error: PerslmError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_documented_tree_is_the_tree() -> None:
    documented = set(re.findall(r"\w+Error", errors.__doc__ or "")) - {"ValueError"}
    own = {kind.__name__ for kind in every(PerslmError) if kind.__module__ == errors.__name__}
    assert documented == own
    assert own == {type(e).__name__ for e in EXAMPLES} | {"PerslmError", "StoreError"}


def test_messages_carry_the_data_and_the_remedy() -> None:
    assert "pip install 'perslm[service]'" in str(EXAMPLES[1])
    assert "at byte 60" in str(EXAMPLES[4])
    assert "roll back" in str(EXAMPLES[4])
    assert str(EXAMPLES[7]) == "line 7: a count is missing"
    assert "rebuild" in str(EXAMPLES[11])
