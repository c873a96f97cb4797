"""One writing run: draw samples unit by unit, check each unit, select at the end."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lorachain.artifacts.reasoning import WrittenUnit
from lorachain.prompts import options_depend_on_order
from lorachain.reasoning.journal import restored_sample, stored_sample
from lorachain.reasoning.orders import in_order, inverse
from lorachain.reasoning.sample import Sample, question_key
from lorachain.reasoning.selection import select
from lorachain.reasoning.verifier import Verifier
from lorachain.reasoning.writer import Writer
from lorachain.records import ExamQuestion

QUESTIONS_PER_UNIT = 16
"""Written, checked and stored together: what an interruption costs at most, and always the same batches of a model."""


def write_reasoning(
    questions: Sequence[ExamQuestion],
    writer: Writer,
    verifier: Verifier,
    finished: Iterable[WrittenUnit],
    *,
    store: Callable[[WrittenUnit], None],
    on_progress: Callable[[int, int], None],
) -> list[Sample]:
    """Every sample of every question, checked and selected, in the order of the questions.

    Units of one subject share their worked examples, which an engine computes once.

    Args:
        questions: none of them twice, none of which depends on the order of its options.
        finished: the units of an earlier run.
        store: called with each unit once it is checked.
        on_progress: called with the numbers of samples drawn and passed so far, over all units.

    Raises:
        EngineError: the writer fails; what is finished is stored.
    """
    by_key = {question_key(question): question for question in questions}
    stored: dict[tuple[tuple[str, ...], bool], list[WrittenUnit]] = defaultdict(list)
    for unit in finished:
        stored[unit.questions, unit.hinted].append(unit)
    samples: list[Sample] = []

    def write(part: Sequence[ExamQuestion], *, hinted: bool) -> None:
        names = tuple(map(question_key, part))
        first = 0
        for unit in stored[names, hinted]:
            samples.extend(restored_sample(one, by_key[one.question], verifier.style) for one in unit.samples)
            first = unit.end
        if first < writer.settings.samples:
            numbers = range(first, writer.settings.samples)
            checked = verifier.check(by_key, writer.draw(part, numbers, hinted=hinted))
            rows = tuple(map(stored_sample, checked))
            store(WrittenUnit(questions=names, first=first, end=numbers.stop, hinted=hinted, samples=rows))
            samples.extend(checked)
        on_progress(len(samples), sum(not sample.failed for sample in samples))

    for part in units(questions):
        write(part, hinted=False)
    if writer.settings.rationalize:
        solved = {sample.written.question for sample in samples if not sample.failed}
        for part in units([question for question in questions if question_key(question) not in solved]):
            write(part, hinted=True)
    settings = writer.settings
    # More samples than now may be stored, from a run that asked for more.
    wanted = [sample for sample in samples if sample.written.number < settings.samples]
    select(wanted, per_question=settings.per_question, easy_share=settings.easy_share, seed=settings.seed)
    position = {question_key(question): i for i, question in enumerate(questions)}
    return sorted(wanted, key=lambda one: (position[one.written.question], one.written.hinted, one.written.number))


def units(questions: Sequence[ExamQuestion]) -> list[tuple[ExamQuestion, ...]]:
    """The questions in units of one subject."""
    by_subject: dict[str, list[ExamQuestion]] = defaultdict(list)
    for question in questions:
        by_subject[question.subject].append(question)
    return [
        tuple(group[i : i + QUESTIONS_PER_UNIT])
        for _, group in sorted(by_subject.items())
        for i in range(0, len(group), QUESTIONS_PER_UNIT)
    ]


def kept_questions(samples: Iterable[Sample], questions: Mapping[str, ExamQuestion]) -> list[ExamQuestion]:
    """The question of each kept sample with its reasoning, in the question's order of the options where the letters in
    the reasoning can be remapped with certainty, otherwise in the order in which it was written."""
    return [_with_reasoning(questions[one.written.question], one) for one in samples if not one.failed]


def _with_reasoning(question: ExamQuestion, sample: Sample) -> ExamQuestion:
    shown = replace(in_order(question, sample.written.order), reasoning=sample.reasoning)
    if options_depend_on_order(shown):
        return shown
    original = in_order(shown, inverse(sample.written.order))
    return original if in_order(original, sample.written.order) == shown else shown
