"""ablate."""

from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.cli.chain_commands import stoppable
from lorachain.errors import ConfigError


@app.command(epilog="Example: lorachain ablate --model gemma-3-270m --budget 200000 --seeds 0,1,2")
def ablate(
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Supervised tokens per arm (default: what the chain trains).")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Comma-separated.")] = "0,1,2",
    arms: Annotated[
        str | None,
        typer.Option("--arms", help="Some of: chain, one-lora, joint, only-02, without-00, merge-only."),
    ] = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep each arm's weights after scoring.")] = False,
    device: o.Device = None,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Compare the chain with other ways of training the same data, at equal supervised tokens; resumes."""
    from lorachain.chain.ablation_arms import find_arms
    from lorachain.chain.stages import chain_stages

    chosen, numbers = find_arms(arms), parse_seeds(seeds)
    common = o.Common(
        model, workspace, config, set_, plain_text, dictionary, exam, device=device, skip_bad_rows=skip_bad_rows
    )
    context = o.build_context(common, "ablate", chain_stages())

    from lorachain.chain.ablation import RESULT
    from lorachain.chain.ablation import ablate as run_ablation
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.plan import check_sources
    from lorachain.chain.runtime import start_runtime
    from lorachain.report.ablation_table import ablation_table
    from lorachain.report.console import ConsoleReporter

    check_sources(context, chain_stages())
    quiet_libraries()
    runtime = start_runtime(context.config)
    with stoppable(context, "ablate"):
        result = run_ablation(context, runtime, chosen, seeds=numbers, budget=budget, keep_models=keep_models)
    ConsoleReporter().table(ablation_table(result))
    context.reporter.message(f"written to {context.workspace.ablation(context.model) / RESULT}")


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers.

    Raises:
        ConfigError: it is not a list of different whole numbers that can be seeds.
    """
    from lorachain.config import MAX_SEED

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) <= MAX_SEED for part in parts) or len(
        set(parts)
    ) < len(parts):
        raise ConfigError(f"--seeds is {text!r}; give different whole numbers up to {MAX_SEED}, such as 0,1,2")
    return [int(part) for part in parts]
