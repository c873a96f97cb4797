"""02_reasoning: the chain's own model writes reasoning for the questions that stage 02 trains on."""

from collections.abc import Sequence
from pathlib import Path

from lorachain.artifacts import TrainingInfo, read_stage_info
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.atomic import disk_full_as_error
from lorachain.chain.context import ChainContext
from lorachain.chain.lock import model_lock
from lorachain.chain.parents import find_parent
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import ScoredModel, find_scored_model
from lorachain.chain.stages import Stage, find_reasoning_step
from lorachain.chain.written_reasoning import OpenEngine, load_writing_data, write_to
from lorachain.inference.engines.base import EngineIdentity
from lorachain.inference.engines.local import LocalEngine
from lorachain.provenance import package_versions, sha256_json
from lorachain.workspace import TRAINING_INFO


def write_chain_reasoning(context: ChainContext, runtime: Runtime, stage: Stage) -> None:
    """Writes the step's output directory with the parent stage's model.

    Raises:
        WorkspaceError: the parent is missing. DataError: a source, or no question to write for.
    """
    parent = find_parent(context, stage)
    data = load_writing_data(context)
    if not data.questions and data.skipped["have reasoning"]:
        context.reporter.message("every training question has reasoning already: none is written")
        return
    model = ScoredModel(f"{context.model}:{stage.parent}", parent.base, parent.folder)
    report = write_to(
        context,
        runtime,
        data,
        model,
        local_engine(model, token_budget=context.config.validation.token_budget),
        context.output(stage),
        trained_on_reasoning=is_trained_on_reasoning(model),
        by_parent=True,
    )
    context.reporter.message(funnel_summary(report))


def write_with(
    context: ChainContext, runtime: Runtime, what: str, out: Path | None, *, subjects: Sequence[str] | None = None
) -> ReasoningReport:
    """Writes reasoning with the model `what` (see `find_scored_model`), to `out` or, for None, for the chain.

    Raises:
        ConfigError, DataError, ModelError, AdapterError, WorkspaceError: for what they name.
    """
    step = find_reasoning_step()
    command = context.command(step.command)
    with (
        disk_full_as_error(context.workspace.model_root),
        model_lock(context.workspace, context.model, command) as lock,
    ):
        lock.working_on(step.name)
        model = find_scored_model(context, what)
        data = load_writing_data(context, subjects=subjects)
        return write_to(
            context,
            runtime,
            data,
            model,
            local_engine(model, token_budget=context.config.validation.token_budget),
            out or context.output(step),
            trained_on_reasoning=is_trained_on_reasoning(model),
            by_parent=False,
        )


def local_engine(model: ScoredModel, *, token_budget: int) -> OpenEngine:
    """The engine that writes with the model itself."""
    identity = model.identity()
    named = EngineIdentity(
        engine="local",
        version=package_versions()["lorachain"],
        model=model.name,
        weights_sha256=sha256_json([identity.base_sha256, identity.adapter_sha256]),
    )
    return lambda weights, encoder: LocalEngine(weights, encoder, named, token_budget=token_budget)


def is_trained_on_reasoning(model: ScoredModel) -> bool:
    """Whether the model's adapter was trained on questions with reasoning."""
    if model.adapter is None or not (model.adapter / TRAINING_INFO).is_file():
        return False
    info = read_stage_info(model.adapter)
    return isinstance(info, TrainingInfo) and info.counts.get("questions_with_reasoning", 0) > 0


def funnel_summary(report: ReasoningReport) -> str:
    """The funnel in one line."""
    total = report.total
    lost = ", ".join(f"{count:,} {check.replace('_', ' ')}" for check, count in total.rejected.items() if count)
    return (
        f"kept {total.kept:,} of {total.drawn:,} samples, for {total.questions_kept:,} of {total.questions:,} questions"
        + (f"; rejected: {lost}" if lost else "")
    )
