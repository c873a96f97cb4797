"""Terms in Korean."""

import pytest

from lorachain.evaluation.statistics import chance_summary, comparison_summary
from lorachain.report.document.blocks import Text
from lorachain.report.document.sections import words


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        (chance_summary(90, 100), "우연 수준보다 높음 (p < 0.001)"),
        (chance_summary(20, 100), "우연 수준과 유의한 차이 없음 (p = 1.000)"),
        (comparison_summary(1, 20, "the base model"), "베이스보다 나음 (p < 0.001)"),
        (comparison_summary(5, 5, "the base model"), "베이스와 유의한 차이 없음 (p = 1.000)"),
        (comparison_summary(20, 1, "gemma"), "gemma보다 나쁨 (p < 0.001)"),
        ("something else", "something else"),
    ],
)
def test_summaries(english: str, korean: str) -> None:
    assert words.summary(english) == Text(english, korean)


def test_every_measure_of_the_ledger_has_a_name() -> None:
    assert words.ledger_measure("exact_match_term_to_english").ko == "완전 일치율, 용어 → 영어"
    assert words.ledger_measure("text_mine").ko == "퍼플렉서티, mine"
    assert words.ledger_measure("korean").ko == "퍼플렉서티, 일반 한국어"
    assert words.ledger_measure("unknown_measure") == Text("unknown measure", "unknown measure")
