"""What a source contains, what of it is refused and why, and what a model would be trained on."""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from lorachain.artifacts.data_summary import (
    Quantiles,
    ReadAs,
    Refusals,
    ShownExample,
    ShownRecord,
    SourceSummary,
)
from lorachain.data.dictionary import entries_of_rows
from lorachain.data.exam import questions_of_split
from lorachain.data.instruct import instructions_of_rows
from lorachain.data.plain_text import documents_of_source, plain_text_files
from lorachain.data.rows import Tally
from lorachain.data.sources import SourceReader, resolve, suffix_of
from lorachain.data.splits import Split
from lorachain.dictionary_forms import trained_examples
from lorachain.errors import DataError
from lorachain.prompts import (
    AnswerStyle,
    ChatTurns,
    Example,
    directions,
    exam_examples,
    instruction_examples,
    plain_text_example,
    render,
)
from lorachain.records import ExamQuestion, Instruction, PlainText, Term

if TYPE_CHECKING:
    from lorachain.tokens import TokenEncoder

TrainedRecord = PlainText | Instruction | Term | ExamQuestion
SAMPLES: dict[ReadAs, str] = {
    "plain text": "plain_text.jsonl",
    "dictionary": "dictionary.jsonl",
    "instructions": "instruct.jsonl",
    "exam": "exam",
}
_RECORDS: dict[ReadAs, str] = {
    "plain text": "document with text",
    "dictionary": "entry",
    "instructions": "instruction",
    "exam": "question",
}
SHOWN = 3
_SHOWN_EXAMPLES = 2
"""Of one record."""
_TOKENIZED = 2000
"""Records whose tokens are counted, drawn from all with equal chances."""
_TRIED = 20
"""Records by which it is decided what a source is."""
_REASONS = 20
_SPLITS: tuple[Split, ...] = ("train", "dev", "fewshot")
_HANGUL = re.compile("[\uac00-\ud7a3\u3131-\u318e\u1100-\u11ff]+")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]+")
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass
class _Collecting(Tally):
    """Counts bad rows by reason."""

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def refuse(self, where: str, expected: str, actual: str) -> None:
        Tally.refuse(self, where, expected, actual)
        reason = re.sub(r"'(?:[^'\\]|\\.)*'|\d+", "…", f"{expected} {actual}")
        if reason not in self.reasons and len(self.reasons) >= _REASONS:
            reason = "other reasons"
        rows, first = self.reasons.get(reason, (0, f"{where}: expected {expected}, found {actual}."))
        self.reasons[reason] = (rows + 1, first)


def summarize_source(
    name: str,
    read_as: ReadAs | None = None,
    *,
    style: AnswerStyle = "letters",
    encoder: "TokenEncoder | None" = None,
    max_records: int | None = None,
) -> SourceSummary:
    """Reads a source as training would, but for rows that are refused: they are counted.

    Args:
        read_as: what it is meant to be; None: what its first rows are.
        style: how the answers of an exam are trained.
        encoder: counts tokens and renders prompts in the model's chat template; None: characters and plain prompts.
        max_records: reads no further.

    Raises:
        DataError: the source cannot be read, or has no record.
    """
    kind = read_as or detect(name)
    reader = SourceReader(resolve(name, sample=SAMPLES[kind]), _Collecting(skip_bad_rows=True))
    tally = reader.tally
    counts = _Counts(encoder, style)
    records = _records(reader, kind)
    for split, record in islice(records, max_records):
        counts.add(split, record)
    complete = next(records, None) is None if max_records is not None else True
    reader.require_rows(_RECORDS[kind])
    info = reader.info()
    return SourceSummary(
        name=name,
        read_as=kind,
        files=None if info.kind == "hub" else len(info.files),
        records=sum(counts.splits.values()),
        complete=complete,
        splits={split: n for split, n in counts.splits.items() if split},
        duplicates=counts.duplicates,
        refused_rows=tally.bad_rows,
        refused=tuple(Refusals(rows=rows, first=first) for rows, first in _reasons(tally)),
        characters=_quantiles(counts.characters),
        tokens=_quantiles([counts.tokens(record) for record in counts.drawn]) if encoder is not None else None,
        **counts.letter_shares(),
        reasoning_writers=info.reasoning_writers,
        shown=tuple(counts.shown(number, record) for number, record in enumerate(counts.first, start=1)),
    )


def detect(name: str) -> ReadAs:
    """What the first rows of a source are: questions, entries of a dictionary, or documents (exchanges too).

    Raises:
        DataError: the source cannot be read; or its rows are none of these, with the reason for each.
    """
    if name == "sample":
        raise DataError("sample: it has a part of each kind; say which with --as plain, dictionary, exam or instruct")
    source = resolve(name, sample="")
    if source.path is not None and all(suffix_of(path.name) == ".txt" for path in plain_text_files(source.path)):
        return "plain text"
    reasons: dict[str, str] = {}
    kinds: tuple[ReadAs, ...] = ("exam", "dictionary", "plain text")
    for kind in kinds:
        tally = _Collecting(skip_bad_rows=True)
        found = sum(1 for _ in islice(_records(SourceReader(source, tally), kind), _TRIED))
        if found and tally.bad_rows <= found:
            return kind
        reasons[kind] = (tally.first_bad or "no record").rstrip(".")
    if set(reasons.values()) == {"no record"}:
        raise DataError(f"{name}: there is no record in it; give a file with rows")
    said = "; ".join(f"as {kind}: {reason}" for kind, reason in reasons.items())
    raise DataError(
        f"{name}: its rows are of no known kind; say which with --as, or name columns with --columns. {said}"
    )


def examples_of(record: TrainedRecord, style: AnswerStyle, turns: ChatTurns | None = None) -> list[Example]:
    """What is trained of a record, by the builders that training uses."""
    if isinstance(record, PlainText):
        return [plain_text_example(record)]
    if isinstance(record, Instruction):
        return instruction_examples(record, turns)
    if isinstance(record, Term):
        forms = [trained_examples(record, way) for way in directions(record)]
        return [example for nth in zip(*forms, strict=True) for example in nth]  # each direction's own form first
    return exam_examples(record, style)


def _records(reader: SourceReader, kind: ReadAs) -> Iterator[tuple[str, TrainedRecord]]:
    """The records with their split, empty but for exams."""
    if kind == "exam":
        for split in _SPLITS:
            for question in questions_of_split(reader, split):
                yield split, question
    elif kind == "dictionary":
        yield from (("", entry) for entry in entries_of_rows(reader.all_rows(), reader.tally))
    elif kind == "instructions":
        yield from (("", item) for item in instructions_of_rows(reader.all_rows(), reader.tally))
    else:
        yield from (("", document) for document in documents_of_source(reader))


def texts_of(record: TrainedRecord) -> list[str]:
    """The texts that a record consists of."""
    if isinstance(record, PlainText):
        return [record.text]
    if isinstance(record, Instruction):
        return [text for exchange in record.exchanges for text in exchange]
    if isinstance(record, Term):
        return [text for text in (record.term, record.definition, record.english) if text]
    return [record.question, *record.options, *([record.reasoning] if record.reasoning else [])]


@dataclass
class _Counts:
    encoder: "TokenEncoder | None"
    style: AnswerStyle
    splits: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    characters: list[int] = field(default_factory=list)
    first: list[TrainedRecord] = field(default_factory=list)
    drawn: list[TrainedRecord] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)
    _letters: list[int] = field(default_factory=lambda: [0, 0, 0])
    _random: random.Random = field(default_factory=lambda: random.Random("data show"))

    def add(self, split: str, record: TrainedRecord) -> None:
        texts = texts_of(record)
        self.splits[split] = self.splits.get(split, 0) + 1
        answer = record.answer_letter if isinstance(record, ExamQuestion) else ""
        key = hashlib.blake2b("\0".join((split, answer, *texts)).encode(), digest_size=12).digest()
        self.duplicates += key in self._seen
        self._seen.add(key)
        self.characters.append(sum(map(len, texts)))
        for number, pattern in enumerate((_HANGUL, _LATIN, _LETTERS)):
            self._letters[number] += sum(len(run) for text in texts for run in pattern.findall(text))
        if len(self.first) < SHOWN:
            self.first.append(record)
        if len(self.drawn) < _TOKENIZED:
            self.drawn.append(record)
        elif (place := self._random.randrange(len(self.characters))) < _TOKENIZED:
            self.drawn[place] = record

    def letter_shares(self) -> dict[str, float]:
        hangul, latin, letters = self._letters
        total = max(letters, 1)
        return {
            "hangul": hangul / total,
            "latin": latin / total,
            "other_letters": max(letters - hangul - latin, 0) / total,
        }

    def tokens(self, record: TrainedRecord) -> int:
        if self.encoder is None:
            raise ValueError("no model")
        encoder = self.encoder
        return max(len(encoder.encode(example)) for example in examples_of(record, self.style, encoder.turns))

    def shown(self, number: int, record: TrainedRecord) -> ShownRecord:
        examples = examples_of(record, self.style, self.encoder.turns if self.encoder is not None else None)
        where = record.source if isinstance(record, PlainText) else f"record {number}"
        return ShownRecord(
            where=where,
            examples=tuple(self._shown(example) for example in examples[:_SHOWN_EXAMPLES]),
            further_examples=max(len(examples) - _SHOWN_EXAMPLES, 0),
        )

    def _shown(self, example: Example) -> ShownExample:
        if self.encoder is None:
            prompt = "" if example.prompt is None else render(example.prompt, None)
            return ShownExample(form=example.form, prompt=prompt, supervised=example.completion)
        row = self.encoder.encode(example)
        decode = self.encoder.tokenizer.decode
        return ShownExample(
            form=example.form,
            prompt=decode(row.ids[: row.supervised_from], skip_special_tokens=False),
            supervised=decode(row.ids[row.supervised_from :], skip_special_tokens=False),
            tokens=len(row),
            supervised_tokens=row.supervised,
        )


def _reasons(tally: Tally) -> list[tuple[int, str]]:
    reasons = list(tally.reasons.values()) if isinstance(tally, _Collecting) else []
    return sorted(reasons, key=lambda reason: -reason[0])


def _quantiles(lengths: Sequence[int]) -> Quantiles | None:
    if not lengths:
        return None
    ordered = sorted(lengths)

    def at(share: float) -> int:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Quantiles(
        n=len(ordered), min=ordered[0], p25=at(0.25), p50=at(0.5), p75=at(0.75), p95=at(0.95), max=ordered[-1]
    )
