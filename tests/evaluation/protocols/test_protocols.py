"""Each protocol on tiny models equals a plain computation of its definition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.errors import ConfigError, DataError, NonFiniteError
from lorachain.evaluation.extraction import kormedeval_choice
from lorachain.evaluation.protocols import kormedeval, lm_eval
from lorachain.evaluation.protocols.base import QuestionResult, batches
from lorachain.evaluation.protocols.kormedeval import KorMedEval
from lorachain.evaluation.protocols.letters import Letters
from lorachain.evaluation.protocols.lm_eval import LmEval, lm_eval_prompt
from lorachain.evaluation.protocols.options import Cloze
from lorachain.evaluation.protocols.reasoning import Reasoning, majority
from lorachain.evaluation.protocols.registry import PROTOCOLS, make_protocol
from lorachain.evaluation.scoring import letter_tokens
from lorachain.inference.engines.base import Completion, EngineIdentity, Sampling, TextRequest
from lorachain.inference.engines.local import LocalEngine
from lorachain.inference.generate import Generation
from lorachain.prompts import (
    JSON_INSTRUCTION,
    REASONING_INSTRUCTION,
    AnswerStyle,
    Prompt,
    answer_prompt,
    json_example,
    json_prompt,
    question_block,
    rotations,
)
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "마른 기침", "두통이 심함", "구토", "발진 또는 가려움")
QUESTIONS = [
    ExamQuestion(f"q{i}", "doctor", f" 증상 {i}은 무엇인가? " * (i % 3 + 1), TEXTS[i:] + TEXTS[:i], i)  # type: ignore[arg-type]
    for i in range(5)
]
SHOTS = {"doctor": [ExamQuestion(f"s{i}", "doctor", f"보기 {i}?", TEXTS, i) for i in range(5)]}


def letter_logits(model, encoder: TokenEncoder, prompt: Prompt) -> list[float]:  # type: ignore[no-untyped-def]
    letters = letter_tokens(encoder)
    ids = [*encoder.prompt_ids(prompt), *letters.shared]
    with torch.no_grad():
        logits: list[float] = model(input_ids=torch.tensor([ids])).logits[0, -1][letters.ids].tolist()
    return logits


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("shots", [0, 2, 5])
@pytest.mark.parametrize("budget", [1, 8192])
def test_letters_with_worked_examples(tiny_model, chat: bool, shots: int, budget: int) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    results = Letters(shots, examples=SHOTS, token_budget=budget).score(tiny_model, encoder, QUESTIONS)
    examples = "".join(f"{question_block(s)}\n정답： {s.answer_letter}\n\n" for s in SHOTS["doctor"][:shots])
    for question, result in zip(QUESTIONS, results, strict=True):
        logits = letter_logits(tiny_model, encoder, Prompt(examples + question_block(question), "정답："))
        assert result.logprobs == pytest.approx(torch.tensor(logits).log_softmax(-1).tolist(), abs=1e-4)
        assert result.chosen == logits.index(max(logits))
        assert (result.id, result.gold) == (question.id, question.answer)


@pytest.mark.parametrize("shots", [0, 5])
def test_rotations_average_over_the_five_orders(tiny_model, shots: int) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer())
    protocol = Letters(shots, 5, SHOTS)
    results = protocol.score(tiny_model, encoder, QUESTIONS)
    examples = "".join(f"{question_block(s)}\n정답： {s.answer_letter}\n\n" for s in SHOTS["doctor"][:shots])
    for question, result in zip(QUESTIONS, results, strict=True):
        total, shown = dict.fromkeys(question.options, 0.0), []
        for rotated in rotations(question):
            logits = letter_logits(tiny_model, encoder, Prompt(examples + question_block(rotated), "정답："))
            for text, p in zip(rotated.options, torch.tensor(logits).softmax(-1).tolist(), strict=True):
                total[text] += p / 5
            shown.append(logits.index(max(logits)))
        assert result.detail["shown"] == shown
        assert result.logprobs == pytest.approx([math.log(total[text]) for text in question.options], abs=1e-4)


def test_the_report_counts_by_the_letter_that_an_option_had() -> None:
    """Of a model that always answers A no two orders agree, and it is right where the gold option has the letter A."""
    results = [QuestionResult(f"q{i}", "", "s", gold=i, chosen=0, detail={"shown": [0] * 5}) for i in range(5)]
    report = Letters(orders=5).report(results)
    assert report["chosen_letters"] == {"A": 25, "B": 0, "C": 0, "D": 0, "E": 0}
    assert report["accuracy_by_gold_letter"]["A"] == {"n": 5, "correct": 5, "accuracy": 1.0}
    assert report["accuracy_by_gold_letter"]["C"] == {"n": 5, "correct": 0, "accuracy": 0.0}
    assert report["agreement"] == {"n": 5, "all_orders_agree": 0, "mean_share_of_most_named": 0.2}
    # A model that always chooses option 2, whose letters are C, B, A, E, D.
    always_right = QuestionResult("q", "", "s", gold=2, chosen=2, detail={"shown": [2, 1, 0, 4, 3]})
    report = Letters(orders=5).report([always_right])
    assert report["agreement"]["all_orders_agree"] == 1
    assert all(report["accuracy_by_gold_letter"][letter]["accuracy"] == 1.0 for letter in LETTERS)


def test_missing_worked_examples_are_named() -> None:
    with pytest.raises(DataError, match=r"5 worked examples .* has 0 for subject 'doctor'"):
        Letters(shots=5).score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)


def test_cloze_hides_the_options(tiny_model) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer())

    def likelihood(user: str, text: str) -> float:
        prompt, ids = encoder.prompt_ids(Prompt(user, "정답：")), encoder.text_ids(f" {text}")
        with torch.no_grad():
            logprobs = tiny_model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
        return float(sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)))

    for question, result in zip(QUESTIONS, Cloze().score(tiny_model, encoder, QUESTIONS), strict=True):
        sums = [likelihood(question.question.strip(), text) for text in question.options]
        pmi = [a - likelihood("", text) for a, text in zip(sums, question.options, strict=True)]
        assert result.logprobs == pytest.approx(sums, rel=1e-5, abs=1e-3)
        assert result.detail["pmi"] == pmi.index(max(pmi))


def scripted(monkeypatch: pytest.MonkeyPatch, module: object, answers: Sequence[str]) -> list[dict[str, object]]:
    """Makes generation return `answers`; returns the arguments of its calls."""
    calls: list[dict[str, object]] = []

    def generate(model, encoder, prompts, **settings):  # type: ignore[no-untyped-def]
        texts = [encoder.tokenizer.decode(ids[1:]) for ids in prompts]
        calls.append({"prompts": texts, **settings})
        return [Generation(text, 7, not text.endswith("…")) for text in answers]

    monkeypatch.setattr(module, "generate", generate)
    return calls


@dataclass
class Scripted:
    """An engine that answers with `answers`, the last request first."""

    answers: Sequence[str]
    requests: list[TextRequest] = field(default_factory=list)
    sampling: Sampling | None = None
    identity = EngineIdentity("scripted", "1", "none", None)

    def complete(self, requests, sampling, *, stop, on_completion):  # type: ignore[no-untyped-def]
        assert stop("정답： A\n")
        self.requests, self.sampling = list(requests), sampling
        for index in reversed(range(len(requests))):
            on_completion(index, Completion(self.answers[index], 7, "stop"))


def test_lm_eval_reads_the_text_before_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scripted(monkeypatch, lm_eval, [" A\n\nB", " 정답: C. D", " 모름", " b", "…"])
    protocol = LmEval(shots=2, examples=SHOTS)
    results = protocol.score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    assert [result.chosen for result in results] == [0, 2, None, 1, None]
    assert calls[0]["prompts"] == [lm_eval_prompt(q, SHOTS["doctor"][:2]) for q in QUESTIONS]
    assert lm_eval_prompt(QUESTIONS[0], SHOTS["doctor"][:1]) == (
        "보기 0?\nA. 열\nB. 마른 기침\nC. 두통이 심함\nD. 구토\nE. 발진 또는 가려움\n정답： A\n\n"
        "증상 0은 무엇인가?\nA. 열\nB. 마른 기침\nC. 두통이 심함\nD. 구토\nE. 발진 또는 가려움\n정답："
    )
    report = protocol.report(results)
    assert report["unparsed"] == {"n": 5, "count": 2, "rate": 0.4}
    assert report["cut_at_limit"]["count"] == 1
    assert report["generated_tokens_per_question"] == 7


def test_the_harness_prompt_equals_the_trained_prompt() -> None:
    encoder = TokenEncoder(make_tokenizer())
    published = [encoder.bos_id, *encoder.text_ids(lm_eval_prompt(QUESTIONS[0], []))]
    assert published == encoder.prompt_ids(answer_prompt(QUESTIONS[0]))


def test_kormedeval(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scripted(monkeypatch, kormedeval, ['{"정답": "B"}', "B", "\\boxed{C}", '{"answer":"E"}', ""])
    results = KorMedEval().score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    assert [result.chosen for result in results] == [1, None, 2, 4, None]
    assert KorMedEval().report(results)["unparsed"]["count"] == 2
    assert calls[0]["prompts"][1].startswith(  # type: ignore[index]
        "질문:  증상 1은 무엇인가?  증상 1은 무엇인가? \n\nA. 마른 기침\nB. 두통이 심함\n"
    )
    assert json_prompt(QUESTIONS[0]).user.endswith("E. 발진 또는 가려움\n\n" + JSON_INSTRUCTION)


def test_kormedeval_reads_the_form_that_stage_02_trains() -> None:
    for question in QUESTIONS:
        example = json_example(question)
        assert example.prompt == json_prompt(question)
        assert kormedeval_choice(example.completion) == question.answer


def test_reasoning_votes() -> None:
    answers = ["정답： B", "정답： A", "정답： B"] + ["모름"] * 3 + ["정답： C", "모름", "정답： D"] + ["정답： A"] * 6
    engine = Scripted(answers)
    protocol = Reasoning(samples=3, engine=engine)
    results = protocol.score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    assert [result.chosen for result in results] == [1, None, 2, 0, 0]
    assert results[0].generated_tokens == 21
    report = protocol.report(results)
    assert report["unparsed"]["count"] == 1
    assert report["unparsed_samples"] == {"n": 15, "count": 4, "rate": 4 / 15}
    assert engine.sampling == Sampling(1024, 0.7)
    assert len({request.seed for request in engine.requests}) == 15
    assert all(request.text.endswith("풀이：") for request in engine.requests)
    assert all(request.messages[0].content.endswith(REASONING_INSTRUCTION) for request in engine.requests)


@pytest.mark.parametrize("style", ["letters", "options"])
def test_reasoning_reports_direct_answers_beside_the_explained(style: AnswerStyle) -> None:
    """On the same questions, with the paired test; the direct answers are those of the protocols of these names."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    texts = [f"마른 기침은 아니다.\n정답： {'ABCDE'[question.answer]}" for question in QUESTIONS]
    protocol = make_protocol("reasoning", style=style, engine=Scripted(texts))
    results = protocol.score(model, encoder, QUESTIONS)
    direct = make_protocol(style).score(model, encoder, QUESTIONS)
    assert [result.detail["direct"] for result in results] == [result.chosen for result in direct]
    report = protocol.report(results)
    right = sum(result.correct for result in direct)
    against = report["against_direct"]
    assert (against["direct"]["correct"], against["explained"]["correct"]) == (right, 5)
    assert (against["gained"], against["lost"]) == (5 - right, 0)
    assert report["mean_hangul_share"] == 1.0
    named = sum(question.options[question.answer] != "마른 기침" for question in QUESTIONS)
    assert report["contradictions"] == {"n": 5, "count": named}


def test_without_log_probabilities_there_are_no_direct_answers() -> None:
    protocol = Reasoning(engine=Scripted(["정답： A"] * 5))
    results = protocol.score(None, None, QUESTIONS)  # type: ignore[arg-type]  # as with a server
    assert protocol.report(results)["against_direct"] is None


def test_reasoning_is_greedy_with_one_sample() -> None:
    engine = Scripted(["정답： A"] * 5)
    Reasoning(engine=engine).score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    assert engine.sampling == Sampling(1024, 0.0)


@pytest.mark.parametrize("chat", [False, True])
def test_reasoning_is_the_same_by_an_engine(chat: bool) -> None:
    """With the chat template of the engine's model, as vLLM needs it."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer(chat=chat))
    engine = LocalEngine(model, encoder, EngineIdentity("local", "1", "tiny", None))
    settings: dict[str, Any] = {"samples": 2, "max_new_tokens": 8}
    expected = Reasoning(**settings).score(model, encoder, QUESTIONS)
    assert Reasoning(engine=engine, **settings).score(model, encoder, QUESTIONS) == expected
    assert len({result.generation for result in expected}) > 1


@pytest.mark.parametrize(
    ("votes", "winner"), [([1, 2, 2], 2), ([2, 1], 2), ([None, 3], 3), ([None], None), ([4, 1, 1, 4], 4)]
)
def test_majority(votes: list[int | None], winner: int | None) -> None:
    assert majority(votes) == winner


@pytest.mark.parametrize("name", ["lm-eval-3.0", "kormedeval", "reasoning"])
@pytest.mark.parametrize("make_model", [make_text_model, make_multimodal_model])
def test_generating_protocols_run_on_a_model(name: str, make_model) -> None:  # type: ignore[no-untyped-def]
    limit = None if name == "lm-eval-3.0" else 12
    protocol = make_protocol(name, examples=SHOTS, max_new_tokens=limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval, "MAX_NEW_TOKENS", 12)
        results = protocol.score(make_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    assert [result.id for result in results] == [question.id for question in QUESTIONS]
    assert all(0 < result.generated_tokens <= 12 for result in results)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_its_name(name: str) -> None:
    assert make_protocol(name).name == name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("letter", {}, "unknown; allowed: letters, options, cloze"),
        ("options", {"shots": 5}, "'options' has no setting shots; it has: none"),
        ("letters", {"rotations": 3}, "rotations is 3; allowed: 1"),
        ("letters", {"shots": -1}, "shots is -1"),
        ("reasoning", {"samples": 0}, "samples is 0"),
        ("reasoning", {"samples": 3, "temperature": 0.0}, "above 0"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_protocol(name, **settings)  # type: ignore[arg-type]


def test_batches_are_of_one_subject_and_cover_every_question_once() -> None:
    mixed = [ExamQuestion(f"q{i}", "ab"[i % 2], "문" * (i % 7), TEXTS, 0) for i in range(23)]
    groups = batches(mixed, 4)
    assert sorted(i for batch in groups for i in batch) == list(range(23))
    for batch in groups:
        assert len({mixed[i].subject for i in batch}) == 1
        assert len(batch) <= 4
        lengths = [len(mixed[i].question) for i in batch]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_model_with_nan_has_no_score(name: str) -> None:
    model = make_text_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the model's logits are NaN or infinite"):
        make_protocol(name, examples=SHOTS).score(model, TokenEncoder(make_tokenizer()), QUESTIONS)


def test_batches_are_in_the_order_of_subjects_whatever_the_order_of_questions() -> None:
    questions = [replace(QUESTIONS[0], id=str(i), subject=subject) for i, subject in enumerate(["nurse", "doctor"] * 3)]
    assert [[questions[i].subject for i in group] for group in batches(questions, 2)] == [
        *(["doctor", "doctor"], ["doctor"]),
        *(["nurse", "nurse"], ["nurse"]),
    ]
