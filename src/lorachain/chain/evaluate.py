"""Scores one model by one protocol: from names and settings to a result on disk."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from lorachain.artifacts import EvalResult
from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import Runtime, refuse_launcher
from lorachain.chain.scored_model import find_scored_model
from lorachain.data.exam import load_exam, load_fewshot
from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.registry import make_protocol
from lorachain.evaluation.results import check_output
from lorachain.evaluation.runner import run_evaluation
from lorachain.inference.engines.base import TextEngine
from lorachain.inference.engines.select import EngineOptions, check_engine_options, open_engine
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer

SPLITS = ("dev", "train", "test")
_LOCAL = EngineOptions()


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
    engine: EngineOptions = _LOCAL,
    **settings: Any,
) -> EvalResult:
    """Scores `what` (see `find_scored_model`) on the chain's exam sources and writes the result to `out`.

    Args:
        what: with the engine `openai`, the name that the server has for its model.
        subjects: only these.
        limit: at most so many questions, spread over the subjects.
        engine: what generates texts; another one than `local` for the protocol `reasoning` only.
        settings: those of the protocol (shots, rotations, samples, max_new_tokens, seed, token_budget).

    Raises:
        ConfigError, DataError, ModelError, AdapterError, WorkspaceError, EngineError: for what they name, before
            anything is scored. EngineError: also where a server fails later; what is finished is kept.
    """
    runtime.processes.broadcast(lambda: check_output(out))
    _check_engine(engine, protocol)
    refuse_launcher(engine.engine, "eval")
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
    # Made once without the engine, so that a wrong setting is reported before a model is loaded.
    settings["style"] = context.entry.answer_style
    exam_protocol = make_protocol(protocol, examples=examples, **settings)
    weights: nn.Module | None = None
    encoder: TokenEncoder | None = None
    if engine.engine == "local":
        model = find_scored_model(context, what)
        identity = model.identity()
        weights, encoder = model.load(runtime.loading_device, runtime.dtype)
        runtime.distribute(weights)
    else:
        writer, encoder, identity = _open_writer(context, runtime, what, engine)
        exam_protocol = make_protocol(protocol, examples=examples, engine=writer, **settings)
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
            processes=runtime.processes,
        )


def _check_engine(engine: EngineOptions, protocol: str) -> None:
    """Refuses an engine for protocols that read the model's probabilities, or whose texts are published as ours."""
    if engine.engine != "local" and protocol != "reasoning":
        raise ConfigError(
            f"--engine {engine.engine} is for --protocol reasoning, which reads texts; {protocol} is scored with "
            "--engine local"
        )
    check_engine_options(engine)


def _open_writer(
    context: ChainContext, runtime: Runtime, what: str, options: EngineOptions
) -> tuple[TextEngine, TokenEncoder | None, ScoredModelIdentity]:
    """The engine, the tokenizer of its model where it is here, and what it generates with, as a result records it."""
    device, dtype = runtime.device, runtime.dtype
    if options.engine == "openai":
        engine = open_engine(replace(options, server_model=what), None, device=device, dtype=dtype)
        identity = ScoredModelIdentity(
            name=what, base_sha256=None, adapter_sha256=None, quantization="unknown", engine=_name(engine)
        )
        return engine, None, identity
    model = find_scored_model(context, what)
    engine = open_engine(options, model.for_engine(), device=device, dtype=dtype)
    encoder = TokenEncoder(load_tokenizer(model.base))
    return engine, encoder, model.identity().model_copy(update={"engine": _name(engine)})


def _name(engine: TextEngine) -> str:
    return f"{engine.identity.engine} {engine.identity.version}"
