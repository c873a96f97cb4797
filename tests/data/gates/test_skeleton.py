"""The form in which texts are compared."""

import numpy as np
import pytest

from lorachain.data.gates.skeleton import GRAM, grams, skeletons, whole_hashes

TEXTS = ["혈압이 120/80 mmHg인 환자", "", "가", "Vitamin B12가 부족한 환자의 빈혈", "항응고제 5 mg"]


def skeleton(text: str) -> str:
    return "".join(map(chr, skeletons([text]).codes))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("혈압이 높은 환자", "혈압은높은환자"),
        ("환자가 열을 호소하였다.", "환자는  열 을 호소하였다"),
        ("1,000 mg", "1000㎎"),
        ("５.0 밀리그램", "5mg"),
        ("38.5℃", "38.5 °C"),
        ("포도당 5.00 퍼센트", "포도당 5%"),
        ("ASPIRIN", "aspirin"),
        ("병원으로 갔다", "병원에 갔다"),
    ],
)
def test_what_copying_changes_is_not_compared(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other) != ""


@pytest.mark.parametrize(("one", "other"), [("5 mg", "50 mg"), ("좌심실", "우심실"), ("5.05", "5.5"), ("a", "b")])
def test_different_content_stays_different(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


def test_a_batch_is_its_texts() -> None:
    batch = skeletons(TEXTS)
    for number, text in enumerate(TEXTS):
        alone = skeletons([text])
        assert np.array_equal(batch.codes[batch.starts[number] : batch.starts[number + 1]], alone.codes)
        assert np.array_equal(grams(batch).of(number), grams(alone).of(0))
        assert whole_hashes(batch)[number] == whole_hashes(alone)[0]


def test_a_text_has_an_n_gram_per_position() -> None:
    for text in TEXTS:
        assert len(grams(skeletons([text])).hashes) == max(0, len(skeleton(text)) - GRAM + 1)


def test_a_separator_in_a_text_moves_no_boundary() -> None:
    assert np.diff(skeletons(["ab\x1ecd", "ef"]).starts).tolist() == [4, 2]


def test_whole_hashes_depend_on_order() -> None:
    first, second = whole_hashes(skeletons(["abc", "cba"]))
    assert first != second
