"""Measures of running text: length, share of Hangul, repetition, boilerplate."""

import functools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorachain.data.gates.skeleton import Grams
from lorachain.data_settings import QualityConfig

MEASURES = ("characters", "hangul", "repetition", "boilerplate")
SUGGESTED = QualityConfig(min_characters=50, min_hangul=0.3, max_repetition=0.5, max_boilerplate=0.3)
"""What the report counts with: nothing is left out by it."""
_BOILERPLATE = (
    *("저작권", "무단 전재", "무단전재", "재배포 금지", "Copyright", "All rights reserved", "ⓒ", "©"),
    *("로그인", "회원가입", "개인정보처리방침", "이용약관", "쿠키를 사용", "본문 바로가기", "구독하기", "댓글"),
)
_LINE_MAX = 200
"""Characters of a line up to which such a phrase makes all of it boilerplate; in a longer one it is prose."""
_TABLE_SIZE = 0x20000
_PHRASE = re.compile("|".join(map(re.escape, _BOILERPLATE)))


def measure(texts: Sequence[str], batch: Grams) -> NDArray[np.float64]:
    """(N, 4) the measures of each text, in the order of `MEASURES`; shares of nothing are 0, Hangul's is 1.

    Args:
        batch: the texts' n-grams.
    """
    result = np.zeros((len(texts), len(MEASURES)))
    for number, text in enumerate(texts):
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        letters = int(_letters()[np.minimum(points, _TABLE_SIZE - 1)].sum())
        hangul = int(((points >= 0xAC00) & (points <= 0xD7A3)).sum())
        own = np.sort(batch.of(number))
        again = int((own[1:] == own[:-1]).sum())
        result[number] = (
            len(text),
            hangul / letters if letters else 1.0,
            again / len(own) if len(own) else 0.0,
            _boilerplate(text),
        )
    return result


def is_left_out(values: NDArray[np.float64], limits: QualityConfig) -> NDArray[np.bool_]:
    """(N, 4) which limit each text exceeds."""
    least = np.array([limits.min_characters, limits.min_hangul, -np.inf, -np.inf])
    most = np.array([np.inf, np.inf, limits.max_repetition, limits.max_boilerplate])
    return np.asarray((values < least) | (values > most))


def _boilerplate(text: str) -> float:
    if not text or not any(phrase in text for phrase in _BOILERPLATE):
        return 0.0
    lines = (line for line in text.split("\n") if len(line) <= _LINE_MAX and _PHRASE.search(line))
    return sum(map(len, lines)) / len(text)


@functools.cache
def _letters() -> NDArray[np.bool_]:
    """By code point, whether it is a letter."""
    return np.fromiter((chr(point).isalpha() for point in range(_TABLE_SIZE)), np.bool_, _TABLE_SIZE)
