"""Terms of the files in both languages. What has no translation is shown in English."""

import re

from lorachain.artifacts.ledger import measure_label
from lorachain.report.document.blocks import Paragraph, Text, Words

_STAGE_TITLES = {
    "init": "베이스 + 새 LoRA",
    "00": "일반 한국어 텍스트",
    "01": "의학 사전",
    "merge": "01 병합 + 새 LoRA",
    "02_reasoning": "작성된 풀이",
    "02": "KorMedMCQA와 풀이",
}
_CONDITIONS = {
    "fresh": Text("finished", "완료"),
    "stale": Text("out of date", "다시 만들어야 함"),
    "partial": Text("interrupted", "중단됨"),
    "running": Text("running", "실행 중"),
    "missing": Text("not made yet", "아직 없음"),
    "off": Text("left out", "사용 안 함"),
}
_MEASURES = {
    "perplexity": "퍼플렉서티",
    "exact match": "완전 일치율",
    "exact match, new forms": "완전 일치율, 새 형식",
    "direct accuracy": "바로 답한 정답률",
    "explained accuracy": "풀이 후 정답률",
}
_LEDGER = {
    "plain_text": "퍼플렉서티, 00단계의 평가용 텍스트",
    "korean": "퍼플렉서티, 일반 한국어",
    "english": "퍼플렉서티, 영어",
    "exam_letters": "시험 dev, 글자",
    "exam_options": "시험 dev, 선지",
    "dictionary_exam_letters": "사전 시험, 글자",
    "dictionary_exam_options": "사전 시험, 선지",
    "form_plain_text": "형식 유지, 일반 텍스트",
    "form_dictionary": "형식 유지, 사전",
    "form_exam": "형식 유지, 시험",
    "kl_plain_text": "베이스와의 KL, 일반 텍스트",
    "kl_dictionary": "베이스와의 KL, 사전",
    "kl_exam": "베이스와의 KL, 시험",
    "intruder_dimensions": "층마다 생긴 침입 차원",
}
_UNITS = {"tokens": "토큰", "answers": "답", "questions": "문항", "documents": "문서", "prompts": "프롬프트"}
_SPLITS = {"held-out documents": "평가용 문서", "trained entries": "학습한 항목", "exam dev": "시험 dev"}
_COUNTS = {
    "documents": "문서",
    "documents with exam questions left out": "시험 문항이 있어 제외한 문서",
    "heldout documents": "평가용으로 떼어 둔 문서",
    "packs": "팩",
    "tokens per epoch": "에포크당 토큰",
    "entries": "사전 항목",
    "longer than max length left out": "최대 길이보다 길어 제외",
    "questions": "문항",
    "questions with reasoning": "풀이가 있는 문항",
    "questions also in dev left out": "dev에도 있어 제외한 문항",
    "exchanges": "대화",
    "exchanges left out": "제외한 대화",
    "instructions": "지시",
    "instructions with exam questions left out": "시험 문항이 있어 제외한 지시",
}
_VERDICTS = {
    "better": Text("better", "나아짐"),
    "worse": Text("worse", "나빠짐"),
    "not significantly different": Text("not significantly different", "유의한 차이 없음"),
    "within noise": Text("within noise", "잡음 범위 안"),
}
_OUTCOMES = {
    "passed": Text("passed", "통과"),
    "failed": Text("failed", "실패"),
    "accepted": Text("accepted", "사용자가 수용"),
    "not evaluated": Text("not evaluated", "판정하지 않음"),
}
_SUMMARY = re.compile(
    r"(above|below|better than|worse than|not significantly different from) (.{1,80}) (\(p [<=] [\d.]+\))"
)
_OTHERS = {
    "chance": "우연 수준",
    "the start": "시작",
    "the stage start": "단계 시작",
    "the base model": "베이스",
    "answering directly": "바로 답하기",
}


def stage_title(name: str, title: str) -> Text:
    return Text(title, _STAGE_TITLES.get(name, title))


def condition(name: str) -> Text:
    return _CONDITIONS.get(name, Text(name, name))


def measure_name(name: str) -> Text:
    return Text(name, _MEASURES.get(name, name))


def ledger_measure(measure: str) -> Text:
    english = measure_label(measure)
    if measure.startswith("exact_match_"):
        ways = {"term": "용어", "definition": "정의", "english": "영어"}
        source, _, target = measure.removeprefix("exact_match_").partition("_to_")
        return Text(english, f"완전 일치율, {ways.get(source, source)} → {ways.get(target, target)}")
    if measure.startswith("text_"):
        return Text(english, f"퍼플렉서티, {measure.removeprefix('text_')}")
    return Text(english, _LEDGER.get(measure, english))


def split(name: str) -> Text:
    """What a measure was taken on."""
    return Text(name, _SPLITS.get(name, name))


def counted(name: str) -> Text:
    """What `training_info.json` counts."""
    english = name.replace("_", " ")
    return Text(english, _COUNTS.get(english, english))


def unit(name: str) -> Text:
    return Text(name, _UNITS.get(name, name))


def verdict(name: str) -> Text:
    return _VERDICTS.get(name, Text(name, name))


def outcome(name: str) -> Text:
    return _OUTCOMES.get(name, Text(name, name))


def summary(english: str) -> Text:
    """`above chance (p < 0.001)` and its like."""
    parts = _SUMMARY.fullmatch(english)
    if parts is None:
        return Text(english, english)
    verb, other, p = parts.groups()
    other = _OTHERS.get(other, other)
    korean = {
        "above": f"{other}보다 높음",
        "below": f"{other}보다 낮음",
        "better than": f"{other}보다 나음",
        "worse than": f"{other}보다 나쁨",
    }.get(verb, f"{with_particle(other)} 유의한 차이 없음")
    return Text(english, f"{korean} {p}")


def with_particle(word: str) -> str:
    """`word` with the particle for "with": 과 after a final consonant, 와 after a vowel."""
    syllable = ord(word[-1]) - 0xAC00
    if not 0 <= syllable < 11_172:
        return f"{word}와(과)"
    return f"{word}{'과' if syllable % 28 else '와'}"


def missing(english: str, korean: str, note: str | None = None) -> Paragraph:
    """Says that something is not shown, with the reason that was found."""
    words: Words = Text(english, korean)
    return Paragraph(words if note is None else (Text(english, korean), " ", note), "missing")
