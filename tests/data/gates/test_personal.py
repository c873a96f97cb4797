"""Personal data: what is found, what looks alike, and what is masked. All numbers are made up."""

import random

import pytest

from lorachain.data.gates import personal
from lorachain.data.gates.personal import Finding, PersonalData, masked
from lorachain.data.gates.personal_numbers import has_check_digit, is_birth_date, is_card
from lorachain.data.gates.user_pattern import compile_bounded
from lorachain.data_settings import PERSONAL_KINDS
from lorachain.errors import ConfigError
from test_linear_patterns import patterns_of, unbounded

SEARCH = PersonalData(PERSONAL_KINDS, r"\bC-\d{8}\b")


def kinds(text: str) -> list[str]:
    return [finding.kind for finding in SEARCH.find(text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("주민등록번호 900101-1234568", "resident"),
        ("900101 - 2345679", "resident"),
        ("900101–1234567", "resident"),
        ("９００１０１－１２３４５６７", "resident"),
        ("환자 주민번호: 9001011234567", "resident"),
        ("210305-3456789 (2020년 10월 뒤의 번호)", "resident"),
        ("외국인 900101-5234567", "alien"),
        *((f"연락처는 {number}입니다", "phone") for number in ("010-1234-5678", "010.1234.5678", "010 1234 5678")),
        *((f"{number}로 전화", "phone") for number in ("01012345678", "(010) 1234-5678", "010)1234-5678")),
        *((number, "phone") for number in ("+82-10-1234-5678", "+82 10 1234 5678", "+821012345678", "82-10-1234-5678")),
        *(
            (number, "phone")
            for number in ("010–1234–5678", "０１０-１２３４-５６７８", "010/1234/5678", "010 - 1234 - 5678")
        ),
        *(
            (number, "phone")
            for number in ("02-312-4567", "031-234-5678", "(02) 2345-6789", "070-8234-5678", "011-234-5678")
        ),
        *((number, "phone") for number in ("전화 0223456789", "공일공-일이삼사-오육칠팔", "+82(0)10-1234-5678")),
        ("hong.gildong@hospital.co.kr로", "email"),
        ("hong (at) hospital.co.kr", "email"),
        ("hong＠example.com", "email"),
        ("카드 4111-1111-1111-1111", "card"),
        ("4111111111111111", "card"),
        ("3782 822463 10005", "card"),
        ("국민은행 123456-01-234567", "account"),
        ("계좌번호: 110-234-567890", "account"),
        ("등록번호 C-20240001", "chart"),
    ],
)
def test_personal_data_is_found(text: str, kind: str) -> None:
    assert kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        *("1회 500 mg씩 1일 3회", "아세트아미노펜 0.5-1.0 g", "혈압 120/80 mmHg, 맥박 72회", "체온 36.5-37.2℃"),
        *("2021-03-05", "2021.03.05.", "20210305", "2019년 12월 31일-2020년 1월 3일", "14:30-15:00"),
        *("A00.1, I10, J18.9, M54.5", "EDI 코드 642901230", "보험코드 653400670", "ICD-10-CM E11.9"),
        *("1588-1234", "119", "국번 없이 1339", "ISBN 978-89-1234-567-8", "9788912345678", "doi 10.1000/182"),
        *("901301-1234567", "900132-1234567", "4111-1111-1111-1112", "유전자 010-A", "NM_000546.5", "rs1801133"),
        *("123456-01-234567", "2010-1234-5678-9", "사용자 @홍길동", "a@b", "제2020-123호", "1,234,567,890"),
        *("염기 서열 0101234567890123", "3.1415926535897932", "192.168.0.1", "2020-10-1234"),
    ],
)
def test_what_looks_alike_is_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_positions_are_those_of_the_text() -> None:
    text = "가　０１０－１２３４－５６７８ 나 900101-1234567 다"
    findings = SEARCH.find(text)
    assert [text[finding.start : finding.end] for finding in findings] == [
        "０１０－１２３４－５６７８",
        "900101-1234567",
    ]
    assert masked(text, findings) == "가　[전화번호] 나 [주민등록번호] 다"
    assert not SEARCH.find(masked(text, findings))


def test_only_the_chosen_kinds_are_found() -> None:
    search = PersonalData(["email"])
    assert search.find("010-1234-5678 a.b@c.kr") == [Finding("email", 14, 22)]


def test_check_digits() -> None:
    assert has_check_digit("9001011234568") != has_check_digit("9001011234569")
    assert sum(has_check_digit(f"900101123456{last}") for last in range(10)) == 1
    assert sum(has_check_digit(f"900101523456{last}") for last in range(10)) == 1
    assert is_card("4111111111111111")
    assert not is_card("0000000000000000")
    assert is_birth_date("0002293")
    assert not is_birth_date("0002303")


@pytest.mark.parametrize("name", patterns_of(personal))
def test_patterns_have_a_bounded_width(name: str) -> None:
    assert not unbounded(patterns_of(personal)[name])


@pytest.mark.parametrize("unit", ["0", "01", "010-", "010 ", "1-", "a", "a.", "a@", "9001011", " ", "공일", "8", "+82"])
def test_a_million_characters_are_read(unit: str) -> None:
    assert isinstance(SEARCH.find(unit * (1_000_000 // len(unit))), list)


@pytest.mark.parametrize(
    "pattern",
    [r"\d+", r"(\d*)*", r"(a|b){0,40}", r"\d{0,20}\d{0,20}\d{0,20}x", r"(\d)\1", "", "a?", "(", "x" * 300, r"\d{99}"],
)
def test_a_pattern_that_could_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.personal\.chart_pattern"):
        compile_bounded(pattern, "data.personal.chart_pattern")


@pytest.mark.parametrize("pattern", [r"\bC-\d{8}\b", r"(?:MR|CH)\d{6,9}", r"등록번호 ?[:：]? ?\d{5,10}(?!\d)"])
def test_a_pattern_of_bounded_width_is_used(pattern: str) -> None:
    assert compile_bounded(pattern, "x").pattern == pattern


def test_random_digits_are_seldom_personal() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice("0123456789") for _ in range(rng.randint(6, 18))) for _ in range(2000)]
    assert sum(bool(SEARCH.find(text)) for text in texts) < 60
