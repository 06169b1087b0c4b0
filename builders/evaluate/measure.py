"""How well a person's next words are predicted: perplexity with and without their model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

from builders.evaluate.mail import Ids, Letter
from perslm.interpolate import Float32Array
from perslm.model import PersonalModel


@dataclass(slots=True)
class Tally:
    """Sums over test mail, in nats; they add.

    ``known`` of ``tokens`` have a probability under the personal model; on these,
    ``personal_nats`` is its loss and ``global_known_nats`` that of the global LM.
    """

    tokens: int = 0
    words: int = 0
    global_nats: float = 0.0
    mixed_nats: float = 0.0
    known: int = 0
    personal_nats: float = 0.0
    global_known_nats: float = 0.0
    weight: float = 0.0

    def __iadd__(self, other: Tally) -> Tally:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    @property
    def reduction(self) -> float:
        """Return by what share the mixture's perplexity per token is below the global LM's."""
        return 1 - math.exp((self.mixed_nats - self.global_nats) / max(1, self.tokens))

    def as_json(self) -> dict[str, float]:
        """Return the sums, and the figures that follow from them."""
        tokens, words, known = max(1, self.tokens), max(1, self.words), max(1, self.known)
        return {
            **asdict(self),
            "global_perplexity": math.exp(self.global_nats / tokens),
            "mixed_perplexity": math.exp(self.mixed_nats / tokens),
            "global_perplexity_per_word": math.exp(min(700, self.global_nats / words)),
            "mixed_perplexity_per_word": math.exp(min(700, self.mixed_nats / words)),
            "personal_perplexity_of_known": math.exp(self.personal_nats / known),
            "global_perplexity_of_known": math.exp(self.global_known_nats / known),
            "known_share": self.known / tokens,
            "mean_weight": self.weight / tokens,
            "reduction": self.reduction,
        }


def tally(
    model: PersonalModel, letters: Iterable[Letter], targets: Iterable[list[Float32Array]]
) -> Tally:
    """Return how well ``letters`` are predicted, of which ``Targets.of`` says ``targets``."""
    total = Tally()
    for letter, rows in zip(letters, targets, strict=True):
        total.words += letter.words
        for ids, row in zip(letter.passages, rows, strict=True):
            total += passage_tally(model, ids, row)
    return total


def passage_tally(model: PersonalModel, ids: Ids, targets: Float32Array) -> Tally:
    """Return the tally of one passage, whose ``targets`` are float32[n, 3]."""
    n = len(targets)
    if not n:
        return Tally()
    states = states_along(model, ids)
    personal = model.score(states, ids[1:, None])[0][:, 0].astype(np.float64)
    weights = model.weights(states, np.arange(n), targets[:, 1:]).astype(np.float64)
    shared = targets[:, 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        mixed = np.logaddexp(np.log(weights) + personal, np.log1p(-weights) + shared)
    mixed = np.where(weights > 0, mixed, shared)
    known = np.isfinite(personal)
    return Tally(
        tokens=n,
        global_nats=-float(shared.sum()),
        mixed_nats=-float(mixed.sum()),
        known=int(known.sum()),
        personal_nats=-float(personal[known].sum()),
        global_known_nats=-float(shared[known].sum()),
        weight=float(weights.sum()),
    )


def states_along(model: PersonalModel, ids: Ids) -> npt.NDArray[np.uint32]:
    """Return the states after ids[:1], ids[:2], … but not after the last, uint32[n−1]."""
    depth, listed = max(1, model.order - 1), ids.tolist()
    return model.states([listed[max(0, t - depth) : t] for t in range(1, len(listed))])
