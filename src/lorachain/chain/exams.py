"""The questions that a chain is validated on, and those that nothing may be trained on."""

from lorachain.chain.context import ChainContext
from lorachain.data.exam import LoadedExam, load_exam
from lorachain.errors import DataError
from lorachain.records import ExamQuestion


def load_dev(context: ChainContext) -> LoadedExam:
    """The dev split of all exam sources, at most `validation.max_questions`, spread over exams and subjects.

    The few-shot examples that are also in dev are left out. The test split is never read.
    """
    limit = context.config.validation.max_questions or None
    return load_exam(context.sources.exam, "dev", skip_bad_rows=context.skip_bad_rows, max_samples=limit)


def load_held_out(context: ChainContext) -> list[ExamQuestion]:
    """Every dev and few-shot question, whatever the validation limit: none of them is ever trained on."""
    held_out = load_exam(context.sources.exam, "dev", skip_bad_rows=context.skip_bad_rows).questions
    try:
        return held_out + load_exam(context.sources.exam, "fewshot", skip_bad_rows=context.skip_bad_rows).questions
    except DataError:
        return held_out  # an exam without few-shot examples (made from a dictionary, the sample)
