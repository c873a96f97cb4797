"""Measures of running text."""

import numpy as np

from lorachain.data.gates.quality import MEASURES, SUGGESTED, is_left_out, measure
from lorachain.data.gates.skeleton import grams, skeletons
from lorachain.data_settings import QualityConfig


def values(text: str) -> dict[str, float]:
    return dict(zip(MEASURES, measure([text], grams(skeletons([text])))[0].tolist(), strict=True))


def test_characters_and_hangul() -> None:
    assert values("간 liver 12") == {"characters": 10.0, "hangul": 1 / 6, "repetition": 0.0, "boilerplate": 0.0}
    assert values("12.5")["hangul"] == 1.0
    assert values("")["characters"] == 0.0


def test_repetition_is_the_share_of_n_grams_that_came_before() -> None:
    assert values("가나다라마바사아자차")["repetition"] == 0.0
    assert values("폐렴환자 치료법. " * 50)["repetition"] > 0.9


def test_boilerplate_is_the_share_of_short_lines_with_its_phrases() -> None:
    line = "무단 전재 및 재배포 금지"
    assert values(f"{line}\n{'가' * len(line)}")["boilerplate"] == len(line) / (2 * len(line) + 1)
    assert values(f"저작권에 대한 긴 글이다. {'글이 이어진다. ' * 40}")["boilerplate"] == 0.0


def test_the_defaults_leave_nothing_out() -> None:
    extreme = np.array([[0.0, 0.0, 1.0, 1.0], [1e9, 1.0, 0.0, 0.0]])
    assert not is_left_out(extreme, QualityConfig()).any()
    assert is_left_out(extreme, SUGGESTED).tolist() == [[True] * 4, [False] * 4]
