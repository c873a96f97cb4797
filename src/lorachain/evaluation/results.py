"""A finished evaluation on disk: `results.json`, and one row a question beside it in parquet.

`results.json`, schema version 1: schema_version; model (as the caller names it: name, folders, SHA-256 of the adapter);
protocol, protocol_version, settings; split, and a notice where it is `test`; data (SHA-256 of the questions, n, exams,
subjects, selection); score (n, correct, accuracy, wilson95, p against chance, words); per_subject; macro; baselines;
report (what only the protocol has); tokens; seconds; versions; rows (the parquet's name and SHA-256).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.errors import DataError
from lorachain.evaluation.protocols.base import ExamProtocol, QuestionResult
from lorachain.evaluation.statistics import CHANCE, chance_summary, differs_from_chance, macro_interval, proportion
from lorachain.evaluation.validation import question_set_hash
from lorachain.provenance import load_json, package_versions, sha256_file, write_json
from lorachain.records import LETTERS, ExamQuestion
from lorachain.workspace import disk_full_as_error

SCHEMA_VERSION = 1

_COLUMNS = pa.schema(
    [
        ("exam", pa.string()),
        ("id", pa.string()),
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


def summarize(
    questions: Sequence[ExamQuestion],
    rows: Sequence[QuestionResult],
    protocol: ExamProtocol,
    *,
    model: dict[str, Any],
    split: str,
    selection: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The content of `results.json`, all but the rows' file."""
    right = [row.correct for row in rows]
    by_subject: dict[str, list[bool]] = {}
    for row in rows:
        by_subject.setdefault(row.subject, []).append(row.correct)
    groups = [hits for _, hits in sorted(by_subject.items())]
    macro = macro_interval(groups)
    notice = {"notice": "scored on the test split; never choose a model by this number"} if split == "test" else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "settings": protocol.settings,
        "split": split,
        **notice,
        "data": {
            "sha256": question_set_hash(questions),
            "n": len(questions),
            "exams": sorted({question.exam for question in questions}),
            "subjects": sorted(by_subject),
            "selection": selection,
        },
        "score": {
            **proportion(sum(right), len(right)),
            "chance": CHANCE,
            "p_chance": differs_from_chance(sum(right), len(right)),
            "words": chance_summary(sum(right), len(right)),
        },
        "per_subject": {subject: proportion(sum(hits), len(hits)) for subject, hits in sorted(by_subject.items())},
        "macro": {
            "n": len(right),
            "subjects": len(groups),
            "accuracy": sum(sum(hits) / len(hits) for hits in groups) / len(groups),
            "bootstrap95": list(macro) if macro else None,
        },
        "baselines": baselines(questions),
        "report": protocol.report(rows),
        "tokens": {
            "prompt": sum(row.prompt_tokens for row in rows),
            "generated": sum(row.generated_tokens for row in rows),
        },
        "seconds": round(seconds, 3),
        "versions": package_versions(),
    }


def baselines(questions: Sequence[ExamQuestion]) -> dict[str, Any]:
    """What answering without a model would score on the same questions."""
    gold = [question.answer for question in questions]
    majority = max(range(len(LETTERS)), key=lambda i: (gold.count(i), -i))
    longest = [max(range(len(LETTERS)), key=lambda i: (len(q.options[i]), -i)) for q in questions]
    hits = sum(a == b for a, b in zip(longest, gold, strict=True))
    return {
        "always_majority_letter": {"letter": LETTERS[majority], **proportion(gold.count(majority), len(gold))},
        "always_longest_option": proportion(hits, len(gold)),
    }


def write_results(out: Path, result: dict[str, Any], rows: Sequence[QuestionResult]) -> dict[str, Any]:
    """Writes the rows, then `out`, which names them by hash; returns the result as written."""
    table = pa.Table.from_pylist([_as_record(row) for row in rows], schema=_COLUMNS)
    target = rows_path(out)
    staging = target.with_name(f".{target.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_as_error(target):
        pq.write_table(table, staging)
        os.replace(staging, target)
    written = {**result, "rows": {"file": target.name, "sha256": sha256_file(target)}}
    write_json(out, written)
    return written


def _as_record(row: QuestionResult) -> dict[str, Any]:
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


def read_results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`results.json` and its rows, as records of the parquet's columns.

    Raises:
        DataError: a file is missing, is no result, is of another schema version, or the rows are not its own.
    """
    try:
        result = load_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an exam result: {error}") from error
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version!r}; this lorachain reads {SCHEMA_VERSION}: evaluate again")
    try:
        beside = path.with_name(Path(result["rows"]["file"]).name)
        if sha256_file(beside) != result["rows"]["sha256"]:
            raise DataError(f"{beside} is not the file that {path} was written with; evaluate again")
        return result, pq.read_table(beside).to_pylist()
    except (OSError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: its rows cannot be read ({error}); they belong beside it") from error
