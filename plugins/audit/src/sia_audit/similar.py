"""Finding texts that are equal but for their dress, and texts that are close, without comparing all with all.

Closeness is the cosine over character 2- and 3-grams, each gram weighed by its count
and by how few of the known texts have it: ``count * (1 + ln((1 + n) / (1 + df)))``.
Grams that no known text has are left out, since nothing known could match them.

The search is exact and needs no pair of texts to be compared that shares nothing rare.
Sort the grams of every text in one order, the rarest first, and cut each unit vector
where its rest has become shorter than ``REST``. For two texts let the cut be the
earlier one: what they share before it is found through an index, what they share
after it is at most ``REST``. So only pairs that share more than the threshold less
``REST`` before it are looked at in full (Bayardo, Ma and Srikant, "Scaling up all pairs
similarity search", WWW 2007).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

NEAR = 0.8
"""Above this cosine two texts are close."""

LEAST_NEAR = 40
"""Letters and digits; shorter texts are close to others, or inside of them, by chance."""

LEAST_TEXT = 8
"""A text with fewer letters and digits is no text to search other texts for."""

ANCHOR = 16
"""Letters and digits by which a text is searched for inside of others, which takes ``LEAST_NEAR`` of them."""

REST = 0.6
CROWD = 500
"""Of the hidden texts that share a gram this many are looked up by it; those of a larger crowd may be missed."""

_NO_LETTER = re.compile(r"\W+")


def essence(text: str) -> str:
    """The text without case, white space, punctuation, and full-width or other forms of the same letters."""
    # Normalising is slow on Chinese punctuation, and fast once that is gone; what it unfolds may hold some again.
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", _NO_LETTER.sub("", text))).casefold()


def grams(text: str) -> Counter[str]:
    """How often each two and three neighbouring characters stand in a text."""
    counts = Counter(map("".join, pairwise(text)))
    counts.update(map("".join, zip(text, text[1:], text[2:], strict=False)))
    return counts


class Weights:
    """How much a gram tells, by the texts that are known."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._having = 0, Counter[str]()
        for text in texts:
            self._texts += 1
            self._having.update(grams(text).keys())

    def vector(self, text: str) -> dict[str, float]:
        """The text's unit vector, its rarest grams first; empty where no gram of it is known."""
        rows = [(self._having[gram], gram, count) for gram, count in grams(text).items() if gram in self._having]
        rows.sort()
        weighed = {gram: count * (1 + math.log((1 + self._texts) / (1 + having))) for having, gram, count in rows}
        length = math.hypot(*weighed.values())
        return {gram: weight / length for gram, weight in weighed.items()}


class Closest:
    """The hidden texts, by name, ready to be asked which of them a known text is close to."""

    def __init__(self, hidden: Mapping[str, str], weights: Weights) -> None:
        self._hidden, self._weights = hidden, weights
        self._index: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
        for name, text in hidden.items():
            if len(text) >= LEAST_NEAR:
                for gram, weight in _head(weights.vector(text)):
                    if len(self._index[gram]) < CROWD:
                        self._index[gram].append((name, weight))

    def near(self, text: str) -> dict[str, float]:
        """The cosines above ``NEAR``, by name."""
        if len(text) < LEAST_NEAR:
            return {}
        vector = self._weights.vector(text)
        shared: defaultdict[str, float] = defaultdict(float)
        for gram, weight in _head(vector):
            for name, other in self._index.get(gram, ()):
                shared[name] += weight * other
        likely = [name for name, sum_ in shared.items() if sum_ > NEAR - REST - 1e-9]
        cosines = {name: cosine(vector, self._weights.vector(self._hidden[name])) for name in likely}
        return {name: cosine for name, cosine in cosines.items() if cosine > NEAR}


def _head(vector: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The rarest grams of a unit vector, as many as it takes for the rest to be no longer than ``REST``."""
    remaining = 1.0
    for gram, weight in vector.items():
        if remaining <= REST**2:
            return
        yield gram, weight
        remaining -= weight**2


def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Of two unit vectors."""
    return math.fsum(weight * other[gram] for gram, weight in one.items() if gram in other)


@dataclass(frozen=True)
class _Anchored:
    name: str
    text: str
    at: int


class Contained:
    """The hidden texts, ready to be found whole inside of others, each by a piece of it that few of them share."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self._anchors: defaultdict[str, list[_Anchored]] = defaultdict(list)
        for name, text in hidden.items():
            if len(text) >= LEAST_NEAR:
                last = len(text) - ANCHOR
                places = (0, last // 3, 2 * last // 3, last)
                at = min(places, key=lambda place: len(self._anchors.get(text[place : place + ANCHOR], ())))
                self._anchors[text[at : at + ANCHOR]].append(_Anchored(name, text, at))

    def inside(self, text: str) -> set[str]:
        """The names of the hidden texts that stand in this one."""
        names = set()
        for place in range(len(text) - ANCHOR + 1):
            for each in self._anchors.get(text[place : place + ANCHOR], ()):
                if each.name not in names and place >= each.at and text.startswith(each.text, place - each.at):
                    names.add(each.name)
        return names
