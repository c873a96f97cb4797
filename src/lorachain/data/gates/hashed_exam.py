"""Questions of a split that training may not read, as a file of salted hashes."""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lorachain.artifacts.data_gates import HashedExam, HashedQuestion
from lorachain.data.gates.question_index import QuestionHashes, QuestionIndex, build_index, question_hashes
from lorachain.data.gates.skeleton import GRAM, SKELETON_VERSION, Hashes
from lorachain.errors import DataError
from lorachain.records import ExamQuestion


def hash_exam(name: str, questions: Sequence[ExamQuestion]) -> HashedExam:
    """The questions as salted hashes, with a new salt."""
    salt = secrets.randbits(64) | 1
    hashed = []
    for question in question_hashes(questions, salt):
        identity = hashlib.blake2b(question.id.encode(), key=salt.to_bytes(8), digest_size=8).hexdigest()
        a, b, c, d, e = map(_encoded, question.options)
        hashed.append(
            HashedQuestion(
                id=identity,
                stem=_encoded(question.stem),
                options=(a, b, c, d, e),
                whole_options=_encoded(question.whole_options),
                answer=question.answer,
                stem_length=question.stem_length,
                length=question.length,
            )
        )
    return HashedExam(
        name=name, salt=f"{salt:016x}", skeleton_version=SKELETON_VERSION, gram=GRAM, questions=tuple(hashed)
    )


def read_hashed_exam(path: Path) -> QuestionIndex:
    """The index of a file of `hash_exam`.

    Raises:
        WorkspaceError: it cannot be read. DataError: it is of a version that hashes differently.
    """
    exam = HashedExam.read(path)
    if (exam.skeleton_version, exam.gram) != (SKELETON_VERSION, GRAM):
        raise DataError(
            f"{path}: hashed by a lorachain that compares texts differently (version {exam.skeleton_version}, this one "
            f"has {SKELETON_VERSION}); write it again with `lorachain data hash-exam`"
        )
    questions = [
        QuestionHashes(
            id=question.id,
            stem=_decoded(question.stem),
            options=tuple(map(_decoded, question.options)),
            whole_options=_decoded(question.whole_options),
            answer=question.answer,
            stem_length=question.stem_length,
            length=question.length,
        )
        for question in exam.questions
    ]
    return build_index(exam.name, questions, int(exam.salt, 16))


def open_hashed_exams(files: Sequence[str]) -> list[QuestionIndex]:
    """The indexes of the files that the setting `data.contamination.hashes` names.

    Raises:
        WorkspaceError, DataError: as `read_hashed_exam`.
    """
    return [read_hashed_exam(Path(name).expanduser()) for name in files]


def _encoded(hashes: Hashes) -> str:
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def _decoded(text: str) -> Hashes:
    return np.frombuffer(base64.b64decode(text), dtype="<u8").astype(np.uint64)
