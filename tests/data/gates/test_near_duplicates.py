"""Texts that occur again."""

import random

import numpy as np
import pytest

from lorachain.data.gates import near_duplicates
from lorachain.data.gates.near_duplicates import Duplicate, DuplicateIndex, band_hashes, signatures
from lorachain.data.gates.skeleton import grams, skeletons

WORDS = ["폐렴", "간염", "신장", "심장", "혈압", "당뇨", "발열", "통증", "환자", "치료", "수술", "약물", "감염"]


def document(seed: int, words: int = 150) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + rng.choice("은는을를이가") + str(rng.randint(0, 99)) for _ in range(words))


def add(index: DuplicateIndex, texts: list[str], first: int = 1) -> list[Duplicate | None]:
    batch = grams(skeletons(texts))
    records = list(range(first, first + len(texts)))
    return index.add(records, list(map(hash, texts)), signatures(batch), np.diff(batch.starts))


def changed(text: str, share: float) -> str:
    rng = random.Random(1)
    return " ".join("바뀜" if rng.random() < share else word for word in text.split())


def test_the_first_is_kept() -> None:
    index = DuplicateIndex(0.8)
    text = document(0)
    found = add(index, [text, document(1), changed(text, 0.01), text])
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert found[2].record == 1
    assert 0.8 <= found[2].similarity < 1
    assert found[3] == Duplicate(1, 1.0)


def test_texts_that_differ_are_kept() -> None:
    index = DuplicateIndex(0.8)
    assert add(index, [document(seed) for seed in range(200)]) == [None] * 200
    assert add(index, [changed(document(7), 0.5)], 201) == [None]


def test_later_batches_find_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the bands were merged into the sorted arrays."""
    monkeypatch.setattr(near_duplicates, "_RECENT", 64)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    index = DuplicateIndex(0.8)
    texts = [document(seed) for seed in range(60)]
    for start in range(0, 60, 6):
        assert add(index, texts[start : start + 6], start + 1) == [None] * 6
    found = add(index, [changed(text, 0.01) for text in texts], 61)
    assert [duplicate.record if duplicate else None for duplicate in found] == list(range(1, 61))


def test_at_one_only_exact_duplicates_count() -> None:
    index = DuplicateIndex(1.0)
    text = document(0)
    batch = grams(skeletons([text, changed(text, 0.01), text]))
    none = signatures(grams(skeletons([""])))[:0]
    assert index.add([1, 2, 3], [11, 12, 11], none, np.diff(batch.starts)) == [None, None, Duplicate(1, 1.0)]


def test_short_texts_are_compared_exactly() -> None:
    index = DuplicateIndex(0.8)
    entries = [f"아스피린 {dose} mg 정은 하루에 한 번 식사 뒤에 물과 함께 삼킨다." for dose in (100, 500)]
    assert add(index, entries) == [None, None]
    index = DuplicateIndex(0.8)
    assert add(index, ["간은 장기이다", "간 은 장기 이다", "간은 장기이다"]) == [None, None, Duplicate(1, 1.0)]


def test_bands_of_different_places_differ() -> None:
    bands = band_hashes(np.ones((1, 128), np.uint32))
    assert len(set(bands[0].tolist())) == 16
