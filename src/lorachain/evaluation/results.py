"""A finished evaluation on disk: an `EvalResult`, and one row per question beside it in parquet."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.artifacts.evaluation import (
    Baselines,
    EvalResult,
    MacroScore,
    MajorityLetter,
    QuestionSet,
    RowsFile,
    Score,
    ScoredModelIdentity,
    TokenCounts,
)
from lorachain.artifacts.validation import Proportion
from lorachain.atomic import replaced_binary_file
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.evaluation.questions import question_content_hash, question_set_hash
from lorachain.evaluation.statistics import CHANCE, chance_summary, differs_from_chance, macro_interval, proportion
from lorachain.prompts import PROMPT_VERSION
from lorachain.provenance import package_versions, sha256_file
from lorachain.records import LETTERS, ExamQuestion

if TYPE_CHECKING:
    from lorachain.evaluation.protocols.base import ExamProtocol, QuestionResult

_COLUMNS = pa.schema(
    [
        ("exam", pa.string()),
        ("id", pa.string()),
        ("content_sha256", pa.string()),
        ("subject", pa.string()),
        ("gold", pa.string()),
        ("chosen", pa.string()),
        ("correct", pa.bool_()),
        ("logprobs", pa.list_(pa.float64())),
        ("generation", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("generated_tokens", pa.int64()),
        ("detail", pa.string()),
    ]
)


def rows_path(out: Path) -> Path:
    return out.with_suffix(".parquet")


def check_output(out: Path) -> None:
    """Refuses an `--out` that cannot become a result, before any work is done.

    Raises:
        ConfigError: it is not a .json file name. WorkspaceError: it exists, or its rows do, or its directory is not
            one.
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out} must end in .json; the rows are written beside it as .parquet")
    for path in (out, rows_path(out)):
        if path.exists() or path.is_symlink():
            raise WorkspaceError(f"--out: {path} exists; choose another name or remove it")
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise WorkspaceError(f"--out {out}: {parent} is not a directory that can be written to; choose another")


def summarize(
    questions: Sequence[ExamQuestion],
    rows: "Sequence[QuestionResult]",
    protocol: "ExamProtocol",
    *,
    out: Path,
    model: ScoredModelIdentity,
    split: str,
    selection: dict[str, Any],
    seconds: float,
) -> EvalResult:
    """Writes the rows, then `out`, which names them by hash; returns the result as written."""
    correct = [row.correct for row in rows]
    by_subject: dict[str, list[bool]] = {}
    for row in rows:
        by_subject.setdefault(row.subject, []).append(row.correct)
    groups = [hits for _, hits in sorted(by_subject.items())]
    result = EvalResult(
        model=model,
        protocol=protocol.name,
        protocol_version=protocol.version,
        prompt_version=PROMPT_VERSION,
        settings=protocol.settings,
        split=split,
        notice="scored on the test split; never choose a model by this number" if split == "test" else None,
        data=QuestionSet(
            sha256=question_set_hash(questions),
            n=len(questions),
            exams=tuple(sorted({question.exam for question in questions})),
            subjects=tuple(sorted(by_subject)),
            selection=selection,
        ),
        score=Score(
            **proportion(sum(correct), len(correct)),
            chance=CHANCE,
            p_chance=differs_from_chance(sum(correct), len(correct)),
            summary=chance_summary(sum(correct), len(correct)),
        ),
        per_subject={
            subject: Proportion(**proportion(sum(hits), len(hits))) for subject, hits in sorted(by_subject.items())
        },
        macro=MacroScore(
            n=len(correct),
            subjects=len(groups),
            accuracy=sum(sum(hits) / len(hits) for hits in groups) / len(groups),
            bootstrap95=macro_interval(groups),
        ),
        baselines=baselines(questions),
        report=protocol.report(rows),
        tokens=TokenCounts(
            prompt=sum(row.prompt_tokens for row in rows),
            generated=sum(row.generated_tokens for row in rows),
        ),
        seconds=round(seconds, 3),
        versions=package_versions(),
        rows=_write_rows(rows_path(out), questions, rows),
    )
    result.write(out)
    return result


def baselines(questions: Sequence[ExamQuestion]) -> Baselines:
    """What answering without a model would score on the same questions."""
    gold = [question.answer for question in questions]
    majority = max(range(len(LETTERS)), key=lambda i: (gold.count(i), -i))
    longest = [max(range(len(LETTERS)), key=lambda i: (len(q.options[i]), -i)) for q in questions]
    hits = sum(a == b for a, b in zip(longest, gold, strict=True))
    return Baselines(
        always_majority_letter=MajorityLetter(letter=LETTERS[majority], **proportion(gold.count(majority), len(gold))),
        always_longest_option=Proportion(**proportion(hits, len(gold))),
    )


def _write_rows(target: Path, questions: Sequence[ExamQuestion], rows: "Sequence[QuestionResult]") -> RowsFile:
    contents = [question_content_hash(question.question, question.options, question.answer) for question in questions]
    records = [_as_record(row) | {"content_sha256": content} for row, content in zip(rows, contents, strict=True)]
    table = pa.Table.from_pylist(records, schema=_COLUMNS)
    with replaced_binary_file(target) as file:
        pq.write_table(table, file)
    return RowsFile(file=target.name, sha256=sha256_file(target))


def _as_record(row: "QuestionResult") -> dict[str, Any]:
    return {
        "exam": row.exam,
        "id": row.id,
        "subject": row.subject,
        "gold": LETTERS[row.gold],
        "chosen": None if row.chosen is None else LETTERS[row.chosen],
        "correct": row.correct,
        "logprobs": None if row.logprobs is None else list(row.logprobs),
        "generation": row.generation,
        "prompt_tokens": row.prompt_tokens,
        "generated_tokens": row.generated_tokens,
        "detail": json.dumps(row.detail, ensure_ascii=False),
    }


def read_results(path: Path) -> tuple[EvalResult, list[dict[str, Any]]]:
    """A result and its rows, as records of the parquet's columns.

    Raises:
        DataError: a file is missing, is not a result, is of a newer schema version, or the rows are not its own.
    """
    try:
        result = EvalResult.read(path)
    except WorkspaceError as error:
        raise DataError(str(error)) from error
    beside = path.with_name(Path(result.rows.file).name)
    try:
        if sha256_file(beside) != result.rows.sha256:
            raise DataError(f"{beside} is not the file that {path} was written with; evaluate again")
        return result, pq.read_table(beside).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: its rows cannot be read ({error}); they belong beside it") from error
