"""Texts in the form in which they are compared: what stays of a text that is copied, respaced or reformatted.

Letters and digits only, NFKC, case folded; zeros behind a decimal point and the spelling of units unified; and without
the syllables that are particles (조사), wherever they are. Particles are written without a space, so that a respaced
text does not show where they are: dropping their syllables everywhere is a rule that needs no word boundaries, and both
sides of a comparison lose the same.

Everything works on batches of texts as numpy arrays of code points.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorachain.data.normalization import limit_marks

SKELETON_VERSION = 1
"""Raised with every change to what this module returns: hashes of different versions are not comparable."""
GRAM = 5
"""Characters of an n-gram."""
PARTICLES = "은는이가을를의에와과도로으"

_SEPARATOR = "\x1e"
_TABLE_SIZE = 0x20000
"""No Hangul, Latin or common Hanja lies beyond."""
_DECIMAL_ZEROS = re.compile(r"(?<=\d)\.0{1,6}(?!\d)")
_UNITS = (
    *(("마이크로그램", "μg"), ("mcg", "μg"), ("밀리그램", "mg"), ("킬로그램", "kg"), ("그램", "g")),
    *(("밀리리터", "ml"), ("데시리터", "dl"), ("리터", "l")),
    *(("밀리미터", "mm"), ("센티미터", "cm"), ("킬로미터", "km"), ("미터", "m")),
    *(("퍼센트", ""), ("°C", "")),
)
"""In this order: a unit's name contains that of a larger one."""

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Skeletons:
    """The skeletons of N texts in one array."""

    codes: Codes
    """(C,) code points of all texts, one behind the other."""
    starts: Positions
    """(N + 1,) where each text begins; the last is C."""


@dataclass(frozen=True, slots=True)
class Grams:
    """The hashed n-grams of N texts, in the order of the text."""

    hashes: Hashes
    """(G,)"""
    starts: Positions
    """(N + 1,) where each text's begin."""

    def of(self, number: int) -> Hashes:
        """The n-grams of one text."""
        return self.hashes[self.starts[number] : self.starts[number + 1]]


def skeletons(texts: Sequence[str]) -> Skeletons:
    """The texts without what copying changes."""
    joined = _SEPARATOR.join(text.replace(_SEPARATOR, " ") for text in texts)
    if not joined.isascii():
        joined = limit_marks(joined)
        if not unicodedata.is_normalized("NFKC", joined):
            joined = limit_marks(unicodedata.normalize("NFKC", joined))
    if "." in joined:
        joined = _DECIMAL_ZEROS.sub("", joined)
    for name, unit in _UNITS:
        if name in joined:
            joined = joined.replace(name, unit)
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = _table()[np.minimum(points, _TABLE_SIZE - 1)]
    codes = codes[codes > 0]
    separators = np.flatnonzero(codes == ord(_SEPARATOR))
    starts = np.concatenate(([0], separators - np.arange(len(separators)), [len(codes) - len(separators)]))
    return Skeletons(codes[codes != ord(_SEPARATOR)], starts.astype(np.int64))


def grams(texts: Skeletons, size: int = GRAM) -> Grams:
    """The n-grams of `size` characters of each text; a shorter text has none."""
    codes = texts.codes.astype(np.uint64)
    count = len(codes) - size + 1
    lengths = np.diff(texts.starts)
    numbers = np.maximum(lengths - size + 1, 0)
    starts = np.concatenate(([0], np.cumsum(numbers))).astype(np.int64)
    if count <= 0:
        return Grams(np.zeros(0, np.uint64), starts)
    hashes = codes[:count].copy()
    for offset in range(1, size):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[offset : offset + count]
    inside = np.ones(count, np.bool_)
    ends = texts.starts[1:, None] - np.arange(1, size)
    inside[ends[(ends >= 0) & (ends < count)]] = False
    return Grams(mixed(hashes[inside]), starts)


def mixed(values: Hashes, salt: int = 0) -> Hashes:
    """Well distributed 64-bit hashes of 64-bit values (the finalizer of SplitMix64, Steele et al. 2014)."""
    result = values ^ np.uint64(salt)
    result ^= result >> np.uint64(30)
    result *= np.uint64(0xBF58476D1CE4E5B9)
    result ^= result >> np.uint64(27)
    result *= np.uint64(0x94D049BB133111EB)
    result ^= result >> np.uint64(31)
    return result


def whole_hashes(texts: Skeletons) -> Hashes:
    """(N,) a hash of each complete skeleton; 0 for an empty one."""
    powers = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, len(texts.codes) + 1, dtype=np.uint64)
    lengths = np.diff(texts.starts)
    within = np.arange(len(texts.codes)) - np.repeat(texts.starts[:-1], lengths)
    terms = mixed(texts.codes.astype(np.uint64) + powers[within] if len(within) else powers)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
    return np.asarray(sums[texts.starts[1:]] - sums[texts.starts[:-1]], dtype=np.uint64)


@functools.cache
def _table() -> Codes:
    """By code point, the code point that it is compared as; 0 is dropped."""
    table = np.zeros(_TABLE_SIZE, np.uint32)
    for point in range(_TABLE_SIZE):
        character = chr(point)
        if character.isalnum() and character not in PARTICLES:
            folded = character.casefold()
            table[point] = ord(folded) if len(folded) == 1 else point
    table[ord(_SEPARATOR)] = ord(_SEPARATOR)
    table[_TABLE_SIZE - 1] = 0
    return table
