"""Writes what a run kept: an exam directory, every sample in a parquet, and the report."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.artifacts.reasoning import Funnel, ReasoningInputs, ReasoningReport
from lorachain.artifacts.stages import SourceRecord
from lorachain.data.exam_writer import write_exam
from lorachain.provenance import sha256_file
from lorachain.reasoning.sample import CHECKS, DESCRIPTIONS, Sample
from lorachain.reasoning.samples_file import EXAM, SAMPLES
from lorachain.reasoning.write import kept_questions
from lorachain.records import LETTERS, ExamQuestion
from lorachain.workspace import REASONING_REPORT

_COLUMNS = pa.schema(
    [
        ("question", pa.string()),
        ("subject", pa.string()),
        ("number", pa.int32()),
        ("hinted", pa.bool_()),
        ("order", pa.string()),
        ("right", pa.string()),
        ("chosen", pa.string()),
        ("kept", pa.bool_()),
        ("rejected_by", pa.string()),
        ("failed", pa.string()),
        ("shuffled_choices", pa.string()),
        ("support", pa.float64()),
        ("support_gain", pa.float64()),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("reasoning", pa.string()),
        ("text", pa.string()),
    ]
)


def publish_reasoning(
    folder: Path,
    samples: Sequence[Sample],
    questions: Mapping[str, ExamQuestion],
    *,
    inputs: ReasoningInputs,
    fingerprint: str,
    by_parent: bool,
    samples_per_question: int,
    skipped: dict[str, int],
    licence: str,
    sources: tuple[SourceRecord, ...],
    exam_sources: tuple[SourceRecord, ...],
    dictionary_sources: tuple[SourceRecord, ...],
) -> ReasoningReport:
    """Fills an empty directory; the same samples give the same bytes.

    Args:
        questions: by `question_key`.
        skipped: questions that nothing was written for, by reason.
    """
    kept = kept_questions(samples, questions)
    if kept:
        write_exam({"train": kept}, folder / EXAM, writer=inputs.writer.model)
    rows = [_row(sample, questions[sample.written.question]) for sample in samples]
    pq.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS), folder / SAMPLES)
    by_subject: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_subject[questions[sample.written.question].subject].append(sample)
    report = ReasoningReport(
        depends_on=inputs,
        depends_on_sha256=fingerprint,
        by_parent=by_parent,
        samples_per_question=samples_per_question,
        checks=dict(DESCRIPTIONS),
        total=funnel(samples),
        per_subject={subject: funnel(part) for subject, part in sorted(by_subject.items())},
        skipped=skipped,
        sources=sources,
        exam_sources=exam_sources,
        dictionary_sources=dictionary_sources,
        samples_sha256=sha256_file(folder / SAMPLES),
        licence=licence,
    )
    report.write(folder / REASONING_REPORT)
    return report


def funnel(samples: Iterable[Sample]) -> Funnel:
    """Counts of samples, by the first check and by every check that they failed."""
    group = list(samples)
    rejected = Counter(sample.rejected_by for sample in group)
    failed = Counter(check for sample in group for check in sample.failed)
    return Funnel(
        questions=len({sample.written.question for sample in group}),
        questions_kept=len({sample.written.question for sample in group if not sample.failed}),
        drawn=len(group),
        hinted=sum(sample.written.hinted for sample in group),
        rejected={check: rejected[check] for check in CHECKS},
        failed={check: failed[check] for check in CHECKS},
        kept=rejected[None],
        tokens=sum(sample.written.tokens for sample in group),
    )


def _row(sample: Sample, question: ExamQuestion) -> dict[str, Any]:
    written = sample.written
    return {
        "question": written.question,
        "subject": question.subject,
        "number": written.number,
        "hinted": written.hinted,
        "order": "".join(LETTERS[i] for i in written.order),
        "right": LETTERS[written.order.index(question.answer)],
        "chosen": None if sample.chosen is None else LETTERS[sample.chosen],
        "kept": not sample.failed,
        "rejected_by": sample.rejected_by,
        "failed": ",".join(sample.failed),
        "shuffled_choices": json.dumps(sample.shuffled_choices),
        "support": sample.support,
        "support_gain": sample.support_gain,
        "tokens": written.tokens,
        "finish": written.finish,
        "reasoning": sample.reasoning,
        "text": written.text,
    }
