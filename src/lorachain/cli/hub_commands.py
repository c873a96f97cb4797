"""push."""

from pathlib import Path
from typing import Annotated, cast

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app


@app.command(epilog="Example: lorachain push 02 --to kim/kormed-4b --model medgemma-4b --dry-run")
def push(
    step: Annotated[str, typer.Argument(metavar="STEP", help="A trained step: 00, 01 or 02.")],
    to: Annotated[str, typer.Option("--to", help="Repository on the hub: OWNER/NAME.")],
    form: Annotated[
        str, typer.Option("--format", help="adapter (one LoRA on the public base), hf (merged), gguf, ollama, vllm.")
    ] = "adapter",
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; without this it is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare and list the files; ask the hub nothing.")
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results", help="Result of `lorachain eval` of this step or of the base, for the card; repeatable."
        ),
    ] = None,
    outtype: Annotated[str, typer.Option("--outtype", help="Of gguf and ollama: f16, bf16 or q8_0.")] = "bf16",
    converter: Annotated[
        Path | None, typer.Option("--converter", help="llama.cpp's convert_hf_to_gguf.py, if not on the PATH.")
    ] = None,
    accept_harm: Annotated[bool, typer.Option("--accept-harm", help="Push a step that a gate stopped.")] = False,
    accept_unverified: Annotated[
        bool, typer.Option("--accept-unverified", help="Push although `lorachain verify` fails.")
    ] = False,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    device: o.Device = None,
) -> None:
    """Push a step to the hub with its card and notices: private, in one commit, resumable."""
    context = o.build_context(o.Common(model, workspace, device=device), f"push {step}")

    from lorachain.chain.debug_log import debug_log, quiet_libraries
    from lorachain.chain.lock import model_lock
    from lorachain.chain.stages import find_training_stage
    from lorachain.evaluation.results import read_results
    from lorachain.export.card import Form, check_form
    from lorachain.export.gguf import OutType
    from lorachain.export.push import PushOptions, prepare_push
    from lorachain.export.push import push as push_to_hub
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import files_table

    log = context.workspace.debug_log(find_training_stage(step).log)
    options = PushOptions(
        step,
        to,
        form=cast(Form, check_form(form)),
        outtype=cast(OutType, outtype),
        converter=converter,
        results=tuple(read_results(path)[0] for path in results or []),
        public=public,
        accept_harm=accept_harm,
        accept_unverified=accept_unverified,
    )
    quiet_libraries()
    console = ConsoleReporter()
    with model_lock(context.workspace, model, context.command(f"push {step} --to {to}")), debug_log(log):
        files = prepare_push(context, options, online=not dry_run)
        console.table(
            files_table([(file.name, file.size, file.sha256) for file in files], f"{to}: step {step}, {form}")
        )
        if dry_run:
            kind = "public" if public else "private"
            console.message(f"nothing was sent; without --dry-run these files go to {to} ({kind}) in one commit")
            return
        pushed = push_to_hub(context, options, files)
    console.message(f"{'public' if public else 'private'}: {pushed.url} (commit {pushed.commit[:12]})")
