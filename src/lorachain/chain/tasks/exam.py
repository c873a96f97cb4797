"""Stage 02: exam questions with options in a new order each epoch, loss on the completion only."""

import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from lorachain.artifacts import Measure
from lorachain.chain.tasks.base import Measures, TaskInputs, require_fitting
from lorachain.chain.tasks.gated import nonzero, open_gates, other_counts, write_report
from lorachain.chain.tasks.token_cache import TokenCache, records_sha256
from lorachain.chain.tasks.wrong_answers import WrongAnswers, load_wrong_answers, rejected_example
from lorachain.data.decontamination import content_key
from lorachain.data.exam import load_exam, spread
from lorachain.data.gates.views import EXAM
from lorachain.data.sources import SourceInfo
from lorachain.errors import DataError
from lorachain.evaluation.explained import explain, explained_measures
from lorachain.prompts import AnswerStyle, exam_examples, json_example, shuffled
from lorachain.records import ExamQuestion
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import REJECTED, TokenEncoder, TokenRow


@dataclass(frozen=True, slots=True)
class ExamTask:
    sources: list[SourceInfo]
    counts: dict[str, int]
    questions: list[ExamQuestion]
    direct: list[bool]
    """Per question, whether its direct answer is trained: once, however many versions have reasoning."""
    encoder: TokenEncoder
    answer_style: AnswerStyle
    cache: TokenCache
    seed: int
    json_share: float
    """Of the questions, those that an epoch also asks for as a JSON object."""
    explained: list[ExamQuestion]
    """Dev questions that are answered directly and after an explanation; none where no reasoning is trained."""
    max_new_tokens: int
    """Of an explanation."""
    token_budget: int
    wrong: Mapping[int, Sequence[ExamQuestion]] = field(default_factory=dict)
    """Wrong answers to a question, by its number, which its reasoning is preferred to."""

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        """Every question once per form, its options in the epoch's order; a share of them, drawn for each epoch, as a
        JSON object too. A question with reasoning has a wrong answer in its pack where it was given one."""
        rng = random.Random(f"options:{self.seed}:{epoch}")
        count = len(self.questions)
        as_json = set(random.Random(f"json:{self.seed}:{epoch}").sample(range(count), round(self.json_share * count)))
        store = self.cache.rows(
            f"epoch-{epoch}",
            lambda: _rows(
                (shuffled(q, rng) for q in self.questions),
                self.encoder,
                self.answer_style,
                self.direct,
                as_json,
                wrong=self.wrong,
                epoch=epoch,
            ),
        )
        return _packs(store)

    def measure(self, model: nn.Module) -> Measures:
        if not self.explained:
            return {}
        answers = explain(
            model,
            self.encoder,
            self.explained,
            style=self.answer_style,
            max_new_tokens=self.max_new_tokens,
            token_budget=self.token_budget,
        )
        return {name: Measure(**fields) for name, fields in explained_measures(answers).items()}


def load_exam_task(inputs: TaskInputs) -> ExamTask:
    """The training questions that are not held out and fit `max_length` in every form.

    Raises:
        DataError: a source cannot be read, or no question is left.
    """
    loaded = load_exam(
        inputs.sources, "train", skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
    )
    gates = open_gates(inputs, EXAM)
    training = list(gates.kept(loaded.questions))
    report = write_report(inputs, gates, loaded.sources)
    questions, direct = _once_direct(training)
    longest = inputs.stage.max_length
    json_share = inputs.stage.json_share or 0.0
    settings = {"style": inputs.answer_style, "seed": inputs.seed, "max_length": longest, "json_share": json_share}
    answers = load_wrong_answers(inputs, loaded.questions) if inputs.stage.preference else {}
    given = {"wrong": records_sha256([one for part in answers.values() for one in part])} if answers else {}
    cache = inputs.token_cache({"questions": records_sha256(questions), **settings, **given})
    store = cache.rows(
        "questions",
        lambda: _rows(
            questions, inputs.encoder, inputs.answer_style, direct, range(len(questions)) if json_share else ()
        ),
    )
    too_long = {int(record) for record, n in zip(store.records, store.lengths, strict=True) if n > longest}
    fitting = [number for number in range(len(questions)) if number not in too_long]
    wrong = _wrong_by_number(inputs, answers, [questions[i] for i in fitting]) if inputs.stage.preference else {}
    left_out = require_fitting(len(questions), len(fitting), inputs, "--exam")
    if not any(question.reasoning for question in questions):
        inputs.on_message(
            "no training question has reasoning: answers alone are trained. Write some with: "
            + inputs.command("write-reasoning")
        )
    with_reasoning = sum(questions[i].reasoning is not None for i in fitting)
    return ExamTask(
        sources=loaded.sources,
        counts={
            "questions": len(fitting),
            "questions_with_reasoning": with_reasoning,
            "questions_also_in_dev_left_out": report.contamination.removed,
            "longer_than_max_length_left_out": left_out,
            **nonzero(questions_with_reasoning_and_wrong_answers=len(wrong)),
            **other_counts(report),
        },
        questions=[questions[i] for i in fitting],
        direct=[direct[i] for i in fitting],
        encoder=inputs.encoder,
        answer_style=inputs.answer_style,
        cache=cache,
        seed=inputs.seed,
        json_share=json_share,
        explained=spread(inputs.dev, inputs.validation.explained_questions) if with_reasoning else [],
        max_new_tokens=min(longest, inputs.validation.explained_tokens),
        token_budget=inputs.validation.token_budget,
        wrong=wrong,
    )


def _wrong_by_number(
    inputs: TaskInputs, answers: WrongAnswers, trained: Sequence[ExamQuestion]
) -> dict[int, list[ExamQuestion]]:
    """The wrong answers that fit `max_length`, by the number of the question with reasoning.

    Raises:
        DataError: there are none.
    """
    wrong: dict[int, list[ExamQuestion]] = {}
    for number, question in enumerate(trained):
        given = answers.get(content_key(question), []) if question.reasoning else []
        examples = ((one, rejected_example(question, [one], 0, inputs.answer_style)) for one in given)
        fitting = [one for one, e in examples if e and len(inputs.encoder.encode(e)) <= inputs.stage.max_length]
        if fitting:
            wrong[number] = fitting
    if not wrong:
        raise DataError(
            f'preference is "{inputs.stage.preference}", but no question has an accepted sample and a wrong one that '
            "ends with an answer line: draw more samples with reasoning.samples, or set the stage's preference to off"
        )
    return wrong


def _packs(store: TokenStore) -> StoredPacks:
    """A pack for each row, but a rejected answer with the row before it."""
    groups: list[list[int]] = []
    for index, form in enumerate(store.forms):
        if form == REJECTED:
            groups[-1].append(index)
        else:
            groups.append([index])
    return StoredPacks(groups, store.lengths.tolist(), store.row)


def _once_direct(questions: Sequence[ExamQuestion]) -> tuple[list[ExamQuestion], list[bool]]:
    """The questions, and for each whether its direct answer is trained.

    Written reasoning comes as further versions of the questions that it was written for, in any order of their options:
    a question without reasoning is left out where a version with reasoning is there, and only the first of several
    versions with reasoning trains the direct answer.
    """
    keys = [content_key(question) for question in questions]
    with_reasoning = {key for key, question in zip(keys, questions, strict=True) if question.reasoning}
    kept, direct, seen = [], [], set()
    for key, question in zip(keys, questions, strict=True):
        if key in with_reasoning and not question.reasoning:
            continue
        kept.append(question)
        direct.append(key not in seen)
        if question.reasoning:
            seen.add(key)
    return kept, direct


def _rows(
    questions: Iterable[ExamQuestion],
    encoder: TokenEncoder,
    style: AnswerStyle,
    direct: Sequence[bool],
    as_json: Container[int],
    *,
    wrong: Mapping[int, Sequence[ExamQuestion]] | None = None,
    epoch: int = 0,
) -> Iterator[TokenRow]:
    """The rows of each question's forms, a wrong answer behind the reasoning that it is trained against."""
    for record, question in enumerate(questions):
        examples = [e for e in exam_examples(question, style) if e.form != "direct" or direct[record]]
        if record in as_json:
            examples.append(json_example(question))
        for example in examples:
            form = example.prompt.cue if example.prompt is not None else ""
            yield replace(encoder.encode(example), record=record, form=form)
            if example.form == "reasoned" and wrong and record in wrong:
                rejected = rejected_example(question, wrong[record], epoch + record, style)
                if rejected is not None:
                    yield encoder.encode(rejected, record)
