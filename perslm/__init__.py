"""perslm: a small language model for every user, mixed into the beam search of a global one.

>>> import perslm
>>> store = perslm.open_store()                     # doctest: +SKIP
>>> model = store.load("ada@example.org")           # doctest: +SKIP
>>> states = model.states([[12, 7], [12, 9]])       # doctest: +SKIP
>>> mixed = model.mix(states, global_logprobs)      # doctest: +SKIP

A map of the library:

============  =========================================================================
vocabulary    ids, specials, fingerprint; text to ids (with ``tokenize``, ``entities``)
counts        n-gram counts: add, subtract, prune
katz          counts to probabilities and backoff weights
automaton     the model as a weighted automaton, and its invariants
blob          bytes to counts and back (FORMAT.md)
model         what a beam search calls: states, weights, score, mix
interpolate   λ, and mixing
beam          a reference beam search, and the protocol of a global LM
store         users to blobs, in anything that speaks the Redis protocol (``embedded``)
client        the same calls against a scoring service (``remote``, ``async_client``)
arpa, openfst other toolkits' files
cli           the command line, which also drives ``builders`` and ``service``
errors        every exception
============  =========================================================================

``backend`` is "kernel" or "numpy": which implementation does the hot work. The environment variable
``PERSLM_KERNEL`` (auto, on, off) chooses; both give the same answers.
"""

from perslm import errors
from perslm._backend import NAME as backend  # noqa: N811 - a word that callers read, not a constant
from perslm.async_client import AsyncClient, AsyncRemoteModel
from perslm.beam import GlobalModel, Hypothesis, PersonalOnly, PooledModel, search
from perslm.client import Client
from perslm.model import NullModel, PersonalModel, Scorer
from perslm.remote import RemoteModel
from perslm.store import Store, open_store
from perslm.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncRemoteModel",
    "Client",
    "GlobalModel",
    "Hypothesis",
    "NullModel",
    "PersonalModel",
    "PersonalOnly",
    "PooledModel",
    "RemoteModel",
    "Scorer",
    "Store",
    "Vocabulary",
    "__version__",
    "backend",
    "errors",
    "open_store",
    "search",
]
