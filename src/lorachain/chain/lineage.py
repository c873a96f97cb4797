"""The way from the public base to a stage, with every score on it."""

from collections.abc import Iterator

from lorachain.artifacts import TrainingInfo, read_stage_info
from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history
from lorachain.chain.stages import Stage, chain_stages
from lorachain.errors import WorkspaceError
from lorachain.workspace import TRAINING_INFO


def lineage(context: ChainContext, last: Stage) -> Iterator[str]:
    """One line per stage up to `last`, followed by its measures and its scores.

    Raises:
        WorkspaceError: a stage is missing or its files are damaged.
    """
    for stage in chain_stages():
        folder = context.output(stage)
        if not (folder / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{folder} is missing; create it with: {context.command('run')}")
        info = read_stage_info(folder)
        described = f"{stage.label}: {info.adapter_sha256[:12]}… on {info.base}"
        if isinstance(info, TrainingInfo):
            sources = ", ".join(f"{s.name} ({s.rows:,} rows, {s.sha256[:12]}…)" for s in info.sources)
            described += f", trained on {sources}" if sources else ""
        yield described
        if isinstance(info, TrainingInfo):
            for name, after in info.measures.after.items():
                before = info.measures.before.get(name)
                yield f"  {after.split}: {before.summary if before else '–'} before, {after.summary} after"
            yield from (f"  {score.summary}" for score in read_history(folder) if score.stage == stage.name)
        if stage.name == last.name:
            return
