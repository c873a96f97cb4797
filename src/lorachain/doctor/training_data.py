"""Checks of the data: every source can be read, and what would be trained is shown token by token."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lorachain.artifacts import Check, ShownExample, ShownToken
from lorachain.chain.context import ChainContext, stage_config, training_sources
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.plan import check_sources
from lorachain.chain.stages import Stage, training_stages
from lorachain.chain.task_inputs import task_inputs
from lorachain.doctor.findings import Finding, guarded, ok
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights.load import load_tokenizer

EXAMPLES = 3
"""Shown of each stage."""
_RECORDS = 100
"""Read of a stage's sources for them."""


def check_data(context: ChainContext, base: Path | None, kinds: Sequence[str] | None = None) -> Iterator[Finding]:
    """Per stage, a look at its sources, then three sequences of its first epoch.

    Args:
        base: whose tokenizer to use; None: no examples are shown.
        kinds: of sources to check; None: all.
    """
    seen: set[tuple[str, str]] = set()
    for stage in training_stages():
        if kinds is not None and stage.source not in kinds:
            continue
        name, readable = f"data of {stage.name}", True
        for finding in guarded(name, partial(_previews, context, stage, seen)):
            readable = readable and isinstance(finding, Check) and finding.state != "failure"
            yield finding
        if readable and base is not None:
            yield from guarded(name, partial(_examples, context, stage, base))


def _previews(context: ChainContext, stage: Stage, seen: set[tuple[str, str]]) -> Iterator[Finding]:
    for source in check_sources(context, [stage]):
        key = (str(source["name"]), str(source["reading"]))
        if key in seen:  # every stage is validated on the same exam
            continue
        seen.add(key)
        count = "an unknown number of" if source["records"] is None else f"{source['records']:,}"
        files = f"{source['parts']} file{'' if source['parts'] == 1 else 's'}"
        about = "" if source["exact"] or source["records"] is None else "about "
        yield ok(
            f"data of {stage.name}",
            f"{source['name']} as {source['reading']}: {about}{count} records in {files}",
        )


def _examples(context: ChainContext, stage: Stage, base: Path) -> Iterator[ShownExample]:
    """What the stage's own task makes of its first records."""
    settings = stage_config(context.config, stage).without_preference()  # a few questions may have no pair
    few = settings.model_copy(update={"max_samples": min(settings.max_samples or _RECORDS, _RECORDS)})
    config = context.config.model_copy(update={"stages": {**context.config.stages, stage.name: few}})
    encoder = TokenEncoder(load_tokenizer(base))
    questions = load_exam_questions(context.sources.exam, max_questions=0, skip_bad_rows=context.skip_bad_rows)
    with tempfile.TemporaryDirectory() as cache:
        task = stage.load_task()(
            task_inputs(
                replace(context, config=config),
                stage,
                training_sources(context, stage),
                questions,
                base=base,
                encoder=encoder,
                cache=Path(cache),
                on_message=lambda text: None,
            )
        )
        packs = task.packs_of_epoch(0)
        for pack in [packs[number] for number in range(min(EXAMPLES, len(packs)))]:
            yield ShownExample(stage=stage.name, tokens=shown_tokens(pack[0], encoder))


def shown_tokens(row: TokenRow, encoder: TokenEncoder) -> tuple[ShownToken, ...]:
    """A row's ids with their texts; one that is a part of a character has the replacement character."""
    return tuple(
        ShownToken(id=id_, text=encoder.tokenizer.decode([id_]), supervised=position >= row.supervised_from)
        for position, id_ in enumerate(row.ids)
    )
