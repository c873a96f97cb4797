"""Texts that occur again, exactly or nearly, found while they are read; the first of them is kept.

Near duplicates are estimated with R-MinHash (rensa) of a text's character n-grams and searched for with banding
(Leskovec et al., Mining of Massive Datasets, ch. 3). A text costs about 400 bytes: band hashes, and one byte per slot
of its signature (b-bit minwise hashing, Li and König 2010, arXiv 0910.3349).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from lorachain.data.gates.skeleton import Grams, Hashes, Positions, mixed

SLOTS, BANDS = 128, 16
FEW_GRAMS = 100
"""A text with fewer n-grams is compared exactly only: short texts of one form are similar and say different things, as
two entries of a formulary do."""
_ROWS = SLOTS // BANDS
_SEED = 42
_RECENT = 200_000
"""Band hashes that are kept in a dictionary before they are merged into the sorted arrays."""
_BLOCK = 8192
"""Signatures that are stored together."""
Signatures = NDArray[np.uint32]


class Duplicate(NamedTuple):
    """What a text is a duplicate of."""

    record: int
    """Number of the earlier text."""
    similarity: float
    """1.0: the same text."""


def signatures(batch: Grams) -> Signatures:
    """(N, 128) the R-MinHash signatures of N texts."""
    if len(batch.starts) == 1:
        return np.zeros((0, SLOTS), np.uint32)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(batch.hashes, batch.starts, SLOTS, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def band_hashes(rows: Signatures) -> Hashes:
    """(N, 16) a hash of each band of each signature."""
    bands = rows.reshape(len(rows), BANDS, _ROWS).astype(np.uint64)
    weights = mixed(np.arange(1, _ROWS + 1, dtype=np.uint64))
    sums = (bands * weights).sum(axis=2, dtype=np.uint64)
    return mixed(sums + np.arange(BANDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


class DuplicateIndex:
    """The texts read so far.

    Args:
        similarity: estimated Jaccard similarity from which two texts are near duplicates; 1: exact ones only.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._exact: dict[int, int] = {}
        self._keys: Hashes = np.zeros(0, np.uint64)
        self._rows = np.zeros(0, np.int32)
        self._recent: dict[int, int] = {}
        self._blocks: list[NDArray[np.uint8]] = []
        """(`_BLOCK`, 128) one byte per slot of each signature; blocks, so that growing copies nothing."""
        self._records: list[int] = []
        """By row, the number of the text."""

    def add(
        self, records: Sequence[int], exact: Sequence[int], rows: Signatures, gram_counts: Positions
    ) -> list[Duplicate | None]:
        """What each text of a batch is a duplicate of; texts that are none are remembered.

        Args:
            records: their numbers. exact: 64-bit hashes of the complete texts. rows: (N, 128) signatures.
            gram_counts: (N,) n-grams of each.
        """
        near = self._similarity < 1
        bands = band_hashes(rows) if near else np.zeros((len(exact), 0), np.uint64)
        earlier = self._lookup(bands)
        result: list[Duplicate | None] = []
        for i, (record, digest) in enumerate(zip(records, exact, strict=True)):
            found = Duplicate(self._exact[digest], 1.0) if digest in self._exact else None
            if found is None and near and gram_counts[i] >= FEW_GRAMS:
                found = self._nearest(rows[i], bands[i], earlier[i])
            result.append(found)
            if found is None:
                self._exact[digest] = record
                if near and gram_counts[i] >= FEW_GRAMS:
                    self._remember(record, rows[i], bands[i])
        return result

    def _lookup(self, bands: Hashes) -> list[list[int]]:
        """By text, the rows with an equal band in the sorted arrays."""
        if not bands.size or not len(self._keys):
            return [[] for _ in bands]
        number = np.minimum(np.searchsorted(self._keys, bands), len(self._keys) - 1)
        same = self._keys[number] == bands
        return [self._rows[number[i][same[i]]].tolist() for i in range(len(bands))]

    def _nearest(self, signature: NDArray[np.uint32], bands: Hashes, earlier: list[int]) -> Duplicate | None:
        rows = {*earlier, *(self._recent[band] for band in bands.tolist() if band in self._recent)}
        best: Duplicate | None = None
        for row in sorted(rows):
            equal = float(np.mean(self._blocks[row // _BLOCK][row % _BLOCK] == (signature & 0xFF).astype(np.uint8)))
            similarity = max(0.0, (equal - 1 / 256) / (1 - 1 / 256))  # one byte of a slot is equal by chance
            if similarity >= self._similarity and (best is None or similarity > best.similarity):
                best = Duplicate(self._records[row], min(similarity, 0.999))
        return best

    def _remember(self, record: int, signature: NDArray[np.uint32], bands: Hashes) -> None:
        row = len(self._records)
        if row == len(self._blocks) * _BLOCK:
            self._blocks.append(np.zeros((_BLOCK, SLOTS), np.uint8))
        self._blocks[-1][row % _BLOCK] = (signature & 0xFF).astype(np.uint8)
        self._records.append(record)
        for band in bands.tolist():
            self._recent.setdefault(band, row)
        if len(self._recent) >= _RECENT:
            self._merge()

    def _merge(self) -> None:
        """The recent band hashes into the sorted arrays; of a hash that is there the earlier row stays. One copy of the
        arrays, without sorting them again."""
        keys = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
        rows = np.fromiter(self._recent.values(), np.int32, len(self._recent))
        order = np.argsort(keys)
        keys, rows = keys[order], rows[order]
        place = np.searchsorted(self._keys, keys)
        there = np.zeros(len(keys), bool)
        inside = place < len(self._keys)
        there[inside] = self._keys[place[inside]] == keys[inside]
        self._rows = np.insert(self._rows, place[~there], rows[~there])
        self._keys = np.insert(self._keys, place[~there], keys[~there])
        self._recent = {}
