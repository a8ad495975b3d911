"""Reviews by grammar: sentences of two or three clauses whose words do not tell the verdict unless their order is read.

A clause praises or blames something; it may be negated (at once, or from afar), strengthened or weakened, reported by
somebody else, or wished for. What follows `but` counts double, what follows `although` half. The label says
whether the weighted sum is blame, next to nothing, or praise, so that reviews near a threshold are hard.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from benchmarks.accuracy.data import Samples, Split, random

T = TypeVar("T")
LENGTH = 32  # of a sequence of token ids, padded with 0
CLASSES = 3

def _words(text: str) -> list[str]:
    return text.split()


_ADJECTIVES = {
    2.0: "superb brilliant perfect wonderful outstanding flawless magnificent stunning",
    1.0: "good pleasant nice solid friendly tasty reliable comfortable clean helpful charming fresh",
    0.5: "decent acceptable fair adequate usable tolerable",
    -0.5: "plain dull ordinary forgettable bland pricey",
    -1.0: "bad rude dirty slow noisy stale unpleasant weak clumsy cold flimsy boring",
    -2.0: "awful horrible disgusting dreadful terrible appalling useless unbearable"}
_VERBS = {1.0: "liked enjoyed recommended appreciated", 2.0: "loved adored admired",
          -1.0: "disliked regretted criticized", -2.0: "hated despised detested"}
_DEGREES = {1.5: "very really truly extremely incredibly", 0.5: "slightly somewhat barely fairly rather"}
_THINGS = _words(
    "room bed staff food soup coffee breakfast view pool lobby service waiter menu dessert wine music price location "
    "garden beach elevator shower towel carpet parking driver guide boat bus museum trip ticket phone screen battery "
    "keyboard camera case cable sound manual delivery box seat table lamp chair")
_PEOPLE = _words("friend sister neighbour boss colleague cousin wife husband daughter uncle")
_ASIDES = ["on monday", "last summer", "in the evening", "after the storm", "with two children", "during our stay",
           "at the station", "for the first time", "before noon", "near the harbour", "as usual", "by the way"]
_SMALL = _words(
    "[pad] the this our i we my it was seemed felt looked is not never hardly far from nobody would call did , . and "
    "but although said that told us if only had been so then because also too")


def _flat(groups: dict[float, str]) -> list[tuple[str, float]]:
    return [(word, value) for value, words in groups.items() for word in words.split()]


ADJECTIVES, VERBS, DEGREES = _flat(_ADJECTIVES), _flat(_VERBS), _flat(_DEGREES)
WORDS = tuple(dict.fromkeys([*_SMALL, *(w for w, _ in ADJECTIVES + VERBS + DEGREES), *_THINGS, *_PEOPLE,
                             *" ".join(_ASIDES).split()]))  # a word's id is its place; 0 is padding
_IDS = {word: i for i, word in enumerate(WORDS)}


def reviews(split: Split, count: int) -> Samples:
    """Token ids, int64 [count, 32], padded with 0, and labels 0 (bad), 1 (mixed) or 2 (good), int64 [count]."""
    rng = random("reviews", split)
    ids = np.zeros((count, LENGTH), np.int64)
    labels = np.empty(count, np.int64)
    for row in range(count):
        words, score = write(_Choices(rng))
        ids[row, :len(words)] = [_IDS[word] for word in words]
        labels[row] = int(np.searchsorted((-0.4, 0.4), score))
    return ids, labels


class _Choices:
    """Choices made from bytes that were drawn at once: a call of the generator for each would take most of the time."""

    def __init__(self, rng: np.random.RandomState) -> None:
        self._bytes = iter(rng.bytes(160))

    def below(self, n: int) -> int:
        return (next(self._bytes) << 8 | next(self._bytes)) * n >> 16

    def often(self, percent: int) -> bool:
        return self.below(100) < percent

    def of(self, among: list[T]) -> T:
        return among[self.below(len(among))]


def write(choose: _Choices) -> tuple[list[str], float]:
    """One review: its words (at most `LENGTH`) and its score."""
    words: list[str] = []
    score, weight = 0.0, 1.0
    for i in range(2 + choose.below(2)):
        if i:
            word = choose.of(["and", "but", ".", ",", "although"])
            weight = {"but": 2.0, "although": 0.5}.get(word, 1.0)
            opening = [word]
        else:
            concession = choose.often(20)
            opening, weight = (["although"], 0.5) if concession else ([], 1.0)
        clause, value = _clause(choose)
        if len(words) + len(opening) + len(clause) > LENGTH:
            break
        words += opening + clause
        score += weight * value
    return words, score


def _clause(choose: _Choices) -> tuple[list[str], float]:
    """A clause and what it says: positive praise, negative blame."""
    factor = 1.0
    words: list[str] = []
    if choose.often(18):
        words += ["my", choose.of(_PEOPLE), *choose.of([["said", "that"], ["told", "us", "that"]])]
        factor *= 0.5
    wish = choose.often(10)
    if wish:
        words += ["if", "only"]
        factor *= -1
    if choose.often(25) and not wish:
        verb, value = choose.of(VERBS)
        negated = choose.often(30)
        words += [choose.of(["i", "we"]), *(["never"] if negated else []), verb, choose.of(["the", "this", "our"]),
                  choose.of(_THINGS)]
        factor *= -0.5 if negated else 1
    else:
        adjective, value = choose.of(ADJECTIVES)
        thing = [choose.of(["the", "this", "our"]), choose.of(_THINGS)]
        form = choose.below(10)
        degree, strength = choose.of(DEGREES) if choose.often(35) else ("", 1.0)
        described = [*([degree] if degree else []), adjective]
        value *= strength
        if form == 0:
            words += ["nobody", "would", "call", *thing, *described]
            factor *= -0.5
        elif form <= 3:
            words += [*thing, choose.of(["was", "seemed", "felt"]),
                      *choose.of([["not"], ["hardly"], ["never"], ["far", "from"]]), *described]
            factor *= -0.5
        else:
            words += [*thing, *(["had", "been"] if wish else [choose.of(["was", "seemed", "felt", "looked", "is"])]),
                      *described]
    if choose.often(25):
        words += choose.of(_ASIDES).split()
    return words, factor * value
