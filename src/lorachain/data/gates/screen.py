"""Records through the gates: a stream of those that are trained on, and a report of what was found."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from lorachain.artifacts.data_gates import DataReport
from lorachain.data.gates.chunk import Chunk, ChunkResult, ChunkScreen, record_hash
from lorachain.data.gates.contamination import Contamination, Match
from lorachain.data.gates.hashed_exam import open_hashed_exams
from lorachain.data.gates.journal import ScreenJournal
from lorachain.data.gates.names import check_names_model, names_model_sha256
from lorachain.data.gates.near_duplicates import Duplicate, DuplicateIndex
from lorachain.data.gates.personal import PersonalData, masked
from lorachain.data.gates.report import (
    ContaminationCounts,
    DuplicateCounts,
    Located,
    PersonalCounts,
    QualityCounts,
)
from lorachain.data.gates.views import View
from lorachain.data.gates.workers import process_count, screened
from lorachain.data_settings import DataConfig
from lorachain.errors import DataError
from lorachain.provenance import sha256_json
from lorachain.records import ExamQuestion

CHUNK_CHARACTERS, CHUNK_RECORDS = 500_000, 1000
_PROGRESS = 20
"""Chunks between two calls of `on_progress`."""
R = TypeVar("R")


class DataGates(Generic[R]):
    """The gates of one kind of source, by `open_data_gates`. Records are screened in chunks; memory does not grow with
    their number, except for what recognizes duplicates."""

    def __init__(
        self,
        view: View[R],
        settings: DataConfig,
        screen: ChunkScreen,
        questions: dict[str, int],
        *,
        refuse: bool,
        on_progress: Callable[[int, int], None],
        journal: ScreenJournal | None,
    ) -> None:
        self._view, self._settings, self._refuse, self._on_progress = view, settings, refuse, on_progress
        self._screen, self._journal = screen, journal
        self._near = _searches_similar(view, settings)
        self._contamination = ContaminationCounts(settings.contamination, questions)
        self._duplicates = DuplicateCounts(settings.duplicates)
        self._personal = PersonalCounts(settings.personal)
        self._quality = QualityCounts(settings.quality)
        self._index = DuplicateIndex(settings.duplicates.similarity)
        self._files: list[str] = []
        """By record: the file (duplicates are counted within and across files). Strings are shared."""
        self._records = self._characters = self._kept = 0

    def kept(self, records: Iterable[R]) -> Iterator[R]:
        """The records that pass, masked where that is set, in their order.

        Raises:
            DataError: something is found that the settings refuse; names the record, and never what was found.
        """
        waiting: list[list[R]] = []
        chunks = self._chunks(records, waiting)
        processes = process_count(self._settings.processes)
        results = self._journal.screened if self._journal is not None else screened
        for number, (chunk, result) in enumerate(results(chunks, self._screen, processes), start=1):
            yield from self._decide(waiting.pop(0), chunk, result)
            if number % _PROGRESS == 0:
                self._on_progress(self._records, self._characters)
        if self._journal is not None:
            self._journal.remove()

    def report(self, sources: Sequence[str]) -> DataReport:
        """What was found so far."""
        return DataReport(
            kind=self._view.kind,
            sources=tuple(sources),
            records=self._records,
            characters=self._characters,
            kept=self._kept,
            contamination=self._contamination.report(),
            duplicates=self._duplicates.report() if self._view.duplicates else None,
            personal=self._personal.report(),
            quality=self._quality.report() if self._view.quality else {},
        )

    def _chunks(self, records: Iterable[R], waiting: list[list[R]]) -> Iterator[Chunk]:
        """Records in chunks; those of each chunk are appended to `waiting`."""
        batch: list[R] = []
        size = 0
        for record in records:
            batch.append(record)
            size += sum(map(len, self._view.fields(record)))
            if size >= CHUNK_CHARACTERS or len(batch) >= CHUNK_RECORDS:
                waiting.append(batch)
                yield self._chunk(batch)
                batch, size = [], 0
        if batch:
            waiting.append(batch)
            yield self._chunk(batch)

    def _chunk(self, batch: list[R]) -> Chunk:
        questions: list[ExamQuestion] = [record for record in batch if isinstance(record, ExamQuestion)]
        return Chunk([self._view.fields(record) for record in batch], questions or None)

    def _decide(self, batch: list[R], chunk: Chunk, result: ChunkResult) -> Iterator[R]:
        numbers = range(self._records + 1, self._records + len(batch) + 1)
        matches: dict[int, list[Match]] = {}
        for match in result.matches:
            matches.setdefault(match.text, []).append(match)
        located = [
            Located(number, self._view.where(record, number), "") for number, record in zip(numbers, batch, strict=True)
        ]
        self._records += len(batch)
        self._characters += sum(len(field) for fields in chunk.fields for field in fields)
        left_out = [self._is_contaminated(located[i], chunk, i, matches.get(i, [])) for i in range(len(batch))]
        if self._view.quality:
            for i in range(len(batch)):
                left_out[i] = (not left_out[i] and self._quality.add(result.quality[i])) or left_out[i]
        self._drop_duplicates(located, chunk, result, left_out)
        for i, record in enumerate(batch):
            if not left_out[i]:
                self._kept += 1
                yield self._without_personal(located[i], record, chunk, result, i)

    def _is_contaminated(self, located: Located, chunk: Chunk, i: int, matches: list[Match]) -> bool:
        if not matches:
            return False
        action = self._settings.contamination.action
        verbatim = any(match.kind == "verbatim" for match in matches)
        removed = action == "remove" or verbatim
        self._contamination.add(_hashed(located, chunk, i), matches, removed=removed)
        if action == "refuse" and self._refuse:
            best = max(matches, key=lambda match: match.share)
            raise DataError(
                f"{located.where}: the {self._view.singular} contains the held-out question {best.question} of "
                f"{best.questions} ({best.kind}, {best.share:.0%} of its n-grams). Remove it, or set "
                "data.contamination.action to remove or report; `lorachain data check` lists all of them"
            )
        return removed

    def _drop_duplicates(self, located: list[Located], chunk: Chunk, result: ChunkResult, left_out: list[bool]) -> None:
        if not self._view.duplicates:
            return
        rest = [i for i, out in enumerate(left_out) if not out]
        rows = result.signatures[rest] if self._near else result.signatures[:0]
        found = self._index.add(
            [located[i].record for i in rest], [result.exact[i] for i in rest], rows, result.gram_counts[rest]
        )
        self._files += [_file_of(place.where) for place in located]
        action = self._settings.duplicates.action
        for i, duplicate in zip(rest, found, strict=True):
            if duplicate is None:
                continue
            if action == "refuse" and self._refuse:
                raise self._duplicate_error(located[i], duplicate)
            across = self._files[located[i].record - 1] != self._files[duplicate.record - 1]
            left_out[i] = action == "remove"
            self._duplicates.add(_hashed(located[i], chunk, i), duplicate, across_files=across, removed=left_out[i])

    def _duplicate_error(self, located: Located, duplicate: Duplicate) -> DataError:
        how = "the same as" if duplicate.similarity == 1.0 else f"{duplicate.similarity:.0%} similar to"
        return DataError(
            f"{located.where}: the {self._view.singular} is {how} record {duplicate.record} of these sources. Remove "
            "it, or set data.duplicates.action to remove or report; `lorachain data check` lists all of them"
        )

    def _without_personal(self, located: Located, record: R, chunk: Chunk, result: ChunkResult, i: int) -> R:
        findings, fields = result.findings[i], chunk.fields[i]
        if not any(findings):
            return record
        action = self._settings.personal.action
        self._personal.add(located, fields, findings, masked=action == "mask")
        if action == "refuse" and self._refuse:
            kinds = ", ".join(sorted({finding.kind for of_field in findings for finding in of_field}))
            start = next(finding.start for of_field in findings for finding in of_field)
            raise DataError(
                f"{located.where}: the {self._view.singular} contains personal data ({kinds}; the first at character "
                f"{start + 1}). Mask all of it with --set data.personal.action=mask, which continues from here, or "
                "remove it; `lorachain data check` lists every place, and docs/data-gates.md says what is searched for"
            )
        if action == "mask":
            return self._view.rebuilt(record, [masked(*pair) for pair in zip(fields, map(list, findings), strict=True)])
        return record


def _hashed(located: Located, chunk: Chunk, i: int) -> Located:
    return Located(located.record, located.where, record_hash(chunk.fields[i]))


def _file_of(where: str) -> str:
    """The file of `file:line` or `hub-id row N`; one string a file."""
    return sys.intern(where.rpartition(":")[0])


def open_data_gates(
    view: View[R],
    settings: DataConfig,
    held_out: Mapping[str, Sequence[ExamQuestion]],
    *,
    refuse: bool = True,
    on_progress: Callable[[int, int], None] = lambda records, characters: None,
    journal: Path | None = None,
) -> DataGates[R]:
    """The gates for records of one kind.

    Args:
        held_out: sets of questions that nothing may be trained on, by name.
        refuse: False: what would be refused is only reported, for `lorachain data check`.
        on_progress: receives the numbers of records and characters so far.
        journal: where an interrupted pass leaves what it has done; None: nowhere.

    Raises:
        ConfigError: a setting cannot be used. WorkspaceError, DataError: a file of hashed questions.
    """
    hashed = open_hashed_exams(settings.contamination.hashes)
    sets = [(name, questions) for name, questions in held_out.items() if questions]
    personal, near = settings.personal, _searches_similar(view, settings)
    names_model = personal.names_model if personal.names == "ner" and personal.action != "off" else ""
    if personal.names == "ner" and personal.action != "off":
        check_names_model(names_model)
    names = [names_model_sha256(names_model)] if names_model else []
    screen = ChunkScreen(
        Contamination(sets, hashed, settings.contamination.threshold, stem_alone=view.stem_alone),
        None if personal.action == "off" else PersonalData(personal.kinds, personal.chart_pattern, names_model),
        near=near,
    )
    opened = None
    if journal is not None:
        texts = [(name, [(q.exam, q.id, q.question, *q.options) for q in some]) for name, some in sets]
        opened = ScreenJournal(
            journal,
            {
                "kind": view.kind,
                "threshold": settings.contamination.threshold,
                "questions": sha256_json(texts),
                "hashed": [(index.name, index.salt, sha256_json(index.keys.tolist())) for index in hashed],
                "personal": None if personal.action == "off" else [*personal.kinds, personal.chart_pattern, *names],
                "near": near,
            },
        )
    questions = {name: len(some) for name, some in sets} | {index.name: len(index.questions) for index in hashed}
    return DataGates(view, settings, screen, questions, refuse=refuse, on_progress=on_progress, journal=opened)


def _searches_similar(view: View[R], settings: DataConfig) -> bool:
    return view.duplicates and settings.duplicates.similarity < 1
