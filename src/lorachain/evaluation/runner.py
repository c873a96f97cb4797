"""One evaluation from questions to a result; an interrupted one resumes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from lorachain.artifacts.evaluation import EvalResult, ScoredModelIdentity
from lorachain.evaluation.journal import JOURNAL_VERSION, Journal
from lorachain.evaluation.protocols.base import ExamProtocol, QuestionResult, batches
from lorachain.evaluation.questions import check_questions, question_set_hash
from lorachain.evaluation.results import check_output, summarize
from lorachain.prompts import PROMPT_VERSION
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

OnProgress = Callable[[int, int, int], None]
"""Called with the number of questions done, their total, and how many are correct."""


def run_evaluation(
    model: nn.Module | None,
    encoder: TokenEncoder | None,
    questions: Sequence[ExamQuestion],
    protocol: ExamProtocol,
    *,
    out: Path,
    model_identity: ScoredModelIdentity,
    split: str = "dev",
    selection: dict[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> EvalResult:
    """Scores every question and writes `out` with its rows beside it; returns the content of `out`.

    After each batch its rows are safe in a file beside `out`; a run with the same model, protocol and questions resumes
    from it and ends with the same result. `model` and `encoder` are None where the protocol has an engine that brings
    them. `selection` records what was selected from the split (limit, subjects).

    Raises:
        DataError: no questions, an id twice, or the unfinished evaluation at `out` is another one.
        ConfigError, WorkspaceError: `out` cannot be written, or exists.
    """
    check_output(out)
    check_questions(questions)
    journal = Journal(out, {
        "journal_version": JOURNAL_VERSION, "model": model_identity.as_dict(), "protocol": protocol.name,
        "protocol_version": protocol.version, "prompt_version": PROMPT_VERSION, "settings": protocol.settings,
        "split": split, "data_sha256": question_set_hash(questions),
    }, protocol.detail_type)  # fmt: skip
    rows: dict[int, QuestionResult] = {}
    seconds = 0.0
    groups = batches(questions, protocol.batch_questions)
    finished = journal.read([[questions[i] for i in group] for group in groups])
    for number, group in enumerate(groups):
        if number < len(finished):
            results, took = list(finished[number].rows), finished[number].seconds
        else:
            started = time.monotonic()
            results = protocol.score(cast(nn.Module, model), cast(TokenEncoder, encoder), [questions[i] for i in group])
            took = time.monotonic() - started
            journal.append(results, took)
        rows.update(zip(group, results, strict=True))
        seconds += took
        if on_progress is not None:
            on_progress(len(rows), len(questions), sum(row.correct for row in rows.values()))
    ordered = [rows[i] for i in range(len(questions))]
    result = summarize(
        questions,
        ordered,
        protocol,
        out=out,
        model=model_identity,
        split=split,
        selection=selection or {},
        seconds=seconds,
    )
    journal.remove()
    return result
