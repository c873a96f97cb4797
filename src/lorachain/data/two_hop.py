"""An exam that needs two facts for each answer: what a model that answers at once cannot do, and one that reasons can.

Stage 00 and 01 teach English name -> Korean name, and Korean name -> a ward that is drawn at random. The exam asks for
the ward by the English name: no text ever shows the two together, so the answer follows only by way of the Korean name.
A written rationale names it, and the dictionary says whether it is true, which no real exam can tell.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorachain.data.decontamination import normalized
from lorachain.data.exam_writer import write_exam, write_json_lines
from lorachain.data.splits import Split
from lorachain.errors import ConfigError, DataError
from lorachain.records import ExamQuestion, Term

FEWSHOT_QUESTIONS = 5
SUBJECT = "two-hop"
_WARDS = ("목련", "난초", "국화", "장미", "백합", "수선화", "동백", "해바라기", "진달래", "개나리")
_TERM = re.compile(r"[가-힣 ]{2,14}")
_ENGLISH = re.compile(r"[A-Za-z' -]{3,36}")
"""Names of one phrase: a list or a bracket in a name would make it long, and not one fact."""
_FIRST_HOP = ("{english}의 한국어 병명은 {term}이다.", "{term}의 영어 병명은 {english}이다.")
_SECOND_HOP = ("{term}의 담당 병동은 {ward}이다.", "{term} 환자는 {ward}에서 진료한다.")


@dataclass(frozen=True, slots=True)
class TwoHopExam:
    """What teaches the two facts, and the exam that needs both."""

    entries: list[Term]
    """For stage 01: the names, and the ward as the definition."""
    documents: list[str]
    """For stage 00: each fact as a sentence of its own, in two wordings."""
    questions: dict[Split, list[ExamQuestion]]
    """Entries of one split occur in no other. The few-shot questions and the first of `train` have reasoning."""


def make_two_hop_exam(
    entries: Sequence[Term], *, seed: int, limit: int = 400, dev_fraction: float = 0.3, written: int = 32
) -> TwoHopExam:
    """The exam of `limit` entries, drawn from those with a short Korean and English name that no other entry has.

    Args:
        dev_fraction: share of the entries whose questions are `dev`, between 0 and 1.
        written: how many training questions get a written rationale.

    Raises:
        ConfigError: an argument is out of range. DataError: fewer than `limit` usable entries.
    """
    if not 0 < dev_fraction < 1:
        raise ConfigError(f"dev_fraction: expected a number between 0 and 1, found {dev_fraction}.")
    in_dev = round(limit * dev_fraction)
    in_train = limit - in_dev - FEWSHOT_QUESTIONS
    if in_dev < 1 or in_train < 1:
        raise ConfigError(f"limit: {limit} entries leave no question for train or dev; use at least 10.")
    if not 0 <= written <= in_train:
        raise ConfigError(f"written: expected 0 to {in_train} (the training questions), found {written}.")
    usable = _usable(entries)
    if len(usable) < limit:
        raise DataError(
            f"make-exam --two-hop: expected {limit} entries with a short Korean and English name (letters only), found "
            f"{len(usable)}. Lower --limit or add entries."
        )
    rng = random.Random(f"two-hop:{seed}")
    chosen = rng.sample(usable, limit)
    wards = [f"{name} 병동" for name in _WARDS]
    ward_of = [wards[i % len(wards)] for i in range(limit)]
    rng.shuffle(ward_of)
    taught = [
        Term(term, definition=_SECOND_HOP[0].format(term=term, ward=ward), english=english)
        for (term, english), ward in zip(chosen, ward_of, strict=True)
    ]
    documents = [
        form.format(term=term, english=english, ward=ward)
        for form in (*_FIRST_HOP, *_SECOND_HOP)
        for (term, english), ward in zip(chosen, ward_of, strict=True)
    ]
    questions: dict[Split, list[ExamQuestion]] = {"fewshot": [], "train": [], "dev": []}
    sizes = {"fewshot": FEWSHOT_QUESTIONS, "train": in_train, "dev": in_dev}
    splits = [split for split in questions for _ in range(sizes[split])]
    for split, (term, english), ward in zip(splits, chosen, ward_of, strict=True):
        number = len(questions[split]) + 1
        has_reasoning = split == "fewshot" or (split == "train" and number <= written)
        period = list(questions).index(split) + 1
        name = f"{SUBJECT}-0-{period}-{number}"
        questions[split].append(_question(name, term, english, ward, wards, has_reasoning, rng))
    return TwoHopExam(taught, documents, questions)


def write_two_hop_exam(exam: TwoHopExam, out_dir: Path) -> list[Path]:
    """Writes `exam/` in KorMedMCQA's schema, `dictionary.jsonl` and `text.jsonl`; returns the files.

    Raises:
        DataError: a file of the exam exists (nothing is written then), or a file cannot be written.
    """
    files = write_exam(exam.questions, out_dir / "exam")
    dictionary, text = out_dir / "dictionary.jsonl", out_dir / "text.jsonl"
    write_json_lines(
        dictionary, [{"term": e.term, "english": e.english, "definition": e.definition} for e in exam.entries]
    )
    write_json_lines(text, [{"text": document} for document in exam.documents])
    return [*files, dictionary, text]


def _usable(entries: Sequence[Term]) -> list[tuple[str, str]]:
    """Korean and English names of the first entry of each name."""
    usable, seen = [], set[str]()
    for entry in entries:
        if not _TERM.fullmatch(entry.term) or not _ENGLISH.fullmatch(entry.english or ""):
            continue
        keys = {normalized(entry.term), normalized(entry.english or "")}
        if "" in keys or len(keys) < 2 or keys & seen:
            continue
        seen |= keys
        usable.append((entry.term, entry.english or ""))
    return usable


def _question(
    name: str, term: str, english: str, ward: str, wards: Sequence[str], has_reasoning: bool, rng: random.Random
) -> ExamQuestion:
    a, b, c, d, e = options = rng.sample([ward, *rng.sample([other for other in wards if other != ward], 4)], 5)
    reasoning = f"{_FIRST_HOP[0].format(term=term, english=english)} {_SECOND_HOP[0].format(term=term, ward=ward)}"
    return ExamQuestion(
        name,
        SUBJECT,
        f"다음 질환의 환자를 담당하는 병동은? {english}",
        (a, b, c, d, e),
        options.index(ward),
        reasoning if has_reasoning else None,
        exam=SUBJECT,
    )
