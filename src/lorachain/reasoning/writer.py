"""Who writes, and how samples are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorachain.evaluation.answer_line import answer_line_complete
from lorachain.inference.engines.base import Completion, Sampling, TextEngine, TextRequest
from lorachain.reasoning.orders import in_order, sample_order, sample_seed
from lorachain.reasoning.sample import Written, question_key
from lorachain.records import ExamQuestion


@dataclass(frozen=True, slots=True)
class WritingSettings:
    """How many samples are drawn and kept."""

    samples: int
    temperature: float
    max_new_tokens: int
    per_question: int
    easy_share: float
    rationalize: bool
    """Write again, with the right answer as a hint, for questions that no sample passed for."""
    seed: int


@dataclass(frozen=True, slots=True)
class Writer:
    """Draws samples, and answers questions greedily."""

    engine: TextEngine
    request: Callable[[ExamQuestion, int, bool], TextRequest]
    """The prompt for a question as shown, a seed, and whether the right answer is given as a hint."""
    settings: WritingSettings

    def draw(self, questions: Sequence[ExamQuestion], numbers: range, *, hinted: bool) -> list[Written]:
        """Samples `numbers` of each question, each in its own order of the options, by question and number."""
        seed = self.settings.seed
        drawn = [(q, n, sample_order(q, n, seed)) for q in questions for n in numbers]
        requests = [
            self.request(in_order(q, order), sample_seed(q, n, seed, hinted=hinted), hinted) for q, n, order in drawn
        ]
        return [
            Written(question_key(q), n, order, hinted, done.text, done.tokens, done.finish)
            for (q, n, order), done in zip(drawn, self.complete(requests, self.settings.temperature), strict=True)
        ]

    def answer(self, questions: Sequence[ExamQuestion]) -> list[Completion]:
        """Each question as shown, greedily, from scratch and without a hint."""
        return self.complete([self.request(question, 0, False) for question in questions], 0.0)

    def complete(
        self, requests: Sequence[TextRequest], temperature: float, max_new_tokens: int | None = None
    ) -> list[Completion]:
        """The completion of every request, in their order, each up to its answer line."""
        completions: dict[int, Completion] = {}
        if requests:
            sampling = Sampling(max_new_tokens or self.settings.max_new_tokens, temperature)
            self.engine.complete(requests, sampling, stop=answer_line_complete, on_completion=completions.__setitem__)
        return [completions[i] for i in range(len(requests))]
