"""Exports a finished chain: merged weights, one adapter on the public base, or GGUF; loaded back and compared."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from lorachain.artifacts import ComposeReport, GgufReport, LogitDiff, MergeReport, read_training_info
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.merge_adapter import base_of_training
from lorachain.chain.parents import base_of
from lorachain.chain.probe import Probe, check_composition_logits, merge_check
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import chain_stages, parent_of, training_stages
from lorachain.errors import ConfigError, WorkspaceError
from lorachain.export.card import CardFacts
from lorachain.export.folders import export_adapter, export_hf
from lorachain.export.gguf import OUT_TYPES, OutType, export_gguf
from lorachain.registry import weights_folder
from lorachain.weights.compose import COMPOSE_REPORT
from lorachain.weights.model_config import read_model_config
from lorachain.workspace import TRAINING_INFO

Form = Literal["hf", "adapter", "gguf"]
FORMS: tuple[Form, ...] = ("hf", "adapter", "gguf")


@dataclass(frozen=True, slots=True)
class FinishedChain:
    """The directories of a chain whose stages are all there."""

    base: Path
    """The public base."""
    first: Path
    """The last adapter before the merge."""
    merged: Path
    """`first` merged into `base`."""
    last: Path
    """The adapter on `merged`."""


def find_finished_chain(context: ChainContext) -> FinishedChain:
    """Raises WorkspaceError where a stage of the chain is missing."""
    for stage in chain_stages():
        if not (context.output(stage) / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{context.output(stage)} is missing; finish the chain with: {context.command('run')}")
    merge = next(stage for stage in chain_stages() if stage.kind == "merge")
    last = training_stages()[-1]
    info = read_training_info(context.output(last))
    return FinishedChain(
        base=weights_folder(context.entry, context.reporter.message),
        first=context.output(parent_of(merge)),
        merged=base_of(context, last, info),
        last=context.output(last),
    )


def export_chain(
    context: ChainContext,
    runtime: Runtime,
    out: Path,
    form: Form,
    *,
    rank: int | None = None,
    outtype: OutType = "bf16",
    converter: Path | None = None,
) -> MergeReport | ComposeReport | GgufReport:
    """Writes the chain to `out` in one of `FORMS`; the directory appears only once it was verified.

    Args:
        rank: of `adapter`: recompress to this rank; None: exact.
        outtype, converter: of `gguf`.

    Raises:
        ConfigError, AdapterError, ModelError, WorkspaceError: nothing is written.
    """
    if form not in FORMS:
        raise ConfigError(f"--format is {form!r}; allowed: {', '.join(FORMS)}")
    if outtype not in OUT_TYPES:
        raise ConfigError(f"--outtype is {outtype!r}; allowed: {', '.join(OUT_TYPES)}")
    chain = find_finished_chain(context)
    if out.exists() or out.is_symlink():
        raise WorkspaceError(f"--out {out} exists; choose another directory or remove it")
    facts = _card_facts(context, chain)
    if form == "adapter":
        return _export_adapter(runtime, chain, out, facts, rank)
    if form == "hf":
        return _export_hf(runtime, chain, out, facts)
    return _export_gguf(chain, out, facts, outtype, converter)


def _export_adapter(
    runtime: Runtime, chain: FinishedChain, out: Path, facts: CardFacts, rank: int | None
) -> ComposeReport:
    with atomic_folder(out, replace=False) as staging:
        report = export_adapter(
            chain.base, chain.first, chain.last, staging, facts, merged_base=chain.merged, rank=rank
        )
        probe = check_composition_logits(
            chain.base, staging, chain.merged, chain.last, runtime.device, runtime.dtype, exact=rank is None
        )
        report = report.model_copy(update={"probe": probe})
        report.write(staging / COMPOSE_REPORT)
    return report


def _export_hf(runtime: Runtime, chain: FinishedChain, out: Path, facts: CardFacts) -> MergeReport:
    with atomic_folder(out, replace=False) as staging:
        return export_hf(
            chain.merged,
            chain.last,
            staging,
            facts,
            final=out,
            expected_base_sha256=base_of_training(chain.last),
            check=merge_check(chain.merged, chain.last, runtime.device, runtime.dtype),
        )


def _export_gguf(
    chain: FinishedChain, out: Path, facts: CardFacts, outtype: OutType, converter: Path | None
) -> GgufReport:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        merged = Path(scratch) / "merged"
        merged.mkdir()
        export_hf(chain.merged, chain.last, merged, facts, final=out, expected_base_sha256=base_of_training(chain.last))
        probe = Probe(merged, torch.device("cpu"), torch.bfloat16)  # as a GGUF file is loaded back

        def compare(back: PreTrainedModel) -> LogitDiff:
            logits = probe.logits_of(back)
            return probe.compare(probe.logits(merged), logits)

        return export_gguf(merged, out, facts, outtype=outtype, compare=compare, converter=converter)


def _card_facts(context: ChainContext, chain: FinishedChain) -> CardFacts:
    multimodal = read_model_config(chain.base).model_type == "gemma3"
    return CardFacts(
        name=f"{context.model}-korean-medical",
        base=context.entry.huggingface_id or context.model,
        auto_class="AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM",
        stages=[read_training_info(context.output(stage)) for stage in training_stages()],
    )
