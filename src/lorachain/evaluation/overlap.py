"""How many questions a dictionary answers by its wording alone.

Where the author of an exam and of a dictionary is the same, a question may repeat a definition: the option whose
definition shares most with the question is then the answer, and a score says less about what was learned.
"""

from collections.abc import Iterable, Sequence

from lorachain.artifacts.validation import Proportion
from lorachain.data.decontamination import normalized
from lorachain.evaluation.statistics import proportion
from lorachain.records import ExamQuestion, Term


def overlap_baseline(questions: Sequence[ExamQuestion], entries: Iterable[Term]) -> Proportion:
    """Accuracy of choosing the option whose definition shares most character trigrams with the question.

    An option is looked up as a term or an English name; one without an entry shares nothing. Options that share
    equally many divide the question among them, so that the accuracy is an expectation and `correct` is rounded.

    Args:
        questions: at least one.
    """
    definitions: dict[str, set[str]] = {}
    for entry in entries:
        for name in (entry.term, entry.english):
            if name and entry.definition:
                definitions.setdefault(normalized(name), set()).update(_trigrams(entry.definition))
    expected = sum(_chance_of_answer(question, definitions) for question in questions)
    return Proportion(**proportion(round(expected), len(questions)))


def _chance_of_answer(question: ExamQuestion, definitions: dict[str, set[str]]) -> float:
    stem = _trigrams(question.question)
    shared = [len(stem & definitions.get(normalized(option), set())) for option in question.options]
    best = [index for index, count in enumerate(shared) if count == max(shared)]
    return 1 / len(best) if question.answer in best else 0.0


def _trigrams(text: str) -> set[str]:
    """Of the text without case, spaces and punctuation."""
    letters = normalized(text)
    return {letters[start : start + 3] for start in range(len(letters) - 2)}
