"""What a stage's task is loaded from, for training it and for measuring what it taught."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lorachain.chain.context import ChainContext, stage_config
from lorachain.chain.exams import ExamQuestions
from lorachain.chain.stages import Stage
from lorachain.chain.tasks.base import TaskInputs
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import tokenizer_sha256


def task_inputs(
    context: ChainContext,
    stage: Stage,
    sources: Sequence[str],
    questions: ExamQuestions,
    *,
    base: Path,
    encoder: TokenEncoder,
    cache: Path,
    on_message: Callable[[str], None],
) -> TaskInputs:
    """The inputs of `stage`'s task with the settings of `context`.

    Args:
        sources: what the stage trains on.
        base: whose tokenizer `encoder` has.
        cache: where tokens are cached.
    """
    return TaskInputs(
        encoder=encoder,
        stage=stage_config(context.config, stage),
        validation=context.config.validation,
        seed=context.config.seed,
        sources=list(sources),
        dev=questions.dev,
        held_out=questions.held_out,
        answer_style=context.entry.answer_style,
        cache=cache,
        tokenizer_sha256=tokenizer_sha256(base),
        skip_bad_rows=context.skip_bad_rows,
        on_message=on_message,
        command=context.command,
        data=context.config.data,
    )
