"""Others' figures that ``perslm bench`` cannot measure, for those tools are not on PyPI.

From 20 authors of raw Enron mail (8,676 to 318,463 tokens, word level, unpruned) on one 2.5 GHz
Xeon core, best or CPU figures: OpenGrm NGram 1.3.11 on OpenFst 1.7.9, KenLM 4cb443e, tongrams HEAD.
Sizes compare well; times were taken on another machine than yours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PUBLISHED: Final[Mapping[tuple[str, int | None], Mapping[str, float]]] = {
    ("learn", 3): {"KenLM lmplz": 0.711, "OpenGrm": 0.120},
    ("learn", 5): {"KenLM lmplz": 0.372, "OpenGrm": 0.055},
    ("step", 3): {"KenLM, C++": 14.3, "OpenFst const, C++": 59},
    ("step", 5): {"KenLM, C++": 13.7, "OpenFst const, C++": 65},
    ("distribution", 3): {"KenLM, C++": 868, "OpenFst const, C++": 108},
    ("blob", 3): {
        "tongrams, 8 bits (lossy)": 3.74,
        "KenLM trie, 8 bits (lossy)": 5.53,
        "OpenFst ngram": 11.54,
    },
    ("blob", 5): {
        "tongrams, 8 bits (lossy)": 3.46,
        "KenLM trie, 8 bits (lossy)": 5.02,
        "OpenFst ngram": 13.75,
    },
    ("memory", 3): {"KenLM probing": 21.33},
    ("memory", 5): {"KenLM probing": 22.69},
}
"""(key, order) of a figure to names and values, in the figure's unit."""
