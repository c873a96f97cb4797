"""The embedded sample: its terms, the order of its options, and what can be answered without knowing medicine."""

import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.splits import Split
from lorachain.evaluation.overlap import overlap_baseline
from lorachain.evaluation.results import baselines
from lorachain.records import LETTERS, ExamQuestion

SAMPLES = Path(str(files("lorachain").joinpath("data", "samples")))
SPLITS: tuple[Split, Split] = ("train", "dev")

# Terms of the Korean Medical Association's list as KorMedMCQA's questions use them, and spellings that are not used.
TERMS = {
    "메트포르민": "메트포민",
    "니트로글리세린": "나이트로글리세린",
    "히드랄라진": "하이드랄라진",
    "글루코코르티코이드": "당질코르티코이드",
    "콜린에스테라제": "콜린에스터분해효소",
    "BCR-ABL1": "BCR-ABL(?!1)",
    "전자간증": "자간전증",
    "간뇌병증": "간성뇌증",
    "골다공증": "뼈엉성증",
    "보통천포창": "심상성",
    "깊은정맥혈전증": "심부정맥혈전증",
    "궤양성대장염": "궤양대장염",
    "만성골수백혈병": "만성 ?골수성",
    "간경화": "간경변",
    "발처짐": "족하수",
    "디피실레": "디피실(?!레)",
    "지라": "비장",
    "이자": "췌장",
    "엉덩관절": "고관절",
    "상악동": "위턱굴",
    "폐포": "폐꽈리",
    "요세관": "세뇨관|콩팥 ?세관",
    "쓸개관": "(?<!담즙)담관|쓸개즙길",
    "자궁바닥": "자궁저부",
    "안구멍": "속구멍",
    "타석": "침돌",
    "작은 침샘": "소타액선",
    "비수축검사": "무자극",
    "전기경련요법": "전기경련치료",
    "가슴관": "흉관",
    "심초음파": "심장초음파",
    "서맥": "느린맥",
    "빈맥": "빠른맥",
    "혈전": "피떡",
    "호흡곤란": "숨참",
    "이유": "까닭",
    "가슴 X선 사진": "흉부|엑스선|가슴 방사선",
    "머피징후": "머피 징후",
    "글래스고혼수척도": "글래스고 혼수",
    "HELLP증후군": "HELLP 증후군",
    "체적 안정성": "치수 안정성",
    "옥살산칼슘": "수산칼슘|칼슘옥살산",
    "적혈구": "붉은 혈구",
    "심첨": "심장 끝",
    "고막": "귓속의 막",
    "응급질환": "응급이다|응급 질환",
    "맞지 않는다": "맞지 않다",
    "구음장애": "말더듬",
    "%": r"\d ?퍼센트",
    "mL": r"\d ?밀리리터",
    "mm": r"\d ?밀리미터",
    "a space before the unit": r"\d(?:mmHg|mEq|mL|mg|kg)",
}
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")
_UNITS = {"초": 1 / 86_400, "분": 1 / 1_440, "시간": 1 / 24, "일": 1.0, "주": 7.0, "개월": 30.0, "년": 365.0}


@cache
def exam(split: Split) -> list[ExamQuestion]:
    return load_exam(["sample"], split).questions


@pytest.mark.parametrize(("used", "rejected"), TERMS.items())
def test_one_spelling_of_each_term(used: str, rejected: str) -> None:
    general = [SAMPLES / "instruct.jsonl", *(SAMPLES / "general").iterdir()]  # not about medicine
    paths = [path for path in SAMPLES.rglob("*.jsonl") if path not in general]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    assert [match[0] for match in re.finditer(f".{{0,10}}(?:{rejected}).{{0,10}}", text)] == [], f"use {used}"


def test_the_readme_counts_what_is_there() -> None:
    readme = " ".join((SAMPLES / "README.md").read_text(encoding="utf-8").split())
    entries = load_dictionary(["sample"]).entries
    paragraphs = [document.text for document in stream_plain_text(["sample"])]
    length = sum(map(len, paragraphs)) / len(paragraphs)
    assert f"| {len(paragraphs)} paragraphs, {length:.0f} characters each on average |" in readme
    assert f"| {len(entries)} entries in {len({entry.category for entry in entries})} categories |" in readme
    for split in SPLITS:
        assert f"exam/{{subject}}/{split}.jsonl` | {len(exam(split))} questions" in readme
    counts = [Counter(question.subject for question in exam(split)) for split in SPLITS]
    for subject in counts[0]:
        assert f"| `{subject}` | {counts[0][subject]} | {counts[1][subject]} |" in readme
    score = overlap_baseline(exam("dev"), entries)
    assert f"{100 * score.accuracy:.0f} % of dev (n = {score.n})" in readme


def test_the_dictionary_does_not_answer_dev() -> None:
    entries = load_dictionary(["sample"]).entries
    assert overlap_baseline(exam("dev"), entries).accuracy <= 0.3
    assert baselines(exam("dev")).always_longest_option.accuracy <= 0.3


@pytest.mark.parametrize("split", SPLITS)
def test_options_are_sorted_as_in_the_real_exams(split: Split) -> None:
    """By length in 65 to 92 % of KorMedMCQA's questions; numbers ascend."""
    by_length = 0
    words = 0
    for question in exam(split):
        values = _values(question.options)
        if values is not None:
            assert values == sorted(values), question.id
            continue
        words += 1
        lengths = [len(option) for option in question.options]
        by_length += lengths == sorted(lengths)
    assert 0.65 <= by_length / words <= 0.92


def _values(options: tuple[str, ...]) -> list[float] | None:
    """The numbers that the options are, durations in days; None where they are words."""
    found = [_NUMBER.match(option) for option in options]
    numbers = [float(match[0].replace(",", "")) for match in found if match]
    if len(set(numbers)) < len(options):
        return None
    rests = [option[match.end() :] for option, match in zip(options, found, strict=True) if match]
    units = [next((days for unit, days in _UNITS.items() if rest.startswith(unit)), None) for rest in rests]
    if all(units):
        return [number * unit for number, unit in zip(numbers, units, strict=True) if unit]
    return numbers if len({rest.lstrip(" ~0123456789.") for rest in rests}) == 1 else None


@pytest.mark.parametrize("split", SPLITS)
def test_right_answers_are_spread_over_the_letters(split: Split) -> None:
    counts = Counter(question.answer_letter for question in exam(split))
    assert set(counts) == set(LETTERS)
    assert max(counts.values()) <= 0.25 * len(exam(split))


@pytest.mark.parametrize("split", SPLITS)
def test_reasoning_ends_with_the_answer_in_the_register_of_the_rest(split: Split) -> None:
    for question in exam(split):
        assert question.reasoning is not None
        body, _, end = question.reasoning.rpartition(" 따라서 정답은 ")
        assert end == f"({question.answer_letter})이다.", question.id
        assert not re.search(r"[습입]니다\.|\([A-E]\)", body), question.id
        assert len(set(question.options)) == 5, question.id
