"""A result and a comparison of two say what plain counting says, whatever the answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorachain.artifacts.evaluation import EvalResult, ScoredModelIdentity
from lorachain.errors import DataError
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.protocols.base import ExamProtocol, QuestionResult
from lorachain.evaluation.protocols.kormedeval import KorMedEval
from lorachain.evaluation.protocols.letters import Letters
from lorachain.evaluation.protocols.options import Options
from lorachain.evaluation.protocols.reasoning import Reasoning
from lorachain.evaluation.results import read_results, summarize
from lorachain.prompts import PROMPT_VERSION
from lorachain.records import LETTERS, ExamQuestion
from reference import exam_statistics as reference

SUBJECTS = ("doctor", "nurse", "dentist")


@dataclass(frozen=True)
class Answered:
    """A question, and what two models answer."""

    subject: str
    gold: int
    a: int | None
    b: int | None


answers = st.builds(
    Answered,
    st.sampled_from(SUBJECTS),
    st.integers(0, 4),
    st.none() | st.integers(0, 4),
    st.none() | st.integers(0, 4),
)


def questions_of(answered: Sequence[Answered]) -> list[ExamQuestion]:
    return [
        ExamQuestion(
            f"q{i}", one.subject, f"{i}?", ("a", "bb", f"{'c' * (i % 5)}", "dddd", "e"), one.gold, exam=f"x{i % 2}"
        )
        for i, one in enumerate(answered)
    ]


def written(
    out: Path,
    questions: Sequence[ExamQuestion],
    chosen: Sequence[int | None],
    protocol: ExamProtocol | None = None,
    *,
    name: str = "a",
    split: str = "dev",
) -> EvalResult:
    rows = [
        QuestionResult(
            question.id,
            question.exam,
            question.subject,
            question.answer,
            choice,
            prompt_tokens=10 + i,
            generated_tokens=i,
            detail={"sum": 0, "per_character": 0},
        )
        for i, (question, choice) in enumerate(zip(questions, chosen, strict=True))
    ]
    model = ScoredModelIdentity(name=name, base_sha256="ab" * 32, adapter_sha256=None, quantization="none")
    return summarize(
        questions, rows, protocol or Options(), out=out, model=model, split=split, selection={}, seconds=1.23456
    )


@settings(max_examples=25)
@given(st.lists(answers, min_size=2, max_size=9))
def test_a_result_counts_what_was_answered(answered: list[Answered]) -> None:
    questions = questions_of(answered)
    with TemporaryDirectory() as folder:
        result = written(Path(folder) / "a.json", questions, [one.a for one in answered])
        stored, rows = read_results(Path(folder) / "a.json")
    assert stored == result
    correct = [one.a == one.gold for one in answered]
    subjects = [one.subject for one in answered]
    n, right = len(correct), sum(correct)
    score = result.score
    assert (score.n, score.correct, score.chance) == (n, right, 0.2)
    assert score.accuracy == reference.micro_accuracy(subjects, correct)
    assert score.wilson95 == pytest.approx(reference.wilson(right, n))
    assert score.p_chance == pytest.approx(reference.two_sided_binomial(right, n, Fraction(1, 5)))
    assert result.macro.accuracy == pytest.approx(reference.macro_accuracy(subjects, correct))
    assert (result.macro.n, result.macro.subjects) == (n, len(set(subjects)))
    assert list(result.per_subject) == sorted(set(subjects)) == list(result.data.subjects)
    for subject, part in result.per_subject.items():
        hits = [hit for of, hit in zip(subjects, correct, strict=True) if of == subject]
        assert (part.n, part.correct, part.accuracy) == (len(hits), sum(hits), sum(hits) / len(hits))
        assert part.wilson95 == pytest.approx(reference.wilson(sum(hits), len(hits)))
    assert result.data.n == n
    assert list(result.data.exams) == sorted({question.exam for question in questions})
    assert (result.tokens.prompt, result.tokens.generated) == (sum(range(10, 10 + n)), sum(range(n)))
    assert result.seconds == 1.235
    assert [(row["id"], row["correct"]) for row in rows] == [
        (q.id, hit) for q, hit in zip(questions, correct, strict=True)
    ]
    assert [row["gold"] for row in rows] == [LETTERS[one.gold] for one in answered]
    assert [row["chosen"] for row in rows] == [None if one.a is None else LETTERS[one.a] for one in answered]
    golds = [one.gold for one in answered]
    majority = result.baselines.always_majority_letter
    assert majority.correct == golds.count(LETTERS.index(majority.letter)) == max(map(golds.count, golds))
    longest = [max(range(5), key=lambda i, q=question: len(q.options[i])) for question in questions]  # type: ignore[misc]
    assert result.baselines.always_longest_option.correct == sum(map(int.__eq__, longest, golds))


@settings(max_examples=25)
@given(st.lists(answers, min_size=2, max_size=9))
def test_a_comparison_counts_who_answers_what(answered: list[Answered]) -> None:
    questions = questions_of(answered)
    with TemporaryDirectory() as name:
        folder = Path(name)
        written(folder / "a.json", questions, [one.a for one in answered], name="before")
        written(folder / "b.json", questions, [one.b for one in answered], name="after")
        comparison = compare_results(folder / "a.json", folder / "b.json")
        again = compare_results(folder / "a.json", folder / "b.json")
    a, b = ([one.a == one.gold for one in answered], [one.b == one.gold for one in answered])
    n = len(answered)
    for side, hits, model in ((comparison.a, a, "before"), (comparison.b, b, "after")):
        assert (side.n, side.correct, side.accuracy, side.model.name) == (n, sum(hits), sum(hits) / n, model)
        assert side.wilson95 == pytest.approx(reference.wilson(sum(hits), n))
    assert comparison.difference == pytest.approx(sum(b) / n - sum(a) / n)
    assert comparison.mcnemar_p == pytest.approx(reference.exact_mcnemar(a, b))
    ids = [question.id for question in questions]
    assert [flip.id for flip in comparison.gained] == [ids[i] for i in range(n) if b[i] and not a[i]]
    assert [flip.id for flip in comparison.lost] == [ids[i] for i in range(n) if a[i] and not b[i]]
    for flip in (*comparison.gained, *comparison.lost):
        one = answered[ids.index(flip.id)]
        shown = [None if choice is None else LETTERS[choice] for choice in (one.a, one.b)]
        assert (flip.gold, [flip.a, flip.b]) == (LETTERS[one.gold], shown)
    assert comparison.bootstrap95 is not None
    differences = [float(y) - float(x) for x, y in zip(a, b, strict=True)]
    if len(set(differences)) > 1:
        assert reference.plausible_interval(reference.resampled_mean(differences), comparison.bootstrap95)
    assert comparison == again


def test_the_interval_of_a_comparison_depends_on_the_seed(tmp_path: Path) -> None:
    many = [Answered("doctor", 0, (i * 7) % 5 % 2, (i * 11) % 7 % 2) for i in range(499)]
    questions = questions_of(many)
    written(tmp_path / "a.json", questions, [one.a for one in many])
    written(tmp_path / "b.json", questions, [one.b for one in many])
    paths = tmp_path / "a.json", tmp_path / "b.json"
    intervals = {compare_results(*paths, seed=seed).bootstrap95 for seed in range(4)}
    assert len(intervals) > 1
    assert compare_results(*paths).bootstrap95 == compare_results(*paths, seed=0).bootstrap95


def test_one_question_has_no_interval(tmp_path: Path) -> None:
    questions = questions_of([Answered("doctor", 0, 0, 1)])
    written(tmp_path / "a.json", questions, [0])
    written(tmp_path / "b.json", questions, [1])
    comparison = compare_results(tmp_path / "a.json", tmp_path / "b.json")
    assert (comparison.bootstrap95, comparison.difference, comparison.mcnemar_p) == (None, -1, 1)


@pytest.mark.parametrize("changed", [0, 1, 5])
@pytest.mark.parametrize(
    "change", [{"question": "anders?"}, {"answer": 4}, {"options": ("1", "2", "3", "4", "5")}, {"id": "q99"}]
)
def test_results_of_other_questions_are_not_compared(tmp_path: Path, changed: int, change: dict[str, Any]) -> None:
    """Wherever in the exam the question is that differs."""
    questions = questions_of([Answered("doctor", i % 4, 0, 0) for i in range(6)])
    others = [replace(question, **change) if i == changed else question for i, question in enumerate(questions)]
    a = written(tmp_path / "a.json", questions, [0] * 6)
    b = written(tmp_path / "b.json", others, [0] * 6)
    assert a.data.sha256 != b.data.sha256
    with pytest.raises(DataError, match="differ in questions: 6 with hash"):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (KorMedEval(max_new_tokens=512), KorMedEval(max_new_tokens=1024)),
        (Reasoning(max_new_tokens=512), Reasoning(max_new_tokens=1024)),
        (Reasoning(samples=3), Reasoning(samples=5)),
        (Reasoning(samples=3, temperature=0.7), Reasoning(samples=3, temperature=1.0)),
        (Reasoning(samples=3, seed=0), Reasoning(samples=3, seed=1)),
        (Letters(shots=0), Letters(shots=5)),
        (Letters(orders=1), Letters(orders=5)),
    ],
    ids=lambda protocol: f"{protocol.name}-{protocol.settings}",
)
def test_a_setting_that_changes_answers_prevents_a_comparison(
    tmp_path: Path, one: ExamProtocol, other: ExamProtocol
) -> None:
    assert one.settings != other.settings
    questions = questions_of([Answered("doctor", 0, 0, 0)] * 3)
    written(tmp_path / "a.json", questions, [0] * 3)
    stored = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    for name, protocol in (("a", one), ("b", other)):
        stored |= {"protocol": protocol.name, "protocol_version": protocol.version, "settings": protocol.settings}
        (tmp_path / f"{name}.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(DataError, match="differ in settings"):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")


def test_results_of_other_prompts_are_not_compared(tmp_path: Path) -> None:
    questions = questions_of([Answered("doctor", 0, 0, 0)] * 3)
    for name in "abc":
        written(tmp_path / f"{name}.json", questions, [0] * 3)
    stored = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    others = {"b": stored | {"prompt_version": PROMPT_VERSION + 1}, "c": stored | {"schema_version": 3}}
    del others["c"]["prompt_version"]  # as it was before there was one
    for name, values in others.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(DataError, match=f"differ in prompt version: {PROMPT_VERSION} and {PROMPT_VERSION + 1}"):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")
    assert read_results(tmp_path / "c.json")[0].prompt_version == 1
    if PROMPT_VERSION == 1:
        assert compare_results(tmp_path / "a.json", tmp_path / "c.json").prompt_version == 1


def test_a_setting_that_changes_no_answer_is_none() -> None:
    """A greedy answer has no temperature and no seed."""
    assert Reasoning(temperature=0.1, seed=3).settings == Reasoning().settings == {
        "samples": 1, "max_new_tokens": 1024
    }  # fmt: skip
    assert KorMedEval().settings == {"max_new_tokens": 1024}
    assert Options().settings == {}


def test_a_result_without_an_engine_is_of_our_own(tmp_path: Path) -> None:
    """Results from before there were engines do not compare with those of a server."""
    questions = questions_of([Answered("doctor", 0, 0, 1)] * 3)
    for name in ("own", "server"):
        written(tmp_path / f"{name}.json", questions, [0, 1, 2], name=name)
    path = tmp_path / "server.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["model"]["engine"] is None
    stored["model"]["engine"] = "openai"
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(DataError, match="differ in engine"):
        compare_results(tmp_path / "own.json", path)
