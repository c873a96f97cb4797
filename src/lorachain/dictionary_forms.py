"""The forms in which a dictionary entry is written: those that stage 01 trains, and those that only measure it.

A fact that was learned in one form is often not available in another ("Physics of Language Models: Part 3.1", Allen-Zhu
and Li 2023, arXiv 2309.14316). So stage 01 trains several: the entry's own (`prompts.dictionary_example`), a question,
and statements, in which the fact is part of a sentence, as it would be in the reasoning of an exam answer. What the
model then makes of the held-out forms, which nothing is trained on, shows whether it learned the fact or the form.

No particle that depends on the last sound of a word follows a value: terms and English names can be anything.
"""

from dataclasses import dataclass

from lorachain.prompts import REASONING_CUE, Direction, Example, Prompt, dictionary_example
from lorachain.records import Term

ENTRY_FORM = "entry"
"""The name of the form of `prompts.dictionary_example`."""
_ANSWER_CUE = "답:"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write an entry in one direction: `str.format` templates over `term`, `english` and `definition`."""

    name: str
    user: str
    cue: str
    completion: str
    """Supervised; without the space that follows the cue."""


TRAINED_FORMS: dict[Direction, tuple[Form, ...]] = {
    "term->english": (
        Form("question", "{term}의 영어 이름은 무엇입니까?", _ANSWER_CUE, "{english}"),
        Form(
            "statement",
            "{term}의 영어 이름을 한 문장으로 쓰시오.",
            REASONING_CUE,
            "{term}의 영어 이름은 {english}이다.",
        ),
        Form("gloss", "용어 {term}에 영어를 병기하시오.", "병기:", "{term}({english})"),
    ),
    "english->term": (
        Form("question", "{english}에 해당하는 우리말 의학 용어는 무엇입니까?", _ANSWER_CUE, "{term}"),
        Form(
            "statement",
            "{english}의 우리말 이름을 한 문장으로 쓰시오.",
            REASONING_CUE,
            "{english}의 우리말 이름은 {term}이다.",
        ),
        Form("gloss", "영문 기록의 {english}에 우리말을 병기하시오.", "병기:", "{english}({term})"),
    ),
    "term->definition": (
        Form("question", "{term}의 뜻은 무엇입니까?", _ANSWER_CUE, "{definition}"),
        Form("statement", "{term}에 관해 아는 것을 쓰시오.", REASONING_CUE, "{term}의 뜻은 다음과 같다. {definition}"),
        Form("gloss", "{term}에 관한 용어 해설을 쓰시오.", "해설:", "{term}: {definition}"),
    ),
    "definition->term": (
        Form("question", "다음 설명에 해당하는 의학 용어는 무엇입니까?\n{definition}", _ANSWER_CUE, "{term}"),
        Form(
            "statement",
            "다음 설명이 무엇에 관한 것인지 한 문장으로 쓰시오.\n{definition}",
            REASONING_CUE,
            "이 설명에 해당하는 용어는 {term}이다.",
        ),
        Form("gloss", "{definition}\n위 해설의 표제어를 쓰시오.", "표제어:", "{term}"),
    ),
}
"""Besides the entry's own form. The cue decides how the answer is written (the value alone, a sentence, both values),
so that a model which was trained on all forms can tell what it is meant to write."""

HELD_OUT_FORMS: dict[Direction, tuple[Form, ...]] = {
    "term->english": (
        Form("held-out-1", "다음 용어를 의학 영어로 옮기시오.\n{term}", "영어:", "{english}"),
        Form(
            "held-out-2",
            "영문 의무 기록에 적을 {term}의 정식 명칭을 알려 주십시오.",
            _ANSWER_CUE,
            "{english}",
        ),
    ),
    "english->term": (
        Form("held-out-1", "다음 의학 영어를 한국어로 옮기시오.\n{english}", "용어:", "{term}"),
        Form(
            "held-out-2",
            "외국 병원 소견서의 {english}, 국문으로는 어떻게 씁니까?",
            _ANSWER_CUE,
            "{term}",
        ),
    ),
    "term->definition": (
        Form("held-out-1", "의대생에게 {term}의 개념을 설명해 주십시오.", "뜻:", "{definition}"),
        Form("held-out-2", "{term}의 정의를 묻는 문제에 답하시오.", _ANSWER_CUE, "{definition}"),
    ),
    "definition->term": (
        Form("held-out-1", "{definition}\n이것을 가리키는 말을 쓰시오.", "용어:", "{term}"),
        Form("held-out-2", "의학 사전에 이렇게 풀이된 표제어를 찾으십시오: {definition}", _ANSWER_CUE, "{term}"),
    ),
}
"""Wordings that are never trained, with cues that are: what they measure is the fact, not a new kind of answer."""


def trained_examples(entry: Term, direction: Direction) -> list[Example]:
    """The entry in every trained form of the direction, its own first; `Example.form` is `direction` or
    `direction:form`.

    Raises:
        ValueError: the entry does not allow the direction.
    """
    return [
        dictionary_example(entry, direction),
        *(_example(entry, direction, form) for form in TRAINED_FORMS[direction]),
    ]


def held_out_example(entry: Term, direction: Direction, number: int) -> Example:
    """The entry in held-out form `number` of the direction, modulo their count.

    Raises:
        ValueError: the entry does not allow the direction.
    """
    dictionary_example(entry, direction)
    forms = HELD_OUT_FORMS[direction]
    return _example(entry, direction, forms[number % len(forms)])


def form_name(example_form: str) -> str:
    """The form's name in the `Example.form` of a dictionary example."""
    return example_form.partition(":")[2] or ENTRY_FORM


def direction_of(example_form: str) -> str:
    """The direction in the `Example.form` of a dictionary example."""
    return example_form.partition(":")[0]


def _example(entry: Term, direction: Direction, form: Form) -> Example:
    values = {"term": entry.term, "english": entry.english, "definition": entry.definition}
    prompt = Prompt(form.user.format(**values), form.cue)
    return Example(prompt, f" {form.completion.format(**values)}", f"{direction}:{form.name}")
