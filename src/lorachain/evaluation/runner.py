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
from lorachain.processes import ALONE, Processes
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
    processes: Processes = ALONE,
) -> EvalResult:
    """Scores every question and writes `out` with its rows beside it; returns the content of `out`.

    After each batch its rows are safe in a file beside `out`; a run with the same model, protocol and questions resumes
    from it and ends with the same result. `model` and `encoder` are None where the protocol has an engine that brings
    them. `selection` records what was selected from the split (limit, subjects). Several `processes` score one batch
    each at a time, with the result of one process, or all of them every batch where the model is sharded; the main one
    writes.

    Raises:
        DataError: no questions, an id twice, or the unfinished evaluation at `out` is another one.
        ConfigError, WorkspaceError: `out` cannot be written, or exists.
    """
    processes.broadcast(lambda: check_output(out))
    check_questions(questions)
    journal = Journal(out, {
        "journal_version": JOURNAL_VERSION, "model": model_identity.as_dict(), "protocol": protocol.name,
        "protocol_version": protocol.version, "prompt_version": PROMPT_VERSION, "settings": protocol.settings,
        "split": split, "data_sha256": question_set_hash(questions),
    }, protocol.detail_type)  # fmt: skip
    rows: dict[int, QuestionResult] = {}
    seconds = 0.0
    groups = batches(questions, protocol.batch_questions)
    finished = processes.broadcast(lambda: journal.read([[questions[i] for i in group] for group in groups]))

    def keep(group: list[int], results: Sequence[QuestionResult]) -> None:
        rows.update(zip(group, results, strict=True))
        if on_progress is not None:
            on_progress(len(rows), len(questions), sum(row.correct for row in rows.values()))

    def score(group: list[int]) -> list[QuestionResult]:
        return protocol.score(cast(nn.Module, model), cast(TokenEncoder, encoder), [questions[i] for i in group])

    for group, batch in zip(groups, finished, strict=False):
        keep(group, batch.rows)
        seconds += batch.seconds
    at_a_time = 1 if processes.sharded else processes.world
    for first in range(len(finished), len(groups), at_a_time):
        started = time.monotonic()
        scored = score_together(groups[first : first + at_a_time], score, processes)
        took = (time.monotonic() - started) / len(scored)
        for group, results in zip(groups[first : first + at_a_time], scored, strict=True):
            if processes.main:
                journal.append(results, took)
            keep(group, results)
            seconds += took

    def write() -> EvalResult:
        result = summarize(
            questions,
            [rows[i] for i in range(len(questions))],
            protocol,
            out=out,
            model=model_identity,
            split=split,
            selection=selection or {},
            seconds=seconds,
        )
        journal.remove()
        return result

    return processes.broadcast(write)


def score_together(
    groups: Sequence[list[int]], score: Callable[[list[int]], list[QuestionResult]], processes: Processes
) -> list[list[QuestionResult]]:
    """The results of each group, scored by one process each, or by all where they hold one model together."""
    if processes.sharded:
        return [score(group) for group in groups]
    parts = processes.gather(lambda: [score(group) for group in processes.share(groups)])
    return [results for part in parts for results in part]
