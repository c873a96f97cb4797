"""One evaluation from questions to `results.json`, which goes on where it was interrupted."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lorachain.evaluation.journal import Journal
from lorachain.evaluation.protocols.base import ExamProtocol, QuestionResult, batches
from lorachain.evaluation.results import SCHEMA_VERSION, summarize, write_results
from lorachain.evaluation.validation import check_questions, question_set_hash
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

Progress = Callable[[int, int, int], None]
"""Hears how many questions are done, of how many, and how many of those are right."""


def run_evaluation(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    protocol: ExamProtocol,
    *,
    out: Path,
    model_identity: dict[str, Any],
    split: str = "dev",
    selection: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Asks every question and writes `out` with its rows beside it; returns the content of `out`.

    After each batch its rows are safe in a file beside `out`; a run with the same model, protocol and questions
    goes on behind it, and ends with the same result. `model_identity` names the weights (name, base, adapter's
    SHA-256), `selection` what was selected from the split (limit, subjects).

    Raises:
        DataError: no questions, an id twice, or the unfinished evaluation at `out` is another one.
    """
    check_questions(questions)
    journal = Journal(out, {
        "schema_version": SCHEMA_VERSION, "model": model_identity, "protocol": protocol.name,
        "protocol_version": protocol.version, "settings": protocol.settings, "split": split,
        "data_sha256": question_set_hash(questions),
    })  # fmt: skip
    rows: dict[int, QuestionResult] = {}
    seconds = 0.0
    finished = list(journal.read())
    groups = batches(questions, protocol.batch_questions)
    for number, group in enumerate(groups):
        if number < len(finished):
            found, took = finished[number]
        else:
            begun = time.monotonic()
            found = protocol.score(model, encoder, [questions[i] for i in group])
            took = time.monotonic() - begun
            journal.append(found, took)
        rows.update(zip(group, found, strict=True))
        seconds += took
        if on_progress is not None:
            on_progress(len(rows), len(questions), sum(row.correct for row in rows.values()))
    ordered = [rows[i] for i in range(len(questions))]
    result = summarize(
        questions, ordered, protocol, model=model_identity, split=split, selection=selection or {}, seconds=seconds
    )
    written = write_results(out, result, ordered)
    journal.remove()
    return written
