"""Held-out questions in generated reasoning, and among the questions that reasoning is written for."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorachain.data.gates.contamination import Contamination
from lorachain.data.gates.hashed_exam import open_hashed_exams
from lorachain.data.gates.skeleton import grams, skeletons
from lorachain.data_settings import ContaminationConfig
from lorachain.records import ExamQuestion


@dataclass(frozen=True, slots=True)
class TextScreen:
    """Finds questions in single texts, whatever `action` is set: what is written can be left out at no cost."""

    contamination: Contamination

    def contains(self, text: str) -> bool:
        """Whether the text contains a question, copied, reformatted or partly reworded."""
        return bool(self.contamination.in_texts([text], grams(skeletons([text]))))


def open_text_screen(questions: Sequence[ExamQuestion], settings: ContaminationConfig) -> TextScreen:
    """The screen for these questions and those of the hash files.

    Raises:
        WorkspaceError, DataError: a file of hashed questions cannot be used.
    """
    return TextScreen(Contamination([("held out", questions)], open_hashed_exams(settings.hashes), settings.threshold))


def without_same_questions(
    questions: Sequence[ExamQuestion], held_out: Sequence[ExamQuestion], settings: ContaminationConfig
) -> tuple[list[ExamQuestion], int]:
    """The questions that are none of `held_out`, and how many were left out.

    Raises:
        WorkspaceError, DataError: a file of hashed questions cannot be used.
    """
    hashed = open_hashed_exams(settings.hashes)
    contamination = Contamination([("held out", held_out)], hashed, settings.threshold)
    batch = grams(skeletons(["\n".join([question.question, *question.options]) for question in questions]))
    same = {match.text for match in contamination.same_questions(questions, batch)}
    return [question for number, question in enumerate(questions) if number not in same], len(same)
