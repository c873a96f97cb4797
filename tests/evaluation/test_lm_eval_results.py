"""`compare` with results of lm-evaluation-harness: matched by content, the same paired test, one message where not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.errors import DataError
from lorachain.evaluation.comparable import our_result, paired
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.lm_eval_results import is_lm_eval, lm_eval_result
from lorachain.evaluation.protocols.generated import written_row
from lorachain.evaluation.protocols.lm_eval import LmEval
from lorachain.evaluation.results import summarize
from lorachain.records import LETTERS, ExamQuestion

DATE = "2026-11-26T02-15-32.123456"
QUESTIONS = [
    ExamQuestion(
        f"q{i}", "doctor", f"열이 나는 환자 {i}?", ("가", "나", "다", f"라{i}", "마"), i % 5, exam="kormedmcqa"
    )
    for i in range(12)
]
Sample = dict[str, Any]


def sample(number: int, question: ExamQuestion, letter: str, **changes: Any) -> Sample:
    """A line of samples_*.jsonl, as lm-eval 0.4.13 writes it for kormedmcqa."""
    document = {
        **{"subject": question.subject, "year": 2020, "period": 1, "q_number": number},
        **{"question": f" {question.question} ", "answer": question.answer + 1, "cot": ""},
        **dict(zip(LETTERS, question.options, strict=True)),
    }
    return {
        **{"doc_id": number, "doc": document, "target": question.answer_letter, "arguments": {}, "resps": [[letter]]},
        **{"filtered_resps": [letter], "filter": "extract_answer", "metrics": ["exact_match"]},
        "exact_match": float(letter == question.answer_letter),
        **changes,
    }


def write_run(
    folder: Path,
    letters: str,
    *,
    questions: list[ExamQuestion] = QUESTIONS,
    task: str = "kormedmcqa_doctor",
    shots: int = 5,
    version: float = 3.0,
    edit: Callable[[Sample], Sample] = lambda row: row,
) -> Path:
    """What lm-eval leaves of one run of one task."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [sample(i, question, letters[i]) for i, question in enumerate(questions)]
    rows.reverse()  # the order is the harness's
    text = "".join(json.dumps(edit(row), ensure_ascii=False) + "\n" for row in rows)
    path = folder / f"samples_{task}_{DATE}.jsonl"
    path.write_text(text, encoding="utf-8")
    results_file = folder / f"results_{DATE}.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {"configs": {}}
    results |= {"model_name": "google/gemma-3-270m", "lm_eval_version": "0.4.13"}
    results["configs"][task] = {"task": task, "test_split": "test", "generation_kwargs": {"max_gen_toks": 1024}}
    results["versions"] = results.get("versions", {}) | {task: version}
    results["n-shot"] = results.get("n-shot", {}) | {task: shots}
    results_file.write_text(json.dumps(results))
    return path


def write_ours(path: Path, letters: str, questions: list[ExamQuestion] = QUESTIONS, split: str = "test") -> Path:
    rows = [
        written_row(q, letter, LETTERS.index(letter), prompt_tokens=1, generated_tokens=1, ended=True)
        for q, letter in zip(questions, letters, strict=True)
    ]
    identity = ScoredModelIdentity(name="02", base_sha256="ab", adapter_sha256="cd", quantization="none")
    summarize(questions, rows, LmEval(), out=path, model=identity, split=split, selection={}, seconds=1.0)
    return path


RIGHT = "".join(question.answer_letter for question in QUESTIONS)
ONE_LESS = ("B" if RIGHT[0] == "A" else "A") + RIGHT[1:]


def test_ours_against_the_harness_is_the_paired_test_of_the_same_questions(tmp_path: Path) -> None:
    theirs, ours = write_run(tmp_path / "gemma", ONE_LESS), write_ours(tmp_path / "02.json", RIGHT)
    comparison = compare_results(theirs, ours)
    assert (comparison.protocol, comparison.protocol_version, comparison.n) == ("lm-eval-3.0", "3.0", 12)
    assert comparison.settings == {"shots": 5, "max_new_tokens": 1024}
    assert comparison.a.model.name == "google/gemma-3-270m (lm-eval 0.4.13)"
    assert (comparison.a.correct, comparison.b.correct) == (11, 12)
    assert [(flip.id, flip.gold, flip.a, flip.b) for flip in comparison.gained] == [("0", "A", "B", "A")]
    assert comparison.lost == ()
    back = compare_results(ours, theirs)
    assert [(flip.id, flip.a, flip.b) for flip in back.lost] == [("q0", "A", "B")]
    assert back.mcnemar_p == comparison.mcnemar_p
    two_of_ours = compare_results(write_ours(tmp_path / "base.json", ONE_LESS), ours)
    assert two_of_ours.bootstrap95 is not None
    assert (two_of_ours.difference, two_of_ours.mcnemar_p) == (comparison.difference, comparison.mcnemar_p)


def test_a_directory_has_all_tasks_of_a_run(tmp_path: Path) -> None:
    for folder, letters in (("a", ONE_LESS), ("b", RIGHT)):
        write_run(tmp_path / folder, letters[:6], questions=QUESTIONS[:6])
        write_run(tmp_path / folder, letters[6:], questions=QUESTIONS[6:], task="kormedmcqa_nurse")
    comparison = compare_results(tmp_path / "a", tmp_path / "b")
    assert (comparison.n, comparison.a.correct, comparison.b.correct) == (12, 11, 12)


def test_a_multiple_choice_task(tmp_path: Path) -> None:
    def likelihoods(row: Sample) -> Sample:
        chosen = row["filtered_resps"][0]
        answers = [[str(-1.0 if letter == chosen else -9.0), "False"] for letter in LETTERS]
        return {**row, "filtered_resps": answers, "acc": row.pop("exact_match")}

    a = write_run(tmp_path / "a", ONE_LESS, task="my_exam", edit=likelihoods)
    b = write_run(tmp_path / "b", RIGHT, task="my_exam", edit=likelihoods)
    comparison = compare_results(a, b)
    assert comparison.protocol == "lm-eval task my_exam"
    assert [(flip.a, flip.b) for flip in comparison.gained] == [("B", "A")]


def without(key: str) -> Callable[[Sample], Sample]:
    return lambda row: {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"questions": QUESTIONS[:11]}, r"0 of 11 questions are only in the first, 1 of 12 only in the second.*q11"),
        ({"edit": lambda row: {**row, "doc": {**row["doc"], "E": "바"}}}, "12 of 12 questions are only in the first"),
        (
            {"edit": lambda row: {**row, "doc": {**row["doc"], "answer": 1}}},
            "questions are only in the first.*열이 나는",
        ),
        ({"shots": 0}, r"differ in settings: .*'shots': 0.* and .*'shots': 5"),
        ({"version": 2.0}, "differ in protocol: lm-eval task kormedmcqa and lm-eval-3.0"),
        ({"task": "other"}, "differ in protocol: lm-eval task other and lm-eval-3.0"),
        ({"edit": without("doc")}, "line 1: not a sample of a five-option exam"),
        ({"edit": without("exact_match")}, "line 1: .*it has no exact_match or acc"),
        ({"edit": lambda row: {**row, "doc": {"question": "x"}}}, "line 1: not a sample of a five-option exam"),
        ({"edit": lambda row: {**row, "doc": {**row["doc"], "answer": 9}}}, "its answer is 9"),
        ({"edit": lambda row: {**row, "filter": row["doc_id"]}}, "answers by several filters"),
        ({"questions": []}, "has no samples"),
    ],
)
def test_what_cannot_be_compared_is_one_message(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    theirs = write_run(tmp_path / "theirs", RIGHT, **changes)
    with pytest.raises(DataError, match=f"(?s){says}"):
        compare_results(theirs, write_ours(tmp_path / "02.json", RIGHT))


def test_another_split(tmp_path: Path) -> None:
    theirs = write_run(tmp_path / "theirs", RIGHT)
    with pytest.raises(DataError, match="differ in split: test and dev"):
        compare_results(theirs, write_ours(tmp_path / "02.json", RIGHT, split="dev"))


def test_files_that_are_missing_or_too_many(tmp_path: Path) -> None:
    assert not is_lm_eval(tmp_path / "02.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no samples_\*\.jsonl .*--log_samples"):
        lm_eval_result(tmp_path / "empty")
    path = write_run(tmp_path / "run", RIGHT)
    later = path.with_name(path.name.replace("02-15", "03-15"))
    later.write_text(path.read_text())
    with pytest.raises(DataError, match="has 2 runs of lm-evaluation-harness"):
        lm_eval_result(tmp_path / "run")
    with pytest.raises(DataError, match=r"results_2026-11-26T03-15-32.*cannot be read"):
        lm_eval_result(later)
    (tmp_path / "run" / f"results_{DATE}.json").write_text("[]")
    with pytest.raises(DataError, match="is not a results file"):
        lm_eval_result(path)
    path.write_bytes(b"\xff\xfe\n")
    (tmp_path / "run" / f"results_{DATE}.json").write_text('{"configs": {}}')
    with pytest.raises(DataError, match="line 1"):
        lm_eval_result(path)


def test_tasks_that_were_run_differently(tmp_path: Path) -> None:
    write_run(tmp_path, RIGHT)
    write_run(tmp_path, RIGHT, task="kormedmcqa_nurse", shots=0)
    with pytest.raises(DataError, match="not run in the same way"):
        lm_eval_result(tmp_path)


def test_a_result_of_before_has_no_content(tmp_path: Path) -> None:
    ours = our_result(write_ours(tmp_path / "02.json", RIGHT))
    old = replace(ours, rows=tuple(replace(row, content=None) for row in ours.rows))
    assert len(paired(old, ours)) == 12  # by their order, as always
    with pytest.raises(DataError, match=r"02\.json was written before questions were recorded by their content"):
        paired(old, lm_eval_result(write_run(tmp_path, RIGHT)))


def test_a_question_that_is_asked_twice_counts_twice(tmp_path: Path) -> None:
    questions = [QUESTIONS[0], replace(QUESTIONS[0], id="again"), *QUESTIONS[1:3]]
    theirs = write_run(tmp_path, "BABC", questions=questions)
    ours = write_ours(tmp_path / "02.json", "AABC", questions)
    assert compare_results(theirs, ours).n == 4
    with pytest.raises(DataError, match="1 of 4 questions are only in the first"):
        compare_results(theirs, write_ours(tmp_path / "less.json", "ABC", questions[1:]))
