"""Exports a chain up to a step: merged weights, one adapter on the public base, or GGUF; loaded back and compared."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorachain.artifacts import (
    ComposeReport,
    EvalResult,
    GgufReport,
    LogitDiff,
    MergeInfo,
    MergeReport,
    StageInfo,
    TrainingInfo,
    read_stage_info,
    read_training_info,
)
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history
from lorachain.chain.merge_adapter import base_of_training
from lorachain.chain.parents import base_of
from lorachain.chain.probe import Probe, check_composition_logits, merge_check
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import (
    Stage,
    chain_stages,
    find_training_stage,
    parent_of,
    stage_of_output,
    training_stages,
)
from lorachain.errors import ConfigError, WorkspaceError
from lorachain.export.card import CardFacts, Form, check_form
from lorachain.export.folders import copy_adapter, export_adapter, export_hf
from lorachain.export.gguf import OUT_TYPES, OutType, export_gguf, find_converter
from lorachain.export.professions import profession_rows
from lorachain.export.sentencepiece_model import add_tokenizer_model
from lorachain.provenance import adapter_sha256
from lorachain.registry import weights_folder
from lorachain.weights.compose import COMPOSE_REPORT
from lorachain.weights.load import load_tokenizer
from lorachain.weights.model_config import read_model_config
from lorachain.workspace import TRAINING_INFO


@dataclass(frozen=True, slots=True)
class ExportedStep:
    """The directories that a step of the chain is made of."""

    stage: Stage
    base: Path
    """The public base."""
    first: Path | None
    """The last adapter before the merge; None: the step comes before it."""
    merged: Path
    """`first` merged into `base`; `base` itself without `first`."""
    last: Path
    """The adapter on `merged`."""
    lineage: tuple[TrainingInfo, ...]
    """Of the trained stages that led to it, first to last."""

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of the public base and of the adapters that are exported."""
        adapters = {"first": self.first, "last": self.last}
        hashes = {name: adapter_sha256(folder) for name, folder in adapters.items() if folder is not None}
        return {"base": self.lineage[0].base_sha256, **hashes}


def find_exported(context: ChainContext, step: str | None = None) -> ExportedStep:
    """What `step` (default: the last of the chain) is made of.

    Raises:
        ConfigError: the chain trains no such step. WorkspaceError: it, or a stage that leads to it, is missing.
    """
    last = find_training_stage(step) if step is not None else training_stages()[-1]
    names = [stage.name for stage in chain_stages()]
    for stage in chain_stages()[: names.index(last.name) + 1]:
        if not (context.output(stage) / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{context.output(stage)} is missing; finish the chain with: {context.command('run')}")
    info = read_training_info(context.output(last))
    base = weights_folder(context.entry, context.reporter.message)
    merged = base_of(context, last, info)
    merge = next(stage for stage in chain_stages() if stage.kind == "merge")
    return ExportedStep(
        stage=last,
        base=base,
        first=None if merged == base else context.output(parent_of(merge)),
        merged=merged,
        last=context.output(last),
        lineage=_lineage(context, info),
    )


def _lineage(context: ChainContext, info: TrainingInfo) -> tuple[TrainingInfo, ...]:
    """The training_info.json of every trained stage on the way to `info`, as the files record their parents."""
    found = [info]
    current: StageInfo = info
    while isinstance(current, TrainingInfo | MergeInfo):
        parent = stage_of_output(current.depends_on.parent.folder.partition("/")[0])
        current = read_stage_info(context.output(parent))
        if isinstance(current, TrainingInfo):
            found.insert(0, current)
    return tuple(found)


def check_options(form: str, outtype: str, converter: Path | None) -> None:
    """What can be refused before anything is read or merged.

    Raises:
        ConfigError: no such form or type, or no converter for a form that needs it.
    """
    if check_form(form) in ("gguf", "ollama"):
        if outtype not in OUT_TYPES:
            raise ConfigError(f"--outtype is {outtype!r}; allowed: {', '.join(OUT_TYPES)}")
        find_converter(converter)


def export_chain(
    context: ChainContext,
    runtime: Runtime,
    out: Path,
    form: Form,
    *,
    step: str | None = None,
    rank: int | None = None,
    outtype: OutType = "bf16",
    converter: Path | None = None,
    results: Sequence[EvalResult] = (),
) -> MergeReport | ComposeReport | GgufReport | None:
    """Writes the chain to `out` in one of `FORMS`; the directory appears only once it was verified.

    Args:
        step: up to which trained step; None: the whole chain.
        rank: of `adapter`: recompress to this rank; None: exact.
        outtype, converter: of `gguf` and `ollama`.
        results: of `lorachain eval`, for the card.

    Returns:
        The report; None for the adapter of a step before the merge, which is copied.

    Raises:
        ConfigError, AdapterError, ModelError, WorkspaceError: nothing is written.
    """
    check_options(form, outtype, converter)
    exported = find_exported(context, step)
    if out.exists() or out.is_symlink():
        raise WorkspaceError(f"--out {out} exists; choose another directory or remove it")
    facts = card_facts(context, exported, results)
    if form == "adapter":
        if exported.first is None:
            _copy_adapter(exported, out, facts)
            return None
        return _export_adapter(runtime, exported, exported.first, out, facts, rank)
    if form in ("hf", "vllm"):
        return _export_hf(runtime, exported, out, facts, form)
    return _export_gguf(exported, out, facts, form, outtype, converter)


def _copy_adapter(exported: ExportedStep, out: Path, facts: CardFacts) -> None:
    with atomic_folder(out, replace=False) as staging:
        copy_adapter(exported.base, exported.last, staging, facts)


def _export_adapter(
    runtime: Runtime, exported: ExportedStep, first: Path, out: Path, facts: CardFacts, rank: int | None
) -> ComposeReport:
    with atomic_folder(out, replace=False) as staging:
        report = export_adapter(
            exported.base, first, exported.last, staging, facts, merged_base=exported.merged, rank=rank
        )
        probe = check_composition_logits(
            exported.base, staging, exported.merged, exported.last, runtime.device, runtime.dtype, exact=rank is None
        )
        report = report.model_copy(update={"probe": probe})
        report.write(staging / COMPOSE_REPORT)
    return report


def _export_hf(runtime: Runtime, exported: ExportedStep, out: Path, facts: CardFacts, form: Form) -> MergeReport:
    with atomic_folder(out, replace=False) as staging:
        return export_hf(
            exported.merged,
            exported.last,
            staging,
            facts,
            final=out,
            form=form,
            expected_base_sha256=base_of_training(exported.last),
            check=merge_check(exported.merged, exported.last, runtime.device, runtime.dtype),
        )


def _export_gguf(
    exported: ExportedStep, out: Path, facts: CardFacts, form: Form, outtype: OutType, converter: Path | None
) -> GgufReport:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        merged = Path(scratch) / "merged"
        merged.mkdir()
        expected = base_of_training(exported.last)
        export_hf(exported.merged, exported.last, merged, facts, final=out, expected_base_sha256=expected)
        add_tokenizer_model(merged)
        probe = Probe(merged, torch.device("cpu"), torch.bfloat16)  # as a GGUF file is loaded back

        def compare(back: PreTrainedModel) -> LogitDiff:
            logits = probe.logits_of(back)
            return probe.compare(probe.logits(merged), logits)

        return export_gguf(merged, out, facts, form=form, outtype=outtype, compare=compare, converter=converter)


def card_facts(context: ChainContext, exported: ExportedStep, results: Sequence[EvalResult] = ()) -> CardFacts:
    """The facts of the card of an exported step.

    Raises:
        DataError: a result is not of this step's adapter or of the public base.
    """
    multimodal = read_model_config(exported.base).model_type == "gemma3"
    suffix = "" if exported.stage == training_stages()[-1] else f"-{exported.stage.name}"
    return CardFacts(
        name=f"{context.model}-korean-medical{suffix}",
        base=context.entry.huggingface_id or context.model,
        auto_class="AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM",
        stages=list(exported.lineage),
        professions=profession_rows(exported.lineage, read_history(exported.last), results),
        chat=bool(load_tokenizer(exported.base).chat_template),
    )
