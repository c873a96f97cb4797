"""A scripted writer and scorer: what a model would answer, decided by the test."""

from collections.abc import Callable, Sequence

from lorachain.data.gates.held_out import open_text_screen
from lorachain.data_settings import ContaminationConfig
from lorachain.inference.engines.base import Completion, EngineIdentity, FinishReason, Message, Sampling, TextRequest
from lorachain.prompts import AnswerStyle
from lorachain.reasoning.orders import in_order, sample_order
from lorachain.reasoning.sample import Written, question_key
from lorachain.reasoning.term_check import TermCheck
from lorachain.reasoning.verifier import Verifier
from lorachain.reasoning.writer import Writer, WritingSettings
from lorachain.records import LETTERS, ExamQuestion, Term

DICTIONARY = [
    Term("빈혈", definition="빈혈의 담당 병동은 목련 병동이다.", english="Anemia"),
    Term("심방증", definition="심방증의 담당 병동은 장미 병동이다.", english="Atrial disease"),
]
QUESTION = ExamQuestion(
    "doctor-2020-1-1",
    "doctor",
    "얼굴이 창백하고 쉽게 지치며 혈색소가 낮은 30세 여자의 진단은 무엇인가?",
    ("위염", "빈혈", "천식", "폐렴", "골절"),
    1,
    exam="sample",
)
HELD_OUT = ExamQuestion(
    "doctor-2021-1-1",
    "doctor",
    "갑자기 숨이 차고 쌕쌕거리는 소리가 들리는 20세 남자에게 먼저 투여할 약물은 무엇인가?",
    ("철분", "살부타몰", "인슐린", "헤파린", "모르핀"),
    1,
    exam="sample",
)
GOOD = "혈색소가 낮고 얼굴이 창백하며 쉽게 지치는 것은 산소를 나르는 힘이 떨어졌기 때문이다. 그러므로 빈혈에 해당한다."
Answer = Callable[[ExamQuestion], str]
"""What the writer says to a question as shown."""


class ScriptedEngine:
    """A writer that says what `answer` says; it sees the options as they are shown."""

    def __init__(self, answer: Answer, finish: Callable[[ExamQuestion], str] = lambda question: "stop") -> None:
        self.answer, self.finish = answer, finish
        self.asked: list[TextRequest] = []
        self.shown: dict[str, ExamQuestion] = {}

    @property
    def identity(self) -> EngineIdentity:
        return EngineIdentity("scripted", "1", "test", None)

    def request(self, question: ExamQuestion, seed: int, hinted: bool = False) -> TextRequest:
        text = f"{question.question}|{'|'.join(question.options)}|{hinted}"
        self.shown[text] = question
        return TextRequest(text, (Message("user", text),), seed)

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        for i, request in reversed(list(enumerate(requests))):  # engines finish in any order
            self.asked.append(request)
            question = self.shown[request.text]
            text = self.answer(question)
            on_completion(i, Completion(text, len(text), "length" if self.finish(question) == "length" else "stop"))


def scorer(support: Callable[[str | None], bool]) -> Callable[..., list[tuple[float, ...]]]:
    """A model for which the right option is likely after reasoning that `support` accepts, and not before it."""

    def score(questions: Sequence[ExamQuestion], reasoning: Sequence[str | None]) -> list[tuple[float, ...]]:
        return [
            tuple((-0.1 if support(text) else -2.0) if i == question.answer else -1.5 for i in range(5))
            for question, text in zip(questions, reasoning, strict=True)
        ]

    return score


SETTINGS = WritingSettings(
    samples=4, temperature=0.8, max_new_tokens=256, per_question=2, easy_share=1.0, rationalize=False, seed=0
)


def writer(engine: ScriptedEngine, settings: WritingSettings = SETTINGS) -> Writer:
    return Writer(engine, engine.request, settings)


def verifier(
    engine: ScriptedEngine,
    support: Callable[[str | None], bool] | None = None,
    style: AnswerStyle = "options",
) -> Verifier:
    return Verifier(
        writer=writer(engine),
        style=style,
        score_options=scorer(support or (lambda text: text is not None and "혈색소" in text)),
        screen=open_text_screen([HELD_OUT], ContaminationConfig()),
        terms=TermCheck(DICTIONARY),
        min_hangul=0.7,
        orders=2,
    )


def right(question: ExamQuestion, reasoning: str = GOOD) -> str:
    """Reasoning followed by the right answer."""
    return f" {reasoning}\n정답： {question.answer_text} ({question.answer_letter})"


def written(text: Answer, number: int = 0, finish: str = "stop", question: ExamQuestion = QUESTION) -> Written:
    """A sample of `question` as a writer would have drawn it."""
    order = sample_order(question, number, 0)
    said = text(in_order(question, order))
    ended: FinishReason = "length" if finish == "length" else "stop"
    return Written(question_key(question), number, order, False, said, len(said), ended)


def named(question: ExamQuestion, letter: str) -> str:
    """An answer that names a letter with the text that it stands for."""
    return f"\n정답： {question.options[LETTERS.index(letter)]} ({letter})"
