"""Scores one model by one protocol: from names and settings to a result on disk."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from lorachain.artifacts import EvalResult
from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import find_scored_model
from lorachain.data.exam import load_exam, load_fewshot
from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.registry import make_protocol
from lorachain.evaluation.results import check_output
from lorachain.evaluation.runner import run_evaluation
from lorachain.records import ExamQuestion

SPLITS = ("dev", "train", "test")


def evaluate_model(
    context: ChainContext,
    runtime: Runtime,
    what: str,
    out: Path,
    *,
    protocol: str = "letters",
    split: str = "dev",
    subjects: Sequence[str] | None = None,
    limit: int | None = None,
    **settings: Any,
) -> EvalResult:
    """Scores `what` (see `find_scored_model`) on the chain's exam sources and writes the result to `out`.

    Args:
        subjects: only these.
        limit: at most so many questions, spread over the subjects.
        settings: those of the protocol (shots, rotations, samples, max_new_tokens, seed, token_budget).

    Raises:
        ConfigError, DataError, ModelError, AdapterError, WorkspaceError: for what they name, before anything is scored.
    """
    check_output(out)
    if split not in SPLITS:
        raise ConfigError(f"--split is {split!r}; allowed: {', '.join(SPLITS)}")
    sources = context.sources.exam
    loaded = load_exam(
        sources,
        cast(Literal["dev", "train", "test"], split),
        subjects=subjects,
        skip_bad_rows=context.skip_bad_rows,
        max_samples=limit,
        allow_test=split == "test",
    )
    examples: dict[str, list[ExamQuestion]] = {}
    for question in load_fewshot(sources, skip_bad_rows=context.skip_bad_rows).questions:
        examples.setdefault(question.subject, []).append(question)
    exam_protocol = make_protocol(protocol, examples=examples, **settings)
    model = find_scored_model(context, what)
    identity = model.identity()
    weights, encoder = model.load(runtime.device, runtime.dtype)
    started = time.monotonic()
    with context.reporter.bar(f"{protocol} on {split}", len(loaded.questions)) as bar:

        def on_progress(done: int, total: int, correct: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar(done, f"{rate:.1f} questions/s, {100 * correct / max(done, 1):.1f} % correct")

        return run_evaluation(
            weights,
            encoder,
            loaded.questions,
            exam_protocol,
            out=out,
            model_identity=identity,
            split=split,
            selection={"subjects": list(subjects) if subjects else None, "limit": limit},
            on_progress=on_progress,
        )
