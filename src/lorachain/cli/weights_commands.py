"""merge, verify, compose, export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app

Out = Annotated[Path, typer.Option("--out", help="Directory to write; it must not exist.")]


@app.command(epilog="Example: lorachain merge my-adapter --into medgemma-4b --out merged")
def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory with adapter_config.json.")],
    into: Annotated[
        str, typer.Option("--into", help="The adapter's base: a directory, a short name, or `base` (of --model).")
    ],
    out: Out,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    device: Annotated[str, typer.Option("--device", help="Where the logits are compared.")] = "auto",
    quantization: Annotated[
        Literal["none", "nf4", "int8"] | None,
        typer.Option("--quantization", help="What the base was held in during training, if not recorded."),
    ] = None,
    weights: Annotated[
        Literal["original", "dequantized"],
        typer.Option("--weights", help="What updates are added to; dequantized is what training on nf4/int8 saw."),
    ] = "original",
) -> None:
    """Merge a LoRA into its base, streaming, and verify it: merge_report.json beside the weights."""
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.merge_adapter import merge_and_verify
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import merge_table
    from lorachain.weights.merge import unchanged_layers
    from lorachain.workspace import Workspace

    quiet_libraries()
    o.make_room(out)
    console = ConsoleReporter()
    with console.bar(f"merging into {out}", 100) as bar:
        report = merge_and_verify(
            Workspace(workspace),
            adapter,
            into,
            out,
            model=model,
            device=device,
            quantization=quantization,
            weights=weights,
            on_progress=lambda done, total: bar(100 * done // total),
            on_message=console.message,
        )
    if unchanged := unchanged_layers(report):
        console.message(f"B is zero in {len(unchanged)} layers, which stay unchanged; first {unchanged[0]}")
    console.table(merge_table(report, f"{adapter} merged into {into}"))


@app.command(epilog="Example: lorachain verify --model medgemma-4b")
def verify(
    folder: Annotated[Path | None, typer.Argument(help="A merged directory; without it, the whole chain.")] = None,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    base: Annotated[Path | None, typer.Option("--base", help="Where the base is now, if it was moved.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Where the adapter is now.")] = None,
) -> None:
    """Verify from the files alone: one merge, or every stage of the chain."""
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.merge_adapter import base_by_name
    from lorachain.chain.verify import verify_chain
    from lorachain.report.console import ConsoleReporter
    from lorachain.weights.verify import verify_merge
    from lorachain.workspace import Workspace

    quiet_libraries()
    if folder is not None:
        verify_merge(folder, base=base or base_by_name(folder, Workspace(workspace)), adapter=adapter)
        ConsoleReporter().message(f"{folder}: base, adapter, report and every weight agree")
        return
    context = o.build_context(o.Common(model, workspace), "verify")
    for line in verify_chain(context):
        context.reporter.message(line)


@app.command(epilog="Example: lorachain compose --model medgemma-4b --out one-adapter")
def compose(
    out: Out,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    rank: Annotated[int | None, typer.Option("--rank", help="Recompress to this rank; without it, exact.")] = None,
    device: o.Device = None,
) -> None:
    """Compose stage 01's and stage 02's LoRA into one plain LoRA on the public base, compared with the chain."""
    _export(o.Common(model, workspace, device=device), out, "adapter", rank=rank)


@app.command(epilog="Example: lorachain export --model medgemma-4b --format hf --out medgemma-4b-ko")
def export(
    out: Out,
    form: Annotated[
        str, typer.Option("--format", help="hf (merged), adapter (composed), gguf, ollama (gguf), vllm (hf).")
    ],
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    device: o.Device = None,
    outtype: Annotated[str, typer.Option("--outtype", help="Of gguf and ollama: f16, bf16 or q8_0.")] = "bf16",
    converter: Annotated[
        Path | None, typer.Option("--converter", help="llama.cpp's convert_hf_to_gguf.py, if not on the PATH.")
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Result of `lorachain eval` of 02 or of the base, for the card; repeatable."),
    ] = None,
) -> None:
    """Export the chain with its model card; what was written is loaded back and compared."""
    common = o.Common(model, workspace, device=device)
    _export(common, out, form, outtype=outtype, converter=converter, results=results or [])


def _export(
    common: o.Common,
    out: Path,
    form: str,
    *,
    rank: int | None = None,
    outtype: str = "bf16",
    converter: Path | None = None,
    results: Sequence[Path] = (),
) -> None:
    from lorachain.artifacts import ComposeReport, GgufReport, MergeReport
    from lorachain.chain.debug_log import debug_log, quiet_libraries
    from lorachain.chain.runtime import start_runtime
    from lorachain.chain.stages import training_stages
    from lorachain.evaluation.results import read_results
    from lorachain.export.card import Form
    from lorachain.export.chain import check_options, export_chain, find_exported
    from lorachain.export.gguf import OutType
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import compose_table, gguf_table, merge_table

    quiet_libraries()
    context = o.build_context(common, "export")
    check_options(form, outtype, converter)
    find_exported(context)
    o.make_room(out)
    scores = [read_results(path)[0] for path in results]
    with debug_log(context.workspace.debug_log(training_stages()[-1].log)):
        report = export_chain(
            context,
            start_runtime(context.config),
            out,
            cast(Form, form),
            rank=rank,
            outtype=cast(OutType, outtype),
            converter=converter,
            results=scores,
        )
    console, title = ConsoleReporter(), f"{context.model}: {form} in {out}"
    if isinstance(report, ComposeReport):
        console.table(compose_table(report, title))
    elif isinstance(report, GgufReport):
        console.table(gguf_table(report, title))
    elif isinstance(report, MergeReport):
        console.table(merge_table(report, title))
    console.message(f"{form} -> {out}")
