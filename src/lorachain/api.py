"""The Python API: what the command line does, as functions. `import lorachain` loads it lazily; see docs/python.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorachain.artifacts import (
    Comparison,
    ComposeReport,
    DialReport,
    EvalResult,
    GgufReport,
    Ledger,
    MergeReport,
    MergeWeights,
)
from lorachain.chain.context import ChainContext, Reporter, load_config, without_earlier_data
from lorachain.chain.debug_log import quiet_libraries
from lorachain.chain.dial import SCALES
from lorachain.chain.dial_stage import dial_stage
from lorachain.chain.evaluate import evaluate_model
from lorachain.chain.ledger import measure_chain
from lorachain.chain.ledger_view import measuring_context
from lorachain.chain.merge_adapter import base_by_name, merge_and_verify
from lorachain.chain.pipeline import run_stages
from lorachain.chain.plan import check_sources, stages_to_run
from lorachain.chain.runtime import start_runtime
from lorachain.chain.stages import Stage, chain_steps, find_training_stage, from_base, stages_of_command
from lorachain.chain.state import StageState
from lorachain.chain.verify import verify_chain
from lorachain.config import ChainConfig, Quantization, SourceKind
from lorachain.errors import ConfigError, WorkspaceError
from lorachain.evaluation.compare import compare_results
from lorachain.export.card import Form
from lorachain.export.chain import export_chain as _export_chain
from lorachain.export.gguf import OutType
from lorachain.registry import find_entry
from lorachain.report.console import ConsoleReporter
from lorachain.weights.dial import Variant
from lorachain.weights.verify import verify_merge
from lorachain.workspace import Workspace, open_workspace


def open_chain(
    model: str,
    workspace: Path | str = ".",
    *,
    config: ChainConfig | None = None,
    sources: Mapping[SourceKind, Sequence[str]] | None = None,
    reporter: Reporter | None = None,
    skip_bad_rows: bool = False,
    replace_stale: bool = False,
    accept_harm: bool = False,
) -> ChainContext:
    """A model's chain in a workspace, which need not exist yet.

    Args:
        model: a short name of model_paths.json.
        config: as `load_config` returns it; None: the defaults.
        sources: other sources by kind (`plain_text`, `dictionary`, `exam`); the rest stay as configured.
        reporter: where messages and progress go; None: the terminal.
        replace_stale: replace finished work that became stale; otherwise that is an error.
        accept_harm: publish a step although a gate stops it.

    Raises:
        ModelError: the model is unknown. WorkspaceError: the workspace cannot be written to.
        ConfigError: a kind of source is unknown.
    """
    place = open_workspace(Path(workspace))
    entry = find_entry(place, model)
    settings = config or load_config()
    if sources:
        known = settings.sources[entry.sources]
        if unknown := sorted(set(sources) - set(type(known).model_fields)):
            raise ConfigError(f"unknown kind of source {unknown[0]!r}; allowed: {', '.join(type(known).model_fields)}")
        named = known.model_copy(update={kind: list(names) for kind, names in sources.items()})
        settings = settings.model_copy(update={"sources": {**settings.sources, entry.sources: named}})
    return ChainContext(
        workspace=place,
        model=model,
        entry=entry,
        config=settings,
        reporter=reporter or ConsoleReporter(),
        skip_bad_rows=skip_bad_rows,
        accept_harm=accept_harm,
        confirm=lambda question: replace_stale,
    )


def run_chain(chain: ChainContext) -> list[StageState]:
    """Runs every stage that is not fresh; returns the states of all stages.

    Raises:
        LorachainError: anything the user can fix; finished stages are kept.
        TrainingInterrupted: on SIGTERM or Ctrl+C, after saving.
    """
    return _run(chain, chain_steps())


def init(chain: ChainContext) -> list[StageState]:
    """Puts an untrained LoRA on the public base. Raises as `run_chain`."""
    return _run(chain, stages_of_command("init"))


def train_stage(chain: ChainContext, stage: str, *, start_from_base: bool = False) -> list[StageState]:
    """Trains one stage (`00`, `01` with the merge behind it, or `02`). Raises as `run_chain`.

    Args:
        start_from_base: start from the untrained LoRA instead of the stage's parent, without replay of earlier stages'
            data (an ablation of 02).
    """
    stages = stages_of_command(find_training_stage(stage).command)
    if start_from_base:
        stages = tuple(map(from_base, stages))
        chain = without_earlier_data(chain, stages)
    return _run(chain, stages)


def measure_ledger(chain: ChainContext) -> Ledger:
    """Measures what is missing of every step of the chain; returns the ledger (`lorachain ledger --measure`).

    Raises:
        LorachainError: there is no step, or a model cannot be loaded.
    """
    quiet_libraries()
    recorded = measuring_context(chain, given=False)
    return measure_chain(recorded, start_runtime(recorded.config))


def dial(
    chain: ChainContext,
    stage: str,
    scales: Sequence[float] = SCALES,
    *,
    variant: Variant = "uniform",
    apply: bool = False,
) -> DialReport:
    """A trained stage at smaller scales of its adapter; `apply` publishes the largest that passes the gates.

    Raises:
        GateError: with `apply`, no scale passes. LorachainError: the stage has no adapter, or was scaled already.
    """
    quiet_libraries()
    recorded = measuring_context(chain, given=True)
    runtime = start_runtime(recorded.config)
    return dial_stage(recorded, runtime, find_training_stage(stage), scales, variant=variant, apply=apply)[0]


def evaluate(
    chain: ChainContext,
    model: str,
    out: Path | str,
    *,
    protocol: str = "letters",
    split: str = "dev",
    subjects: Sequence[str] | None = None,
    limit: int | None = None,
    **settings: Any,
) -> EvalResult:
    """Scores `model` (`base`, a stage, a directory or a hub id) and writes the result to `out` (.json).

    Args:
        settings: those of the protocol: shots, rotations, samples, temperature, max_new_tokens, seed, token_budget;
            and `engine`, an `EngineOptions` of `lorachain.inference.engines.select`, for the protocol `reasoning`.

    Raises:
        LorachainError: a setting, source, model or output is not usable.
    """
    quiet_libraries()
    return evaluate_model(
        chain,
        start_runtime(chain.config, shared=True),
        model,
        Path(out),
        protocol=protocol,
        split=split,
        subjects=subjects,
        limit=limit,
        **settings,
    )


def compare(a: Path | str, b: Path | str, *, seed: int = 0) -> Comparison:
    """Two results of `evaluate`, question by question.

    Raises:
        DataError: one cannot be read, or they were not made alike.
    """
    return compare_results(Path(a), Path(b), seed=seed)


def merge_adapter(
    adapter: Path | str,
    into: Path | str,
    out: Path | str,
    *,
    workspace: Path | str = ".",
    device: str = "auto",
    quantization: Quantization | None = None,
    weights: MergeWeights = "original",
) -> MergeReport:
    """Merges a LoRA into its base (a directory, or a short name) and verifies the result.

    Raises:
        LorachainError: nothing is written.
    """
    quiet_libraries()
    return merge_and_verify(
        Workspace(Path(workspace)),
        Path(adapter),
        str(into),
        Path(out),
        device=device,
        quantization=quantization,
        weights=weights,
    )


def verify(chain: ChainContext) -> list[str]:
    """Verifies every stage of the chain from its files; returns one line per stage.

    Raises:
        LorachainError: names the first file that does not match.
    """
    quiet_libraries()
    return list(verify_chain(chain))


def verify_merged(folder: Path | str, *, base: Path | None = None, adapter: Path | None = None) -> MergeReport:
    """Verifies one merged directory against its base and adapter.

    Raises:
        LorachainError: names the first file that does not match.
    """
    quiet_libraries()
    merged = Path(folder)
    return verify_merge(merged, base=base or base_by_name(merged, Workspace(Path("."))), adapter=adapter)


def compose(chain: ChainContext, out: Path | str, *, rank: int | None = None) -> ComposeReport:
    """The finished chain as one plain LoRA on the public base; `rank` recompresses it.

    Raises:
        LorachainError: nothing is written.
    """
    report = export_chain(chain, out, "adapter", rank=rank)
    if not isinstance(report, ComposeReport):
        raise WorkspaceError(f"the chain has a single adapter, so nothing was composed; {out} has a copy of it")
    return report


def export_chain(
    chain: ChainContext,
    out: Path | str,
    form: Form,
    *,
    rank: int | None = None,
    outtype: OutType = "bf16",
    converter: Path | None = None,
) -> MergeReport | ComposeReport | GgufReport | None:
    """Exports the finished chain (`hf`, `adapter`, `gguf`, `ollama` or `vllm`) with its model card; loaded back and
    compared.

    Returns:
        The report; None where the chain has a single adapter, which is copied.

    Raises:
        LorachainError: nothing is written.
    """
    quiet_libraries()
    runtime = start_runtime(chain.config)
    return _export_chain(chain, runtime, Path(out), form, rank=rank, outtype=outtype, converter=converter)


def _run(chain: ChainContext, stages: Iterable[Stage]) -> list[StageState]:
    chosen = list(stages)
    check_sources(chain, stages_to_run(chain, chosen))
    quiet_libraries()
    return run_stages(chain, start_runtime(chain.config, shared=True), chosen)


__all__ = [
    "compare",
    "compose",
    "dial",
    "evaluate",
    "export_chain",
    "init",
    "load_config",
    "measure_ledger",
    "merge_adapter",
    "open_chain",
    "run_chain",
    "train_stage",
    "verify",
    "verify_merged",
]
