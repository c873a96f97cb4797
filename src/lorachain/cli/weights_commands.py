"""merge, verify, compose, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.errors import ConfigError, WorkspaceError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorachain.chain.context import ChainContext
    from lorachain.export.gguf import OutType

_HERE = Path(".")
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")]


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder with adapter_config.json.")],
    into: Annotated[str, typer.Option("--into", help="The adapter's base: a folder, or a model's short name.")],
    out: Out,
    workspace: o.WorkspaceDir = _HERE,
    device: Annotated[str, typer.Option("--device", help="Where the probe runs.")] = "auto",
    quantization: Annotated[
        Literal["none", "nf4", "int8"] | None,
        typer.Option("--quantization", help="What the base was held in while training, if training_info.json is gone."),
    ] = None,
    weights: Annotated[
        Literal["original", "dequantized"],
        typer.Option("--weights", help="What the updates are added to; dequantized is what such training saw."),
    ] = "original",
) -> None:
    """Merge a LoRA into its base, streaming, and prove it: merge_report.json beside the weights."""
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.probe import merge_check
    from lorachain.registry import find_entry, weights_folder
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import merge_table
    from lorachain.weights.load import comparison_dtype, resolve_device
    from lorachain.weights.merge import merge_adapter, unchanged_layers
    from lorachain.weights.quantized import trained_in
    from lorachain.workspace import Workspace

    quiet_libraries()
    screen, target = ConsoleReporter(), resolve_device(device)
    named = not Path(into).is_dir()
    base = weights_folder(find_entry(Workspace(workspace), into)) if named else Path(into)
    with screen.bar(f"merging into {out}", 100) as bar:
        report = merge_adapter(
            base,
            adapter,
            out,
            expected_base_sha256=_trained_on(adapter),
            base_name=into if named else None,
            quantization=quantization or trained_in(adapter),
            weights=weights,
            on_progress=lambda done, total: bar(100 * done // total),
            check=merge_check(base, adapter, target, comparison_dtype(base)),
        )
    if unchanged := unchanged_layers(report):
        screen.message(f"B is zero in {len(unchanged)} layers, which stay unchanged; first {unchanged[0]}")
    screen.table(merge_table(report.as_dict(), f"{adapter} merged into {base}"))


@app.command()
def verify(
    folder: Annotated[Path | None, typer.Argument(help="A merged folder; without it, the whole chain.")] = None,
    model: o.Model = "gemma-3-270m",
    workspace: o.WorkspaceDir = _HERE,
    base: Annotated[Path | None, typer.Option("--base", help="Where the base is now, if it was moved.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Where the adapter is now.")] = None,
) -> None:
    """Repeat the proof from the files alone: of one merge, or of every link of the chain."""
    from lorachain.chain.verify import verify_chain
    from lorachain.report.console import ConsoleReporter
    from lorachain.weights.verify import verify_merge

    if folder is not None:
        verify_merge(folder, base=base or _named_base(folder, workspace), adapter=adapter)
        ConsoleReporter().message(f"{folder}: base, adapter, report and every weight agree")
        return
    context = o.build_context(o.Common(model, workspace), [])
    for line in verify_chain(context):
        context.reporter.message(line)


@app.command()
def compose(
    out: Out,
    model: o.Model = "gemma-3-270m",
    workspace: o.WorkspaceDir = _HERE,
    rank: Annotated[int | None, typer.Option("--rank", help="Recompress to this rank; without it, exact.")] = None,
    device: o.Device = None,
) -> None:
    """Stage 01's and stage 02's LoRA as one plain LoRA on the public base, proved against the chain."""
    context = o.build_context(o.Common(model, workspace, device=device), [])
    chain = _finished_chain(context)
    _require_absent(out)
    _export_adapter(context, chain, out, rank)


@app.command()
def export(
    out: Out,
    form: Annotated[str, typer.Option("--format", help="hf (merged), adapter (composed) or gguf.")],
    model: o.Model = "gemma-3-270m",
    workspace: o.WorkspaceDir = _HERE,
    device: o.Device = None,
    outtype: Annotated[str, typer.Option("--outtype", help="Of gguf: f16, bf16 or q8_0.")] = "bf16",
    converter: Annotated[
        Path | None, typer.Option("--converter", help="llama.cpp's convert_hf_to_gguf.py, if not on the PATH.")
    ] = None,
) -> None:
    """Let the chain leave the house, with its model card; what was written is loaded back and compared."""
    from lorachain.export.gguf import OUT_TYPES

    kinds = ("hf", "adapter", "gguf")
    if form not in kinds:
        raise ConfigError(f"--format is {form!r}; allowed: {', '.join(kinds)}")
    if outtype not in OUT_TYPES:
        raise ConfigError(f"--outtype is {outtype!r}; allowed: {', '.join(OUT_TYPES)}")
    context = o.build_context(o.Common(model, workspace, device=device), [])
    chain = _finished_chain(context)
    _require_absent(out)
    if form == "adapter":
        _export_adapter(context, chain, out, rank=None)
    elif form == "hf":
        _export_hf(context, chain, out)
    else:
        _export_gguf(context, chain, out, outtype, converter)
    context.reporter.message(f"{form} -> {out}")


def _export_adapter(context: "ChainContext", chain: dict[str, Path], out: Path, rank: int | None) -> None:
    from lorachain.chain.probe import check_composition_logits
    from lorachain.export.folders import export_adapter
    from lorachain.provenance import write_json
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import compose_table
    from lorachain.weights.compose import COMPOSE_REPORT

    base, first, merged, second = (chain[name] for name in ("base", "01", "merged", "02"))
    facts = _card_facts(context, chain)
    report = export_adapter(base, first, second, out, facts, merged_base=merged, rank=rank).as_dict()
    proof = check_composition_logits(base, out, merged, second, context.device, context.dtype, exact=rank is None)
    write_json(out / COMPOSE_REPORT, {**report, "probe": proof})
    ConsoleReporter().table(compose_table(report, proof, f"{context.model}: the chain as one adapter in {out}"))


def _export_hf(context: "ChainContext", chain: dict[str, Path], out: Path) -> None:
    from lorachain.chain.probe import check_merge_logits
    from lorachain.export.folders import export_hf
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import merge_table
    from lorachain.weights.merge_report import write_merge_report

    base, adapter, facts = chain["merged"], chain["02"], _card_facts(context, chain)
    report = export_hf(base, adapter, out, facts, expected_base_sha256=_trained_on(adapter))
    report = check_merge_logits(report, base, adapter, out, context.device, context.dtype)
    write_merge_report(out, report)
    ConsoleReporter().table(merge_table(report.as_dict(), f"{context.model}: the chain merged in {out}"))


def _export_gguf(
    context: "ChainContext", chain: dict[str, Path], out: Path, outtype: "OutType", converter: Path | None
) -> None:
    import tempfile

    import torch

    from lorachain.chain.probe import Probe
    from lorachain.export.folders import export_hf
    from lorachain.export.gguf import export_gguf
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import gguf_table

    facts = _card_facts(context, chain)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        merged = Path(scratch) / "merged"
        export_hf(chain["merged"], chain["02"], merged, facts, expected_base_sha256=_trained_on(chain["02"]))
        probe = Probe(merged, torch.device("cpu"), torch.bfloat16)  # as a GGUF file is loaded back

        def compare(back: "PreTrainedModel") -> dict[str, Any]:
            found = probe.logits_of(back)
            return probe.compare(probe.logits(merged), found)

        report = export_gguf(merged, out, facts, outtype=outtype, compare=compare, converter=converter)
    ConsoleReporter().table(gguf_table(report, f"{context.model}: the chain as GGUF in {out}"))


def _named_base(folder: Path, workspace: Path) -> Path | None:
    """The base of a merged folder whose report calls it by a name that the workspace knows."""
    from lorachain.registry import find_entry, weights_folder
    from lorachain.weights.merge_report import read_merge_report
    from lorachain.workspace import Workspace

    name = read_merge_report(folder).base_name
    return weights_folder(find_entry(Workspace(workspace), name)) if name else None


def _trained_on(adapter: Path) -> str | None:
    """Hash of the base that an adapter of ours was trained on; None for an adapter from elsewhere."""
    from lorachain.provenance import TRAINING_INFO, read_json

    info = adapter / TRAINING_INFO
    return read_json(info).get("base_sha256") if info.is_file() else None


def _finished_chain(context: "ChainContext") -> dict[str, Path]:
    """The folders of a chain whose stages are all there."""
    from lorachain.provenance import TRAINING_INFO
    from lorachain.registry import weights_folder

    workspace, model = context.workspace, context.model
    found = {
        "01": workspace.trained("01", model),
        "merged": workspace.merged_base(model),
        "02": workspace.trained("02", model),
    }
    for folder in (found["01"], workspace.another_lora_added(model), found["02"]):
        if not (folder / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{folder} is missing; finish the chain with: {context.command('run')}")
    return {**found, "base": weights_folder(context.entry)}


def _card_facts(context: "ChainContext", chain: dict[str, Path]) -> Any:
    from lorachain.export.card import CardFacts, read_stage_infos
    from lorachain.weights.model_config import read_model_config

    stages = read_stage_infos([context.workspace.trained("00", context.model), chain["01"], chain["02"]])
    multimodal = read_model_config(chain["base"]).model_type == "gemma3"
    return CardFacts(
        name=f"{context.model}-korean-medical",
        base=context.entry.huggingface_id or context.model,
        auto_class="AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM",
        stages=stages,
    )


def _require_absent(out: Path) -> None:
    if out.exists():
        raise WorkspaceError(f"--out {out} exists; choose another folder or remove it")
