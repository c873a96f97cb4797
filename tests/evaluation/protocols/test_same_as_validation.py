"""`letters` and `options` mean the same in the validation of an epoch and in `lorachain eval`."""

import random
import subprocess
import sys

import pytest
import torch

from conftest import make_tokenizer
from lorachain.evaluation.protocols.base import LETTERS_VERSION, OPTIONS_VERSION, QuestionResult, batches
from lorachain.evaluation.protocols.registry import make_protocol
from lorachain.evaluation.scoring import score_questions
from lorachain.evaluation.validation import validate
from lorachain.evaluation.validation_result import PROTOCOL_VERSIONS
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

WORDS = ["열", "기침", "aspirin", "간", "심장", "B12", "두통", "가", "x"]


def make_questions(count: int) -> list[ExamQuestion]:
    rng = random.Random(0)

    def phrase(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

    return [
        ExamQuestion(f"q{i}", ("nurse", "doctor")[i % 2], phrase(12), tuple(phrase(4) for _ in range(5)), i % 5)  # type: ignore[arg-type]
        for i in range(count)
    ]


@pytest.mark.parametrize("chat", [False, True])
def test_same_choices_and_log_probabilities_question_by_question(tiny_model, chat: bool) -> None:  # type: ignore[no-untyped-def]
    """The batches differ (validation scores all subjects together), so log-probabilities agree to rounding."""
    encoder, questions = TokenEncoder(make_tokenizer(chat=chat)), make_questions(24)
    validation = validate(tiny_model, encoder, questions)
    scores = score_questions(tiny_model, encoder, questions)
    for name in ("letters", "options"):
        protocol = make_protocol(name)
        results: dict[str, QuestionResult] = {}
        for batch in batches(questions, 7):
            scored = protocol.score(tiny_model, encoder, [questions[i] for i in batch])
            results |= {result.id: result for result in scored}
        ordered = [results[question.id] for question in questions]
        assert validation.questions.chosen[name] == "".join(LETTERS[result.chosen or 0] for result in ordered)
        for result, score in zip(ordered, scores, strict=True):
            expected = score.letter_logprobs if name == "letters" else score.option_logprobs
            torch.testing.assert_close(torch.tensor(result.logprobs), torch.tensor(expected), atol=1e-4, rtol=1e-5)
            assert result.prompt_tokens == score.prompt_tokens


def test_the_same_batch_of_options_gives_the_same_bits(tiny_model) -> None:  # type: ignore[no-untyped-def]
    encoder, questions = TokenEncoder(make_tokenizer()), make_questions(8)[::2]
    scores = score_questions(tiny_model, encoder, questions)
    results = make_protocol("options").score(tiny_model, encoder, questions)
    assert [result.logprobs for result in results] == [score.option_logprobs for score in scores]


def test_they_have_one_version() -> None:
    assert PROTOCOL_VERSIONS == {"letters": LETTERS_VERSION, "options": OPTIONS_VERSION}
    assert {name: make_protocol(name).version for name in PROTOCOL_VERSIONS} == PROTOCOL_VERSIONS


def test_results_and_statistics_need_no_torch() -> None:
    """`lorachain compare` reads results without loading torch."""
    modules = "lorachain.evaluation.protocols.base, lorachain.evaluation.statistics"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
