"""Planted exam questions in real documents: how many the contamination gate finds, and how often it is wrong.

    LORACHAIN_REAL_DATA=/path/to/real python benchmarks/data_contamination.py --questions 500 --documents 20000

Each of the questions is planted once per way of changing it, in its own document of Korean Wikipedia text; the other
documents have none. Prints recall by way and false alarms, with n and Wilson 95 % interval.
"""

import argparse
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lorachain.data.exam import load_exam
from lorachain.data.gates.contamination import Contamination
from lorachain.data.gates.skeleton import grams, skeletons
from lorachain.evaluation.statistics import proportion
from lorachain.records import LETTERS, ExamQuestion

_SWAPS = {
    **{
        "은": "이",
        "는": "가",
        "이": "은",
        "가": "는",
        "을": "은",
        "를": "는",
        "에": "에서",
        "와": "하고",
        "과": "하고",
    },
    **{"으로": "로", "로": "으로", "의": "", "도": "은"},
}
_PARTICLE = re.compile(r"(?<=[가-힣]{2})(은|는|이|가|을|를|에|와|과|으로|로|의|도)(?=[\s.,?!)])")
_PARAPHRASE = (
    *((r"다음 중 ", ""), (r"옳은 것은\?", "맞는 것을 고르시오."), (r"것은\?", "것을 고르시오.")),
    *((r"(\d+)세", r"\1살"), (r"남자", "남성"), (r"여자", "여성"), (r"환자", "내원객"), (r"왔다", "내원하였다")),
    *(
        (r"하였다", "했다"),
        (r"되었다", "됐다"),
        (r"있었다", "확인되었다"),
        (r"치료는", "처치는"),
        (r"진단은", "병명은"),
    ),
    *((r"가장 ", "제일 "), (r"적절한", "알맞은"), (r"설명", "서술"), (r"조치는", "대응은"), (r"검사", "점검")),
)


def text_of(question: ExamQuestion, rng: random.Random, *, reorder: bool = False) -> str:
    """The question as it is quoted: stem and numbered options."""
    options = list(question.options)
    if reorder:
        rng.shuffle(options)
    return "\n".join([question.question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True))])


def respaced(text: str, rng: random.Random) -> str:
    """Spaces dropped and added at random."""
    kept = re.sub(" ", lambda match: "" if rng.random() < 0.6 else "  ", text)
    return "".join(c + (" " if rng.random() < 0.08 and "가" <= c <= "힣" else "") for c in kept)


def numbers(text: str, rng: random.Random) -> str:
    """Digits, thousands, decimals and units written differently."""
    text = re.sub(r"(?<![\d.,/])(\d{1,3})(\d{3})(?![\d.])", r"\1,\2", text)
    text = re.sub(r"(\d+\.\d)(?!\d)", r"\1", text).replace(",", ",")
    text = re.sub(r"(\d+) ?(mg|kg|mL|cm|mm|g)\b", lambda m: f"{m[1]} {UNITS[m[2]]}", text)
    text = re.sub(r"(\d+) ?%", r"\1 퍼센트", text).replace("℃", " °C").replace("mmHg", "㎜Hg")
    return text.translate(str.maketrans("0123456789", "０１２３４５６７８９")) if rng.random() < 0.5 else text


UNITS = {"mg": "밀리그램", "kg": "킬로그램", "mL": "밀리리터", "cm": "㎝", "mm": "㎜", "g": "그램"}


def particles(text: str, rng: random.Random) -> str:
    """Particles exchanged; half of them where there are several."""
    return _PARTICLE.sub(lambda match: _SWAPS[match[1]] if rng.random() < 0.5 else match[1], text)


def paraphrased(text: str, rng: random.Random) -> str:
    """Common words of exam questions replaced by rules, particles exchanged."""
    for pattern, replacement in _PARAPHRASE:
        text = re.sub(pattern, replacement, text)
    return particles(text, rng)


WAYS: dict[str, Callable[[ExamQuestion, random.Random], str]] = {
    "verbatim": lambda question, rng: text_of(question, rng),
    "respaced": lambda question, rng: respaced(text_of(question, rng), rng),
    "options reordered": lambda question, rng: text_of(question, rng, reorder=True),
    "numbers reformatted": lambda question, rng: numbers(text_of(question, rng), rng),
    "particles changed": lambda question, rng: particles(text_of(question, rng), rng),
    "all of these together": lambda question, rng: respaced(
        particles(numbers(text_of(question, rng, reorder=True), rng), rng), rng
    ),
    "rule-made paraphrase": lambda question, rng: paraphrased(text_of(question, rng), rng),
}


def documents(real: Path) -> list[str]:
    lines = (real / "plain" / "kowiki-med.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def pieces(texts: list[str], rng: random.Random) -> Iterator[str]:
    """Documents without end: 3 to 12 paragraphs of a real one."""
    while True:
        paragraphs = [part for part in rng.choice(texts).split("\n") if part.strip()]
        start = rng.randrange(len(paragraphs))
        yield "\n".join(paragraphs[start : start + rng.randint(3, 12)])


def flagged(gate: Contamination, texts: list[str]) -> list[set[str]]:
    """The questions found in each text."""
    result: list[set[str]] = [set() for _ in texts]
    for start in range(0, len(texts), 200):
        batch = texts[start : start + 200]
        for match in gate.in_texts(batch, grams(skeletons(batch))):
            result[start + match.text].add(match.question)
    return result


def show(name: str, count: int, n: int) -> None:
    score = proportion(count, n)
    low, high = score["wilson95"]
    print(f"{name:32} {100 * score['accuracy']:6.2f} % [{100 * low:.2f}, {100 * high:.2f}] n={n}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    real = Path(os.environ["LORACHAIN_REAL_DATA"])
    rng = random.Random(options.seed)
    dev = load_exam([str(real / "kormedmcqa")], "dev").questions
    gate = Contamination([("dev", dev)], [], options.threshold)
    texts = documents(real)
    found = [bool(matches) for matches in flagged(gate, texts)]
    show("false alarms, whole documents", sum(found), len(texts))
    clean = [text for text, wrong in zip(texts, found, strict=True) if not wrong]
    chosen = rng.sample(dev, min(options.questions, len(dev)))
    stream = pieces(clean, rng)
    planted: list[tuple[str, str, str]] = []
    for way, change in WAYS.items():
        for question in chosen:
            around = next(stream).split("\n")
            around.insert(rng.randint(0, len(around)), change(question, rng))
            planted.append((way, f"{question.exam}/{question.id}", "\n".join(around)))
    others = [next(stream) for _ in range(max(0, options.documents - len(planted)))]
    started = time.monotonic()
    results = flagged(gate, [text for _, _, text in planted])
    for way in WAYS:
        hits = [name in result for (w, name, _), result in zip(planted, results, strict=True) if w == way]
        show(f"recall, {way}", sum(hits), len(hits))
    if others:
        show("false alarms, documents without", sum(map(bool, flagged(gate, others))), len(others))
    size = sum(len(text.encode()) for _, _, text in planted) + sum(len(text.encode()) for text in others)
    print(f"{len(planted) + len(others):,} documents, {size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
