"""Five-option exams in KorMedMCQA's published schema (Kweon et al. 2024, arXiv 2403.01469)."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from lorachain.data import hub
from lorachain.data.decontamination import without_held_out
from lorachain.data.exam_files import Split, canonical_split, exam_files
from lorachain.data.rows import Located, Row, first_of
from lorachain.data.sources import Source, SourceInfo, SourceReader, resolve
from lorachain.errors import DataError
from lorachain.records import LETTERS, ExamQuestion

_ANSWERS = {str(i + 1): i for i in range(5)} | {letter: i for i, letter in enumerate(LETTERS)}
_EXPECTED = "a question in the schema subject, year, period, q_number, question, A, B, C, D, E, answer, cot"


@dataclass(frozen=True)
class LoadedExam:
    questions: list[ExamQuestion]
    sources: list[SourceInfo]
    duplicates: int = 0
    """Questions left out because one of the same id and content came before."""
    fewshot: list[ExamQuestion] = field(default_factory=list)
    fewshot_left_out: int = 0
    """Dev questions left out because they are few-shot examples too (in KorMedMCQA five a subject)."""


def load_exam(
    sources: Sequence[str],
    split: Split,
    *,
    subjects: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
    max_samples: int | None = None,
    allow_test: bool = False,
) -> LoadedExam:
    """The questions of one split, in the order of the sources.

    Ids are `subject-year-period-q_number` (or `subject-` and a hash of the content, where a number is missing). Where
    two questions of an exam differ and share an id, each gets a suffix from its content, whatever their order.
    From `dev` the questions that are also few-shot examples are left out.

    Args:
        sources: folders or files (layouts: see `exam_files`), `sample`, or hub ids; `owner/name` reads all
            configurations of the data set, each a subject.
        subjects: only these, all by default.
        max_samples: at most so many questions, spread evenly over exams and subjects, the first of each.
        allow_test: only `lorachain eval --split test` may pass True.

    Raises:
        DataError: the test split without `allow_test`; a source that does not exist, cannot be read or lacks the
            split (the splits found are named) or one of `subjects`; a row without question, option or right answer.
    """
    if split == "test" and not allow_test:
        raise DataError(
            "exam: the test split is read by `lorachain eval --split test` and nothing else. Use train, dev or fewshot."
        )
    if not sources:
        raise DataError("exam: no source given. Name a folder, a file, a hub id, or `sample`.")
    questions: list[ExamQuestion] = []
    infos: list[SourceInfo] = []
    seen: set[str] = set()
    left_out = 0
    fewshot: list[ExamQuestion] = []
    for source in [resolve(name, sample="exam") for name in sources]:
        reader = SourceReader(source, skip_bad_rows=skip_bad_rows, named=True)
        found = list(_questions(reader, split, subjects))
        reader.require_rows(f"{split} question")
        seen.update(question.subject for question in found)
        if subjects is not None:
            found = [question for question in found if question.subject in subjects]
        if split == "dev":
            examples = _fewshot(reader, subjects)
            fewshot += examples
            found, dropped = without_held_out(found, examples)
            left_out += dropped
        questions += found
        infos.append(reader.info())
    if missing := sorted(set(subjects or ()) - seen):
        raise DataError(f"exam: no question of the subject {', '.join(missing)}; found: {', '.join(sorted(seen))}.")
    unique = _with_unique_ids(questions)
    return LoadedExam(spread(unique, max_samples), infos, len(questions) - len(unique), fewshot, left_out)


def _questions(reader: SourceReader, split: Split, subjects: Sequence[str] | None) -> Iterator[ExamQuestion]:
    exam = reader.source.short_name
    for subject, rows in _parts(reader, split, subjects):
        for where, row in rows:
            try:
                question = parse_question(row, exam=exam, subject=subject)
            except ValueError as error:
                reader.tally.refuse(where, _EXPECTED, str(error))
                continue
            reader.tally.rows += 1
            yield question


def _parts(
    reader: SourceReader, split: Split, subjects: Sequence[str] | None
) -> Iterator[tuple[str | None, Iterator[Located]]]:
    """The (subject, rows) of a split, a file or a hub configuration at a time.

    Raises:
        DataError: the source lacks the split.
    """
    source = reader.source
    if source.path is None:
        yield from _hub_parts(reader, split, subjects)
        return
    files = exam_files(source.path)
    chosen = [file for file in files if file.split == split]
    if not chosen:
        raise _no_split(source, split, {file.split for file in files})
    for file in chosen:
        yield file.subject, reader.file_rows(file.path)


def _hub_parts(
    reader: SourceReader, split: Split, subjects: Sequence[str] | None
) -> Iterator[tuple[str | None, Iterator[Located]]]:
    repo, revision = reader.source.repo, reader.hub_revision()
    configs = [reader.source.config] if reader.source.config else hub.configs(repo, revision)
    if subjects is not None and set(subjects) <= set(configs):
        configs = [config for config in configs if config in subjects]
    seen: set[str] = set()
    chosen = []
    for config in configs:
        names = hub.splits(repo, config, revision)
        seen.update(names)
        chosen += [(config, name) for name in names if canonical_split(name) == split]
    if not chosen:
        raise _no_split(reader.source, split, seen)
    for config, name in chosen:
        yield config, reader.hub_rows(config, name, streaming=False)


def _no_split(source: Source, split: Split, found: set[Split] | set[str]) -> DataError:
    return DataError(
        f"{source.name}: no {split} split; found: {', '.join(sorted(found)) or 'none'}. Expected a file such as "
        f"<subject>/{split}.jsonl or <subject>_{split}.csv, or {split}.parquet with a subject column."
    )


def _fewshot(reader: SourceReader, subjects: Sequence[str] | None) -> list[ExamQuestion]:
    """The few-shot questions of a source that has some; read apart, so that they are not counted as dev questions."""
    apart = reader.again()
    source = reader.source
    if source.path is None:
        configs = [source.config] if source.config else hub.configs(source.repo, reader.hub_revision())
        names = [name for config in configs for name in hub.splits(source.repo, config, reader.hub_revision())]
        present = any(canonical_split(name) == "fewshot" for name in names)
    else:
        present = any(file.split == "fewshot" for file in exam_files(source.path))
    questions = list(_questions(apart, "fewshot", subjects)) if present else []
    reader.also_read(apart)
    return questions


def load_fewshot(sources: Sequence[str], *, skip_bad_rows: bool = False) -> list[ExamQuestion]:
    found: list[ExamQuestion] = []
    for source in [resolve(name, sample="exam") for name in sources]:
        found += _fewshot(SourceReader(source, skip_bad_rows=skip_bad_rows, named=True), None)
    return found


def parse_question(row: Row, *, exam: str, subject: str | None = None) -> ExamQuestion:
    """One row of the published schema. `subject`, or else the exam's name, stands in where the row has none.

    Raises:
        ValueError: says what was found instead.
    """
    text = first_of(row, ("question",))
    if text is None:
        raise ValueError(f"no question among the fields {', '.join(map(str, list(row)[:12]))}")
    options = []
    for letter in LETTERS:
        option = first_of(row, (letter,))
        if option is None:
            raise ValueError(f"no option {letter}")
        options.append(option)
    a, b, c, d, e = options
    given = first_of(row, ("answer",))
    answer = _ANSWERS.get(unicodedata.normalize("NFKC", given or "").upper())
    if answer is None:
        raise ValueError(f"the answer {given!r} where 1 to 5 or A to E is allowed")
    subject = first_of(row, ("subject",)) or subject or exam
    numbers = [first_of(row, (name,)) for name in ("year", "period", "q_number")]
    question = ExamQuestion("", subject, text, (a, b, c, d, e), answer, first_of(row, ("cot", "reasoning")), exam)
    present = [number for number in numbers if number is not None]
    name = "-".join(present) if len(present) == len(numbers) else _content_hash(question)
    return replace(question, id=f"{subject}-{name}")


def _content_hash(question: ExamQuestion) -> str:
    content = "\0".join((question.question, *question.options, question.answer_letter))
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _with_unique_ids(questions: list[ExamQuestion]) -> list[ExamQuestion]:
    """Of equal content under one id the first; different contents under one id with a suffix each."""
    unique: dict[tuple[str, str, str], ExamQuestion] = {}
    for question in questions:
        unique.setdefault((question.exam, question.id, _content_hash(question)), question)
    contents = Counter((exam, name) for exam, name, _ in unique)
    return [
        question if contents[exam, name] == 1 else replace(question, id=f"{name}-{suffix}")
        for (exam, name, suffix), question in unique.items()
    ]


def spread(questions: list[ExamQuestion], max_samples: int | None) -> list[ExamQuestion]:
    """The first questions of each exam and subject in turn, so that a small sample still speaks of all subjects."""
    if max_samples is None or len(questions) <= max_samples:
        return questions
    groups: dict[tuple[str, str], list[ExamQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.exam, question.subject].append(question)
    in_turn = [question for turn in zip_longest(*groups.values()) for question in turn if question is not None]
    chosen = set(in_turn[:max_samples])
    return [question for question in questions if question in chosen]
