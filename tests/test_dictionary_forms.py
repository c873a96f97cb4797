"""The forms of a dictionary entry: what is trained, what only measures, and what each of them says."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain.dictionary_forms import (
    ENTRY_FORM,
    HELD_OUT_FORMS,
    TRAINED_FORMS,
    direction_of,
    form_name,
    held_out_example,
    trained_examples,
)
from lorachain.prompts import REASONING_CUE, Direction, dictionary_example, directions
from lorachain.records import Term

ENTRY = Term("심부전", "심장이 혈액을 충분히 내보내지 못하는 증후군이다.", "heart failure")
VALUES = {"term": ENTRY.term, "definition": str(ENTRY.definition), "english": str(ENTRY.english)}
DIRECTIONS: list[Direction] = directions(ENTRY)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_first_form_is_the_entrys_own(direction: Direction) -> None:
    first, *others = trained_examples(ENTRY, direction)
    assert first == dictionary_example(ENTRY, direction)
    assert form_name(first.form) == ENTRY_FORM
    names = [form_name(example.form) for example in others]
    assert len(names) >= 3
    assert len({ENTRY_FORM, *names}) == len(names) + 1
    assert {direction_of(example.form) for example in (first, *others)} == {direction}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_question_shows_the_source_and_only_the_completion_shows_the_target(direction: Direction) -> None:
    source, target = direction.split("->")
    held_out = [held_out_example(ENTRY, direction, number) for number in range(len(HELD_OUT_FORMS[direction]))]
    for example in (*trained_examples(ENTRY, direction), *held_out):
        assert example.prompt is not None
        assert VALUES[source] in example.prompt.user
        assert VALUES[target] not in example.prompt.user + example.prompt.cue
        assert VALUES[target] in example.completion
        assert example.completion.startswith(" ")
        assert not example.completion.startswith("  ")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_statement_has_the_fact_in_a_sentence_behind_the_cue_of_reasoning(direction: Direction) -> None:
    statements = [
        e for e in trained_examples(ENTRY, direction) if e.prompt is not None and e.prompt.cue == REASONING_CUE
    ]
    assert statements
    for example in statements:
        assert example.completion.strip() != VALUES[direction.split("->")[1]]
        assert example.completion.endswith("다.")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_held_out_is_not_trained_and_is_answered_by_the_value_alone(direction: Direction) -> None:
    trained = {form.user for form in TRAINED_FORMS[direction]}
    trained_cues = {e.prompt.cue for e in trained_examples(ENTRY, direction) if e.prompt is not None}
    own = dictionary_example(ENTRY, direction)
    assert own.prompt is not None
    for number, form in enumerate(HELD_OUT_FORMS[direction]):
        example = held_out_example(ENTRY, direction, number)
        assert form.user not in trained
        assert example.prompt is not None
        assert example.prompt.user != own.prompt.user
        assert example.prompt.cue in trained_cues
        assert example.completion == own.completion
    assert held_out_example(ENTRY, direction, len(HELD_OUT_FORMS[direction])) == held_out_example(ENTRY, direction, 0)


def test_no_two_prompts_of_an_entry_are_equal() -> None:
    examples = [example for direction in DIRECTIONS for example in trained_examples(ENTRY, direction)]
    examples += [held_out_example(ENTRY, direction, n) for direction, n in itertools.product(DIRECTIONS, (0, 1))]
    assert len({example.prompt for example in examples}) == len(examples)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_is_inserted_as_it_is(term: str, english: str) -> None:
    """Braces and percent signs of an entry are not part of a template."""
    for example in trained_examples(Term(term, None, english), "term->english"):
        assert example.prompt is not None
        assert term in example.prompt.user
        assert english in example.completion


def test_a_direction_that_the_entry_does_not_allow_is_an_error() -> None:
    for make in (trained_examples, lambda entry, direction: held_out_example(entry, direction, 0)):
        with pytest.raises(ValueError, match="does not allow"):
            make(Term("감기", "바이러스 감염"), "term->english")
