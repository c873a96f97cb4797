"""Wrong answers that were written beside the accepted ones, which a preference is trained against."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.chain.tasks.base import TaskInputs
from lorachain.data.decontamination import content_key
from lorachain.data.gates.held_out import open_text_screen
from lorachain.errors import DataError, WorkspaceError
from lorachain.prompts import AnswerStyle, Example, exam_examples, options_depend_on_order, permuted
from lorachain.reasoning.sample import Check, question_key
from lorachain.reasoning.samples_file import SAMPLES, no_samples, read_samples, written_folders
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import REJECTED
from lorachain.workspace import REASONING_REPORT

_UNUSABLE: frozenset[Check] = frozenset({"parsed", "answer_line", "finished", "leak", "held_out"})
"""What a sample that only answers wrong does not fail: the pair is to teach which answer is right, not how one ends."""
WrongAnswers = dict[Any, list[ExamQuestion]]
"""By the question's content: the question as it was shown, whose `answer` is the wrong one that was given after
`reasoning`."""


def load_wrong_answers(inputs: TaskInputs, questions: Iterable[ExamQuestion]) -> WrongAnswers:
    """The wrong samples of written reasoning, for the questions that it was written for.

    Args:
        questions: all training questions, those without reasoning among them.

    Raises:
        DataError: no source is written reasoning with its samples. WorkspaceError: the samples cannot be read.
    """
    folders = written_folders(inputs.sources)
    if not folders:
        raise DataError(no_samples("preference", inputs.sources, inputs.command("write-reasoning")))
    originals = {question_key(question): question for question in questions if not question.reasoning}
    screen = open_text_screen(inputs.held_out, inputs.data.contamination)
    wrong: WrongAnswers = defaultdict(list)
    for folder in folders:
        digest = ReasoningReport.read(folder / REASONING_REPORT).samples_sha256
        for row in read_samples(folder, digest):
            try:
                original, answered = _answered(row, originals)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise WorkspaceError(f"{folder / SAMPLES} has a sample that is not one: {error!r}") from error
            if original is None or answered is None or screen.contains(row["reasoning"]):
                continue
            if answered not in wrong[content_key(original)]:
                wrong[content_key(original)].append(answered)
    return dict(wrong)


def _answered(
    row: dict[str, Any], originals: Mapping[str, ExamQuestion]
) -> tuple[ExamQuestion | None, ExamQuestion | None]:
    """The question of a sample, and that question as it was shown with the wrong answer; None where it is not to be
    trained against."""
    original = originals.get(row["question"])
    if original is None or not _is_usable(row):
        return original, None
    shown = permuted(original, [LETTERS.index(letter) for letter in row["order"]])
    return original, replace(shown, answer=LETTERS.index(row["chosen"]), reasoning=row["reasoning"])


def _is_usable(row: dict[str, Any]) -> bool:
    failed = set(row["failed"].split(","))
    return "right" in failed and not failed & _UNUSABLE and not row["hinted"] and bool(row["reasoning"].strip())


def in_order_of(wrong: ExamQuestion, question: ExamQuestion) -> ExamQuestion | None:
    """The wrong answer with the options in the order of `question`, the letters in its reasoning with them; None where
    not every letter is certain, or the question is worded otherwise."""
    if wrong.question != question.question or set(wrong.options) != set(question.options):
        return None
    if len(set(question.options)) < len(LETTERS):
        return None
    order = [wrong.options.index(text) for text in question.options]
    if order == sorted(order):
        return wrong
    if options_depend_on_order(wrong):
        return None
    moved = permuted(wrong, order)
    return moved if permuted(moved, [order.index(i) for i in range(len(order))]) == wrong else None


def rejected_example(
    question: ExamQuestion, wrong: Sequence[ExamQuestion], turn: int, style: AnswerStyle
) -> Example | None:
    """One of the wrong answers to the question as it is shown, in turns; None where none can be shown so."""
    for number in range(len(wrong)):
        moved = in_order_of(wrong[(turn + number) % len(wrong)], question)
        if moved is not None:
            return replace(exam_examples(moved, style)[0], form=REJECTED)
    return None
