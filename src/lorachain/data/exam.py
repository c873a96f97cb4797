"""Five-option exams in KorMedMCQA's published schema (Kweon et al. 2024, arXiv 2403.01469)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from lorachain.data import hub
from lorachain.data.decontamination import without_held_out
from lorachain.data.exam_files import exam_files, is_subject_name
from lorachain.data.exam_schema import (
    EXPECTED,
    UNKNOWN_WRITER,
    content_hash,
    parse_question,
    reasoning_writer,
    text_hash,
)
from lorachain.data.normalization import normalize_name
from lorachain.data.rows import Located, Tally
from lorachain.data.sources import SAMPLE, Source, SourceInfo, SourceReader, resolve
from lorachain.data.splits import Split, canonical_split
from lorachain.errors import DataError
from lorachain.records import ExamQuestion


@dataclass(frozen=True)
class LoadedExam:
    questions: list[ExamQuestion]
    sources: list[SourceInfo]
    duplicates: int = 0
    """Questions left out because one of the same id, content and reasoning came before."""
    fewshot_left_out: int = 0
    """Dev questions left out because they are few-shot examples too (in KorMedMCQA five per subject)."""
    fewshot: list[ExamQuestion] = field(default_factory=list)
    """With `dev`: the few-shot questions, of any subject, of every source that has such a split. Otherwise empty."""


def load_exam(
    sources: Sequence[str],
    split: Split,
    *,
    subjects: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
    max_samples: int | None = None,
    allow_test: bool = False,
) -> LoadedExam:
    """The questions of one split, in the order of the sources. Of several sources some may lack the split: written
    reasoning has train questions only.

    Ids are `subject-year-period-q_number` (or `subject-` and a hash of the content, where a number is missing). Where
    two questions of an exam differ and share an id, each gets a suffix from its content, whatever their order; so do
    two versions of one question with different reasoning.
    From `dev` the questions that are also few-shot examples, of any of the sources, are left out.

    Args:
        sources: directories or files (layouts: see `exam_files`), `sample`, or hub ids; `owner/name` reads all
            configurations of the data set, each a subject.
        subjects: only these; all by default.
        max_samples: at most this many questions, by `spread`.
        allow_test: only `lorachain eval --split test` may pass True.

    Raises:
        DataError: the test split without `allow_test`; a source that does not exist, cannot be read or has no split
            at all; no source has the split (the splits it has are named) or one of `subjects`; a row without question,
            option or right answer.
    """
    if split == "test" and not allow_test:
        raise DataError(
            "exam: the test split is read by `lorachain eval --split test` and nothing else. Use train, dev or fewshot."
        )
    selected = None if subjects is None else [normalize_name(subject) for subject in subjects]
    questions: list[ExamQuestion] = []
    fewshot: list[ExamQuestion] = []
    infos: list[SourceInfo] = []
    present: set[str] = set()
    lacking: list[DataError] = []
    for reader in _readers(sources, skip_bad_rows):
        if split != "train" and reader.source.options.split is not None:
            reader.read_to_end = False
            infos.append(reader.info())  # it is only trained on
            continue
        parts, splits = _parts(reader, split, selected)
        if not parts:
            lacking.append(no_split_error(reader.source, split, splits))
            if not splits or len(lacking) == len(sources):
                raise lacking[0 if splits else -1]
            infos.append(reader.info())
            continue
        in_source = list(_questions(reader, parts))
        reader.require_rows(f"{split} question")
        present.update(question.subject for question in in_source)
        questions += _selected(in_source, selected)
        if split == "dev":
            fewshot_reader = reader.same_commit()  # its questions do not count as dev questions
            fewshot += _read_fewshot(fewshot_reader, selected)
            reader.add_files(fewshot_reader)
        infos.append(reader.info())
    if not present:
        raise DataError(
            f"exam: every source is only trained on (#split=…), so that none has a {split} split: "
            f"{', '.join(sources)}. Name another exam with one besides, such as sample."
        )
    if missing := sorted(set(selected or ()) - present):
        raise DataError(f"exam: no question of the subject {', '.join(missing)}; found: {', '.join(sorted(present))}.")
    questions, left_out = without_held_out(questions, fewshot)
    unique = _with_unique_ids(questions)
    return LoadedExam(
        spread(unique, max_samples), infos, len(questions) - len(unique), left_out, _with_unique_ids(fewshot)
    )


def load_fewshot(
    sources: Sequence[str], *, subjects: Sequence[str] | None = None, skip_bad_rows: bool = False
) -> LoadedExam:
    """The few-shot questions of all sources; a source without a few-shot split contributes none.

    Raises:
        DataError: as `load_exam`, but for the missing split and missing subjects.
    """
    selected = None if subjects is None else [normalize_name(subject) for subject in subjects]
    questions: list[ExamQuestion] = []
    infos: list[SourceInfo] = []
    for reader in _readers(sources, skip_bad_rows):
        questions += _selected(_read_fewshot(reader, selected), selected)
        infos.append(reader.info())
    unique = _with_unique_ids(questions)
    return LoadedExam(unique, infos, len(questions) - len(unique))


def spread(questions: Sequence[ExamQuestion], limit: int | None) -> list[ExamQuestion]:
    """At most `limit` questions in their order: the first of each exam and subject in turn, so that a small sample
    contains all subjects. None: all of them."""
    if limit is None or len(questions) <= limit:
        return list(questions)
    groups: dict[tuple[str, str], list[ExamQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.exam, question.subject].append(question)
    in_turn = [question for turn in zip_longest(*groups.values()) for question in turn if question is not None]
    chosen = set(in_turn[:limit])
    return [question for question in questions if question in chosen]


def questions_of_rows(
    rows: Iterator[Located], tally: Tally, *, exam: str, subject: str | None, writer: str | None = None
) -> Iterator[ExamQuestion]:
    """Args:
        writer: who wrote the reasoning of rows that do not say it.

    Raises:
        DataError: for a bad row unless bad rows are skipped.
    """
    for where, _, row in rows:
        try:
            question = parse_question(row, exam=exam, subject=subject)
        except ValueError as error:
            tally.refuse(where, EXPECTED, str(error))
            continue
        tally.rows += 1
        if question.reasoning is not None:
            tally.writers[reasoning_writer(row) or writer or UNKNOWN_WRITER] += 1
        yield question


_Part = tuple[str | None, Iterator[Located]]
"""The subject by the configuration, directory or file prefix, and the rows, read when they are iterated."""


def _readers(sources: Sequence[str], skip_bad_rows: bool) -> list[SourceReader]:
    if not sources:
        raise DataError("exam: no source given. Name a directory, a file, a hub id, or `sample`.")
    resolved = [resolve(name, sample="exam") for name in sources]
    return [SourceReader(source, Tally(skip_bad_rows), named=True) for source in resolved]


def _questions(reader: SourceReader, parts: Sequence[_Part]) -> Iterator[ExamQuestion]:
    for subject, rows in parts:
        source = reader.source
        yield from questions_of_rows(
            rows,
            reader.tally,
            exam=source.short_name,
            subject=subject,
            writer=SAMPLE if source.kind == "sample" else source.options.writer,
        )


def questions_of_split(reader: SourceReader, split: Split) -> Iterator[ExamQuestion]:
    """The questions of one split of one source, none where it lacks the split.

    Raises:
        DataError: the test split, or a source that cannot be read.
    """
    if split == "test":
        raise DataError("exam: the test split is read by `lorachain eval --split test` and nothing else.")
    yield from _questions(reader, _parts(reader, split, None)[0])


def _read_fewshot(reader: SourceReader, subjects: Sequence[str] | None) -> list[ExamQuestion]:
    parts, _ = _parts(reader, "fewshot", subjects)
    return list(_questions(reader, parts))


def _selected(questions: list[ExamQuestion], subjects: Sequence[str] | None) -> list[ExamQuestion]:
    return [question for question in questions if subjects is None or question.subject in subjects]


def _parts(reader: SourceReader, split: Split, subjects: Sequence[str] | None) -> tuple[list[_Part], set[str]]:
    """The parts of a split, a file or a hub configuration each, and the names of all splits of the source."""
    source = reader.source
    if source.path is not None:
        files = exam_files(source.path)
        only = canonical_split(source.options.split or "")
        return [(f.subject, reader.file_rows(f.path)) for f in files if f.split == split and only in (None, f.split)], {
            f.split for f in files
        }
    names = hub_splits(reader, subjects)
    parts = [
        (config if is_subject_name(config) else None, reader.hub_rows(config, name, streaming=False))
        for config, name in names
        if exam_split(source, name) == split
    ]
    return parts, {name for _, name in names}


def exam_split(source: Source, name: str) -> Split | None:
    """What the split `name` of a hub data set is to the exam: where the source's options name one, that one is
    trained on and no other is read."""
    if source.options.split is None:
        return canonical_split(name)
    return "train" if name == source.options.split else None


def hub_splits(reader: SourceReader, subjects: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The (configuration, split) pairs of a hub data set; only configurations in `subjects` where all of those are
    configurations. Raises DataError as `hub.configs` does."""
    repo, revision = reader.source.repo, reader.hub_revision()
    configs = [reader.source.config] if reader.source.config else hub.configs(repo, revision)
    if subjects is not None and set(subjects) <= set(configs):
        configs = [config for config in configs if config in subjects]
    return [(config, name) for config in configs for name in hub.splits(repo, config, revision)]


def no_split_error(source: Source, split: Split, splits: set[str]) -> DataError:
    return DataError(
        f"{source.name}: no {split} split; found: {', '.join(sorted(splits)) or 'none'}. Expected a file such as "
        f"<subject>/{split}.jsonl or <subject>_{split}.csv, or {split}.parquet with a subject column."
    )


def _with_unique_ids(questions: list[ExamQuestion]) -> list[ExamQuestion]:
    """Of equal content and reasoning under one id the first; otherwise each with a suffix from what differs."""
    unique: dict[tuple[str, str, str, str | None], ExamQuestion] = {}
    for question in questions:
        unique.setdefault((question.exam, question.id, content_hash(question), question.reasoning), question)
    names = Counter((exam, name) for exam, name, _ in {key[:3] for key in unique})
    versions = Counter((exam, name, content) for exam, name, content, _ in unique)
    return [
        replace(
            question,
            id=name
            + (f"-{content}" if names[exam, name] > 1 else "")
            + (f"-{text_hash(reasoning or '')}" if versions[exam, name, content] > 1 else ""),
        )
        for (exam, name, content, reasoning), question in unique.items()
    ]
