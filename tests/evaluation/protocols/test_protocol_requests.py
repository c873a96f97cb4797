"""What a protocol asks of a model: where a text stops, how long it may be, and the seed of every sample."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval as harness
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_text_model, make_tokenizer
from lorachain.errors import ConfigError
from lorachain.evaluation.protocols import kormedeval, lm_eval
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.evaluation.protocols.kormedeval import KorMedEval
from lorachain.evaluation.protocols.lm_eval import LmEval
from lorachain.evaluation.protocols.reasoning import Reasoning
from lorachain.evaluation.protocols.registry import make_protocol
from lorachain.inference.engines.base import Completion, EngineIdentity, Sampling, TextRequest
from lorachain.inference.generate import Generation
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "기침", "두통", "구토", "발진")
QUESTIONS = [ExamQuestion(f"q{i}", "doctor", f"증상 {i}?", TEXTS, i % 5, exam=exam) for i, exam in enumerate("xxyyz")]


class Recorder:
    """An engine that keeps its requests; each text says which request it continues."""

    identity = EngineIdentity("recorder", "1", "none", None)

    def __init__(self) -> None:
        self.requests: list[TextRequest] = []
        self.sampling: Sampling | None = None
        self.stop: Any = None

    def complete(self, requests: Sequence[TextRequest], sampling: Sampling, *, stop: Any, on_completion: Any) -> None:
        self.requests, self.sampling, self.stop = list(requests), sampling, stop
        for index in range(len(requests)):
            on_completion(index, Completion(f"{index}", index, "stop" if index % 2 else "length"))


def asked(questions: Sequence[ExamQuestion], **settings: Any) -> Recorder:
    engine = Recorder()
    Reasoning(engine=engine, **settings).score(None, None, questions)  # type: ignore[arg-type]
    return engine


def seeds_by_question(questions: Sequence[ExamQuestion], **settings: Any) -> dict[tuple[str, str], list[int]]:
    requests = asked(questions, **settings).requests
    samples = settings.get("samples", 1)
    return {
        (question.exam, question.id): [request.seed for request in requests[i * samples : (i + 1) * samples]]
        for i, question in enumerate(questions)
    }


@given(st.permutations(range(5)), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_a_sample_has_its_own_seed_whatever_else_is_evaluated(
    order: list[int], count: int, samples: int, seed: int
) -> None:
    """Otherwise the same question would be answered otherwise in another selection, and after an interruption."""
    everything = seeds_by_question(QUESTIONS, samples=samples, seed=seed)
    assert len({seed for seeds in everything.values() for seed in seeds}) == 5 * samples
    chosen = [QUESTIONS[i] for i in order[:count]]
    assert seeds_by_question(chosen, samples=samples, seed=seed) == {
        (q.exam, q.id): everything[q.exam, q.id] for q in chosen
    }
    more = seeds_by_question(chosen, samples=samples + 1, seed=seed)
    assert {key: seeds[:samples] for key, seeds in more.items()} == seeds_by_question(
        chosen, samples=samples, seed=seed
    )


def test_another_seed_or_exam_draws_other_samples() -> None:
    (seeds,) = seeds_by_question(QUESTIONS[:1], samples=3, seed=0).values()
    (others,) = seeds_by_question(QUESTIONS[:1], samples=3, seed=1).values()
    same_id = ExamQuestion("q0", "doctor", "증상 0?", TEXTS, 0, exam="another")
    (of_another_exam,) = seeds_by_question([same_id], samples=3, seed=0).values()
    assert len({*seeds, *others, *of_another_exam}) == 9


def test_every_request_asks_its_own_question() -> None:
    engine = asked(QUESTIONS, samples=2)
    wanted = [f"증상 {i}?" for i in range(5) for _ in range(2)]
    assert [text in request.text for text, request in zip(wanted, engine.requests, strict=True)] == [True] * 10
    assert [text in request.messages[0].content for text, request in zip(wanted, engine.requests, strict=True)] == [
        True
    ] * 10


def test_votes_and_texts_belong_to_the_question_that_was_asked() -> None:
    engine = Recorder()
    results = Reasoning(samples=3, engine=engine).score(None, None, QUESTIONS[:2])  # type: ignore[arg-type]
    assert [result.generation for result in results] == ["0\n----\n1\n----\n2", "3\n----\n4\n----\n5"]
    assert [result.generated_tokens for result in results] == [0 + 1 + 2, 3 + 4 + 5]
    assert [result.detail["ended"] for result in results] == [False, False]
    (one,) = Reasoning(engine=Recorder()).score(None, None, QUESTIONS[:1])  # type: ignore[arg-type]
    assert (one.detail["ended"], one.detail["votes"]) == (False, [None])


def test_reasoning_stops_after_its_answer_line_and_not_before() -> None:
    stop = asked(QUESTIONS, max_new_tokens=77).stop
    for text in ("", "풀이: 열이 난다.\n\n", "정답： B", "정답：", "정답： A. 열"):
        assert not stop(text), text
    for text in ("정답： B\n", "풀이.\n정답： A. 열\n더"):
        assert stop(text), text
    assert asked(QUESTIONS, max_new_tokens=77).sampling == Sampling(77, 0.0)
    assert asked(QUESTIONS, samples=2, temperature=0.3).sampling == Sampling(1024, 0.3)


def generation_arguments(monkeypatch: pytest.MonkeyPatch, module: Any, protocol: Any) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []

    def generate(model: Any, encoder: Any, prompts: Any, **arguments: Any) -> list[Generation]:
        calls.append(arguments)
        return [Generation("A", 1, True) for _ in prompts]

    monkeypatch.setattr(module, "generate", generate)
    protocol.score(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    return calls[0]


def test_kormedeval_does_not_stop_before_the_end_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last object counts: what looks like an answer may be followed by another."""
    arguments = generation_arguments(monkeypatch, kormedeval, KorMedEval(max_new_tokens=99, token_budget=123))
    for text in ("", '{"정답": "A"}', '{"정답": "A"}\n\n', "\\boxed{A}", "정답： A\n"):
        assert not arguments["stop"](text), text
    assert (arguments["max_new_tokens"], arguments["token_budget"]) == (99, 123)
    assert arguments.get("temperature", 0.0) == 0.0


def test_lm_eval_stops_where_and_as_late_as_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(harness.__file__).parent / "tasks" / "kormedmcqa"
    published = yaml.safe_load(
        (folder / "_template_yaml").read_text(encoding="utf-8").replace("!function", "")
    )["generation_kwargs"]  # fmt: skip
    protocol = LmEval(shots=0, token_budget=123)
    arguments = generation_arguments(monkeypatch, lm_eval, protocol)
    assert arguments["max_new_tokens"] == published["max_gen_toks"] == protocol.settings["max_new_tokens"] == 1024
    assert arguments["token_budget"] == 123
    assert arguments.get("temperature", 0.0) == published["temperature"] == 0.0
    assert tuple(published["until"]) == lm_eval.STOPS
    for stop in (*published["until"], "<eos>"):
        assert arguments["stop"](f"A{stop}"), stop
    for text in ("", "A", "정답: B", "A\nB", "Q", "<eos"):
        assert not arguments["stop"](text), text


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("letters", {"shown": [0]}),
        ("options", {"sum": 0, "per_character": 1}),
        ("cloze", {"sum": 0, "per_character": 1, "pmi": 1}),
        ("lm-eval-3.0", {"ended": True}),
        ("kormedeval", {"ended": True}),
        ("reasoning", {"ended": True, "votes": [0]}),
    ],
)
def test_a_single_question_has_a_report(name: str, detail: dict[str, Any]) -> None:
    protocol = make_protocol(name, examples={})
    protocol.detail_type.model_validate(detail, strict=True)
    report = protocol.report([QuestionResult("q", "x", "doctor", 0, 0, generated_tokens=5, detail=detail)])
    if name in ("options", "cloze"):
        assert {reading: one["correct"] for reading, one in report["readings"].items()} == {
            reading: int(choice == 0) for reading, choice in detail.items()
        }
    elif name == "letters":
        assert report["chosen_letters"]["A"] == report["accuracy_by_gold_letter"]["A"]["correct"] == 1
        assert "agreement" not in report
    else:
        assert report["generated_tokens_per_question"] == 5
        assert report["cut_at_limit"]["count"] == report["unparsed"]["count"] == 0


# ---- settings --------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "shots": 1, "rotations": 5, "samples": 2, "temperature": 0.5, "max_new_tokens": 7, "engine": Recorder()
}  # fmt: skip
HAS: dict[str, set[str]] = {
    "letters": {"shots", "rotations"},
    "options": set(),
    "cloze": set(),
    "lm-eval-3.0": {"shots"},
    "kormedeval": {"max_new_tokens"},
    "reasoning": {"samples", "temperature", "max_new_tokens", "engine"},
}


@pytest.mark.parametrize(("name", "setting"), itertools.product(HAS, SETTINGS))
def test_a_protocol_has_its_own_settings_and_refuses_every_other(name: str, setting: str) -> None:
    """A setting that is silently ignored would be believed to have been used."""
    given = {setting: SETTINGS[setting]}
    if setting not in HAS[name]:
        with pytest.raises(ConfigError, match=f"'{name}' has no setting {setting}; it has: ") as refused:
            make_protocol(name, **given)
        said = str(refused.value).partition("it has: ")[2].split(", ")
        assert {*said} - {"seed"} == (HAS[name] or {"none"})
        return
    protocol = make_protocol(name, token_budget=99, **given)
    attribute = "orders" if setting == "rotations" else setting
    assert getattr(protocol, attribute) == SETTINGS[setting]
    assert getattr(protocol, "token_budget") == 99  # noqa: B009 - not of every protocol's type
    assert protocol.name == name


@pytest.mark.parametrize("name", HAS)
def test_a_seed_is_used_by_what_draws_and_ignored_by_the_others(name: str) -> None:
    protocol = make_protocol(name, seed=5)
    assert getattr(protocol, "seed", 5) == 5


@pytest.mark.parametrize("name", ["letters", "lm-eval-3.0"])
def test_worked_examples_reach_the_protocol(name: str) -> None:
    shots = {"doctor": QUESTIONS[:1]}
    protocol = make_protocol(name, shots=1, examples=shots)
    assert getattr(protocol, "examples") == shots  # noqa: B009
