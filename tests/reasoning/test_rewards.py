"""Rewards cannot be earned without answering: strategies that know nothing score at chance or below."""

import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lorachain.data.exam import load_exam
from lorachain.evaluation.statistics import differs_from_chance
from lorachain.export.rewards import export_rewards
from lorachain.prompts import options_depend_on_order
from lorachain.reasoning.orders import in_order, sample_order
from lorachain.reasoning.rewards import answer_reward, format_reward, language_reward, shuffle_reward
from lorachain.reasoning.sample import question_key
from lorachain.records import LETTERS, ExamQuestion

REASONING = "환자의 증상과 검사 소견을 차례로 살펴보면 이 보기가 가장 알맞다."


def shown_questions(orders: int = 2) -> list[ExamQuestion]:
    """The embedded questions, each in orders whose right letters are spread evenly."""
    questions = [
        question for question in load_exam(["sample"], "train").questions if not options_depend_on_order(question)
    ]
    return [in_order(question, sample_order(question, number, 1)) for question in questions for number in range(orders)]


def columns(questions: list[ExamQuestion]) -> dict[str, Any]:
    return {
        "question": [question.question for question in questions],
        "options": [list(question.options) for question in questions],
        "answer": [question.answer for question in questions],
        "question_id": [question_key(question) for question in questions],
    }


def answered(question: ExamQuestion, number: int, reasoning: str = REASONING) -> str:
    return f"{reasoning}\n정답： {LETTERS[number]}. {question.options[number]}"


STRATEGIES: dict[str, Callable[[ExamQuestion], str]] = {
    "always A": lambda question: answered(question, 0),
    "longest option": lambda question: answered(question, max(range(5), key=lambda i: len(question.options[i]))),
    "letter spam": lambda question: "A B C D E " * 20 + "\n정답： A, B, C, D, E",
    "all answers": lambda question: REASONING + "".join(f"\n정답： {letter}" for letter in LETTERS),
    "empty reasoning": lambda question: answered(question, question.answer, ""),
    "English": lambda question: answered(question, question.answer, "The patient has typical symptoms of it."),
    "no answer line": lambda question: f"{REASONING} {question.answer_text}",
    "looping": lambda question: answered(question, question.answer, REASONING * 30),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_without_knowledge_earns_at_most_chance(name: str) -> None:
    questions = shown_questions()
    completions = [STRATEGIES[name](question) for question in questions]
    for reward in (answer_reward, shuffle_reward):
        earned = sum(reward(completions, **columns(questions)))
        # Of n completions with one chance in five each; more than that must be luck (exact binomial test).
        assert earned <= len(questions) / 5 or differs_from_chance(round(earned), len(questions)) > 0.001
    assert set(answer_reward(completions, **columns(questions))) <= {0.0, 1.0}


@pytest.mark.parametrize("conversational", [False, True])
def test_a_right_answer_with_reasoning_earns_everything(conversational: bool) -> None:
    questions = shown_questions()
    texts: list[Any] = [answered(question, question.answer) for question in questions]
    if conversational:
        texts = [[{"role": "assistant", "content": f"풀이： {text}"}] for text in texts]
    for reward in (answer_reward, format_reward, language_reward, shuffle_reward):
        assert reward(texts, **columns(questions)) == [1.0] * len(questions)


def test_shuffles_reward_agreement_over_the_orders_of_a_question() -> None:
    questions = shown_questions()[:2]
    assert question_key(questions[0]) == question_key(questions[1])
    right, wrong = (answered(questions[0], questions[0].answer), answered(questions[1], (questions[1].answer + 1) % 5))
    assert shuffle_reward([right, wrong], **columns(questions)) == [0.0, 0.0]
    assert shuffle_reward([right], **{name: values[:1] for name, values in columns(questions).items()}) == [1.0]


def test_random_answers_earn_chance() -> None:
    questions, rng = shown_questions(), random.Random(0)
    earned = sum(answer_reward([answered(q, rng.randrange(5)) for q in questions], **columns(questions)))
    assert differs_from_chance(round(earned), len(questions)) > 0.001


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lorachain_rewards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export_rewards(load_exam(["sample"], "train").questions[:20], tmp_path / "rewards", orders=2, seed=0)
    return tmp_path / "rewards"


def test_rows_and_reward_file_work_together(exported: Path) -> None:
    """As TRL calls it: the prompt's columns, repeated for each completion, as keyword arguments."""
    datasets = pytest.importorskip("datasets")
    module = load(exported / "lorachain_rewards.py")
    rows = datasets.load_dataset("json", data_dir=str(exported / "trl"), split="train")
    assert len(rows) == 40
    assert rows[0]["prompt"][0]["role"] == "user"
    completions = [[{"role": "assistant", "content": f"{REASONING}\n정답： {row['solution']}"}] for row in rows]
    given = {name: rows[name] for name in rows.column_names if name != "prompt"}
    assert module.answer_reward(completions=completions, prompts=rows["prompt"], **given) == [1.0] * 40


@pytest.mark.parametrize("name", ["swift.rewards", "swift.plugin"])
def test_ms_swift_finds_the_rewards_by_name(exported: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With a stand-in for swift's plugin interface: a registry, and a base class that is called."""
    package, plugin = ModuleType("swift"), ModuleType(name)
    registry: dict[str, Any] = {}
    plugin.__dict__.update(ORM=type("ORM", (), {}), orms=registry)
    monkeypatch.setitem(sys.modules, "swift", package)
    monkeypatch.setitem(sys.modules, name, plugin)
    load(exported / "lorachain_rewards.py")
    assert sorted(registry) == ["lorachain_answer", "lorachain_format", "lorachain_language", "lorachain_shuffle"]
    line = (exported / "swift" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    row = json.loads(line)
    messages = row.pop("messages")
    batch = {key: [value] for key, value in row.items()}
    completion = f"{REASONING}\n정답： {row['solution']}"
    assert registry["lorachain_answer"]()([completion], messages=[messages], **batch) == [1.0]


def test_the_rows_hold_each_question_in_different_orders(exported: Path) -> None:
    rows = [json.loads(line) for line in (exported / "trl" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["question_id"], []).append(row)
    assert all(len(group) == 2 for group in by_question.values())
    assert all(a["answer"] != b["answer"] for a, b in by_question.values())
    assert all(a["options"][a["answer"]] == b["options"][b["answer"]] for a, b in by_question.values())
