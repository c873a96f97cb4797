"""Planted personal data in real text: what the gate finds, and what it takes for personal data.

    LORACHAIN_REAL_DATA=/path/to/real python benchmarks/data_personal.py --items 1000

All numbers are made up from a seed. Each item is put into a sentence of Korean Wikipedia, in one of several spellings;
as many look-alikes (doses, dates, codes) are planted in other sentences. Prints recall by spelling, precision over all
planted sentences, and what is found in the real documents by kind, with n and Wilson 95 % interval.
"""

import argparse
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lorachain.data.gates.personal import PersonalData
from lorachain.data_settings import PERSONAL_KINDS
from lorachain.evaluation.statistics import proportion

Draw = random.Random


def digits(rng: Draw, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def registration(rng: Draw, sex: str, *, checked: bool) -> str:
    """13 digits with a date of birth; with a right check digit, or one at random as since October 2020."""
    year = rng.randint(30, 99) if sex in "1256" else rng.randint(0, 24)
    twelve = f"{year:02}{rng.randint(1, 12):02}{rng.randint(1, 28):02}{sex}{digits(rng, 5)}"
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    total = sum(int(digit) * weight for digit, weight in zip(twelve, weights, strict=True))
    check = ((13 if sex in "5678" else 11) - total % 11) % 10
    return f"{twelve}{check if checked else rng.randint(0, 9)}"


def card(rng: Draw) -> str:
    fifteen = rng.choice(("4", "51", "55", "9", "62")) + digits(rng, 15)
    fifteen = fifteen[:15]
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in fifteen[::2]) + sum(map(int, fifteen[1::2]))
    return f"{fifteen}{-doubled % 10}"


def mobile(rng: Draw) -> tuple[str, str]:
    return f"{rng.randint(2, 9)}{digits(rng, 3)}", digits(rng, 4)


def four(number: str, mark: str) -> str:
    return mark.join(number[start : start + 4] for start in range(0, 16, 4))


def wide(text: str) -> str:
    return text.translate(str.maketrans("0123456789-", "０１２３４５６７８９－"))


def split_registration(rng: Draw, sex: str, mark: str, *, checked: bool = True) -> str:
    number = registration(rng, sex, checked=checked)
    return f"{number[:6]}{mark}{number[6:]}"


def filled(rng: Draw, *templates: str) -> str:
    """One of the templates, each # a digit."""
    return "".join(rng.choice("0123456789") if c == "#" else c for c in rng.choice(templates))


def date(rng: Draw, mark: str) -> str:
    return f"{rng.randint(1950, 2025)}{mark}{rng.randint(1, 12):02}{mark}{rng.randint(1, 28):02}"


SPELLINGS: dict[str, Callable[[Draw], str]] = {
    "resident, hyphen": lambda rng: split_registration(rng, rng.choice("1234"), "-"),
    "resident, random digits since 2020-10": lambda rng: split_registration(rng, rng.choice("34"), "-", checked=False),
    "resident, no separator": lambda rng: f"주민등록번호 {registration(rng, rng.choice('1234'), checked=False)}",
    "resident, full width": lambda rng: wide(split_registration(rng, rng.choice("12"), "-")),
    "alien, hyphen with spaces": lambda rng: split_registration(rng, rng.choice("5678"), " - "),
    "mobile, hyphen": lambda rng: "010-{}-{}".format(*mobile(rng)),
    "mobile, dots": lambda rng: "010.{}.{}".format(*mobile(rng)),
    "mobile, no separator": lambda rng: "010{}{}".format(*mobile(rng)),
    "mobile, +82": lambda rng: "+82 10-{}-{}".format(*mobile(rng)),
    "mobile, parentheses": lambda rng: "(010) {} {}".format(*mobile(rng)),
    "landline": lambda rng: filled(rng, "02-2###-####", "031-3##-####", "051-7##-####", "070-8###-####"),
    "e-mail": lambda rng: filled(rng, "hong##@hospital.co.kr", "kim.cs#@mail.ac.kr", "lee_yh@x.com"),
    "card": lambda rng: four(card(rng), rng.choice(("-", " ", ""))),
    "account": lambda rng: filled(
        rng, "국민은행 ###-###-######", "계좌번호: ######-##-######", "농협 ###-####-####-##"
    ),
}
LOOK_ALIKES: dict[str, Callable[[Draw], str]] = {
    "dose": lambda rng: filled(rng, "##0 mg을 3회", "0.#-1#.# mL", "#,### IU, 1#.5-2#.5 mg/kg"),
    "date": lambda rng: date(rng, rng.choice("-./")),
    "compact date and time": lambda rng: f"{date(rng, '')}{digits(rng, 4)}",
    "KCD code": lambda rng: f"{rng.choice('ABCDEIJKMN')}{filled(rng, '##.#', '##')}",
    "drug code": lambda rng: filled(rng, "EDI 6########", "보험코드 6########"),
    "order code": lambda rng: filled(rng, "제20##-#####호", "20##-##-####"),
    "range of years": lambda rng: f"{rng.randint(1950, 2000)}-{rng.randint(2001, 2025)}년",
    "laboratory values": lambda rng: filled(rng, "1##/## mmHg, 1#,###/mm³, 2##,000", "AST/ALT 1##/1## U/L, 0.##-1.##"),
    "ISBN": lambda rng: filled(rng, "ISBN 978-89-####-###-#", "97889########"),
    "accession": lambda rng: filled(rng, "NM_######.#", "rs#######", "CAS ####-##-#", "PMID 2#######"),
    "service number": lambda rng: filled(rng, "1588-####", "1577-####", "1644-####"),
    "version and address": lambda rng: filled(rng, "192.168.#.1#", "3.1#.#.2##"),
    "long number": lambda rng: digits(rng, rng.randint(17, 22)),
    "handle": lambda rng: filled(rng, "@user###", "사용자@##번"),
}


def show(name: str, count: int, n: int) -> None:
    score = proportion(count, n)
    low, high = score["wilson95"]
    print(f"{name:42} {100 * score['accuracy']:6.2f} % [{100 * low:.2f}, {100 * high:.2f}] n={n}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folder = Path(os.environ["LORACHAIN_REAL_DATA"]) / "plain"
    search = PersonalData(PERSONAL_KINDS)
    texts = [
        json.loads(line)["text"]
        for name in ("kowiki-med.jsonl", "kowiki-gen.jsonl")
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
    ]
    found = [search.find(text) for text in texts]
    kinds = Counter(finding.kind for findings in found for finding in findings)
    show("real documents with a finding", sum(map(bool, found)), len(texts))
    print(f"{'':42} by kind: {dict(kinds)}")
    sentences = [
        part.strip()
        for text, findings in zip(texts, found, strict=True)
        if not findings
        for part in text.split("\n")
        if 30 <= len(part.strip()) <= 200
    ]

    def planted(item: str) -> tuple[str, int, int]:
        words = rng.choice(sentences).split()
        at = rng.randint(0, len(words))
        before = " ".join(words[:at])
        start = len(before) + bool(before)
        return " ".join(filter(None, (before, item, " ".join(words[at:])))), start, start + len(item)

    right = wrong = 0
    total = Counter[str]()
    hits = Counter[str]()
    names = list(SPELLINGS)
    for number in range(options.items):
        name = names[number % len(names)]
        text, start, end = planted(SPELLINGS[name](rng))
        findings = search.find(text)
        inside = [finding for finding in findings if start <= finding.start and finding.end <= end]
        total[name] += 1
        hits[name] += bool(inside)
        right += len(inside)
        wrong += len(findings) - len(inside)
    false_by = Counter[str]()
    like = list(LOOK_ALIKES)
    for number in range(options.items):
        name = like[number % len(like)]
        text, _, _ = planted(LOOK_ALIKES[name](rng))
        false_by[name] += len(search.find(text))
    for name in names:
        show(f"recall, {name}", hits[name], total[name])
    show("recall", hits.total(), total.total())
    wrong += false_by.total()
    show("precision", right, right + wrong)
    print(f"look-alikes taken for personal data: {dict(+false_by)} of {options.items}")


if __name__ == "__main__":
    main()
