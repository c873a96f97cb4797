"""A writing run: what is drawn, selected and published, resumed after any interruption, and added to."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reasoning_making import GOOD, QUESTION, SETTINGS, ScriptedEngine, named, right, verifier, writer

from lorachain.artifacts.reasoning import ReasoningInputs, ReasoningReport, WriterIdentity
from lorachain.data.exam import load_exam
from lorachain.errors import DataError
from lorachain.inference.engines.base import Completion, Sampling, TextRequest
from lorachain.reasoning.journal import ReasoningJournal
from lorachain.reasoning.orders import in_order, sample_order
from lorachain.reasoning.publish import publish_reasoning
from lorachain.reasoning.sample import Sample, question_key
from lorachain.reasoning.write import kept_questions, write_reasoning
from lorachain.reasoning.writer import WritingSettings
from lorachain.records import ExamQuestion

INPUTS = ReasoningInputs(
    writer=WriterIdentity(engine="scripted", version="1", model="test", weights_sha256=None),
    scorer_sha256="s", questions="q", held_out="h", examples="e", dictionary="d", settings={}, answer_style="options",
    seed=0,
)  # fmt: skip


def test_a_prompt_version_changes_what_work_in_progress_belongs_to_but_the_first_does_not() -> None:
    """Journals and fingerprints from before there was a version are of the first."""
    assert "prompt_version" not in INPUTS.identity()
    assert INPUTS.model_copy(update={"prompt_version": 2}).identity() == {**INPUTS.identity(), "prompt_version": 2}
    assert INPUTS.as_dict()["prompt_version"] == 1


EASE = ("항상", "가끔", "전혀")


def questions(count: int) -> list[ExamQuestion]:
    """Questions of two subjects; the writer solves a third of them always, a third sometimes, and a third never."""
    return [
        replace(
            QUESTION,
            id=f"doctor-2020-1-{i}",
            subject="doctor" if i % 2 else "nurse",
            question=f"{i}번째 문제: {EASE[i % 3]} 풀리는 환자의 진단은 무엇인가?",
        )
        for i in range(count)
    ]


def answer(question: ExamQuestion) -> str:
    wording = f"{GOOD} {''.join(question.options)} 순서로 검토하였다."  # differs from sample to sample
    luck = random.Random("".join(question.options) + question.question).random()
    solved = {"항상": True, "가끔": luck < 0.6, "전혀": False}[question.question.split()[2]]
    wrong = "ABCDE"[(question.answer + 1) % 5]
    text = wording + " 결국 " + (question.answer_text if solved else question.options["ABCDE".index(wrong)])
    return f" {text}{named(question, question.answer_letter if solved else wrong)}"


def asked_again(question: ExamQuestion) -> str:
    return right(question) if "전혀" not in question.question else f" {GOOD}\n정답： 모름"


class Engine(ScriptedEngine):
    """Samples as `answer`, greedily as `asked_again`; fails after a number of completions."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(answer)
        self.left = fail_after

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        self.answer = answer if sampling.temperature else asked_again

        def counted(i: int, completion: Completion) -> None:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            on_completion(i, completion)

        super().complete(requests, sampling, stop=stop, on_completion=counted)


def run(
    path: Path, asked: list[ExamQuestion], *, fail_after: int | None = None, settings: WritingSettings = SETTINGS
) -> list[Sample]:
    engine = Engine(fail_after)
    journal = ReasoningJournal(path, {"identity": "one"})
    finished = journal.read()
    assert finished is not None
    return write_reasoning(
        asked,
        writer(engine, settings),
        verifier(engine),
        finished,
        store=journal.append,
        on_progress=lambda drawn, passed: None,
    )


def publish(folder: Path, asked: list[ExamQuestion], samples: list[Sample]) -> ReasoningReport:
    folder.mkdir()
    return publish_reasoning(
        folder, samples, {question_key(q): q for q in asked}, inputs=INPUTS, fingerprint="f", by_parent=True,
        samples_per_question=4, skipped={}, licence="none", sources=(), exam_sources=(), dictionary_sources=(),
    )  # fmt: skip


def test_the_funnel_counts_every_sample(tmp_path: Path) -> None:
    asked = questions(40)
    samples = run(tmp_path / "journal", asked)
    report = publish(tmp_path / "out", asked, samples)
    total = report.total
    assert total.drawn == len(samples) == 160
    assert total.kept + sum(total.rejected.values()) == total.drawn
    assert total.drawn == sum(part.drawn for part in report.per_subject.values())
    assert total.kept == sum(part.kept for part in report.per_subject.values())
    assert set(report.per_subject) == {"doctor", "nurse"}
    assert total.rejected["right"] > 0
    assert total.kept > 0
    rows = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert len(rows) == total.drawn
    assert sum(row["kept"] for row in rows) == total.kept
    assert all((row["rejected_by"] is None) == row["kept"] for row in rows)
    loaded = load_exam([str(tmp_path / "out" / "exam")], "train").questions
    assert len(loaded) == total.kept
    answers = {question.question: question.answer_text for question in asked}
    assert all(question.reasoning and answers[question.question] == question.answer_text for question in loaded)


def test_at_most_two_samples_of_a_question_are_kept(tmp_path: Path) -> None:
    samples = run(tmp_path / "journal", questions(12))
    for question in questions(12):
        group = [s for s in samples if s.written.question == question_key(question)]
        assert sum(not sample.failed for sample in group) <= 2
    assert any(sample.rejected_by == "surplus" for sample in samples)


def test_questions_that_every_sample_solves_are_thinned(tmp_path: Path) -> None:
    asked = questions(60)
    samples = run(tmp_path / "journal", asked, settings=replace(SETTINGS, easy_share=0.1))
    unsolved = {sample.written.question for sample in samples if "right" in sample.failed}
    easy = {question_key(question) for question in asked} - unsolved
    assert len(easy) >= 20
    kept = {sample.written.question for sample in samples if not sample.failed}
    assert len(kept & easy) == round(0.1 * len(easy))
    assert kept - easy


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_any_point_resumes_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    asked = questions(40)
    publish(tmp_path / "whole", asked, run(tmp_path / "whole.journal", asked))
    path = tmp_path / "killed.journal"
    with pytest.raises(KeyboardInterrupt):
        run(path, asked, fail_after=random.Random(seed).randrange(1, 200))
    if path.exists() and seed % 2:  # the last line may be cut off anywhere
        with path.open("ab") as file:
            file.write(b'{"questions": ["doctor')
    publish(tmp_path / "resumed", asked, run(path, asked))
    assert path.read_bytes() == (tmp_path / "whole.journal").read_bytes()
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_samples_only_add(tmp_path: Path) -> None:
    asked, path = questions(20), tmp_path / "journal"
    first = run(path, asked)
    before = path.read_bytes()
    more = run(path, asked, settings=replace(SETTINGS, samples=6))
    assert path.read_bytes().startswith(before)
    assert len(more) == len(first) * 6 // 4
    texts = {(s.written.question, s.written.number): s.written.text for s in more}
    assert all(texts[s.written.question, s.written.number] == s.written.text for s in first)
    # Fewer again: what was stored beyond is not used.
    assert len(run(path, asked)) == len(first)


def test_a_journal_of_another_run_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    run(path, questions(2))
    assert ReasoningJournal(path, {"identity": "another"}).read() is None


@pytest.mark.parametrize("line", ["{}", "null", '{"questions": []}', "\x00", '{"questions": ["a"], "first": "0"}'])
def test_a_damaged_journal_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal"
    run(path, questions(2))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"journal:4: .* damaged"):
        ReasoningJournal(path, {"identity": "one"}).read()


def test_rationalization_hints_only_where_no_sample_passed(tmp_path: Path) -> None:
    asked = questions(12)
    engine = Engine()
    journal = ReasoningJournal(tmp_path / "journal", {})
    samples = write_reasoning(
        asked,
        writer(engine, replace(SETTINGS, rationalize=True)),
        verifier(engine),
        [],
        store=journal.append,
        on_progress=lambda drawn, passed: None,
    )
    solved = {
        s.written.question for s in samples if not s.written.hinted and not set(s.failed) - {"surplus", "duplicate"}
    }
    hinted = {s.written.question for s in samples if s.written.hinted}
    assert hinted == {question_key(question) for question in asked} - solved
    assert any(request.text.endswith("True") for request in engine.asked)


@pytest.mark.parametrize("number", range(10))
def test_reasoning_follows_the_question_to_its_own_order(number: int) -> None:
    order = sample_order(QUESTION, number, 0)
    shown = in_order(QUESTION, order)
    letter, wrong = shown.answer_letter, "ABCDE"[(shown.answer + 2) % 5]
    text = f"E. coli 감염은 아니다. 보기 {wrong}는 맞지 않고, 보기 {letter}가 옳다."

    def answer(question: ExamQuestion) -> str:
        return f" {text}\n정답： {question.answer_text} ({question.answer_letter})"

    engine = ScriptedEngine(answer)
    draws = writer(engine).draw([QUESTION], range(number, number + 1), hinted=False)
    (sample,) = verifier(engine).check({question_key(QUESTION): QUESTION}, draws)
    sample.failed = []
    (kept,) = kept_questions([sample], {question_key(QUESTION): QUESTION})
    assert kept.options == QUESTION.options
    was = QUESTION.options.index(shown.options["ABCDE".index(wrong)])
    assert (
        kept.reasoning
        == f"E. coli 감염은 아니다. 보기 {'ABCDE'[was]}는 맞지 않고, 보기 {QUESTION.answer_letter}가 옳다."
    )


def test_reasoning_that_counts_options_keeps_the_order_it_was_written_in() -> None:
    engine = ScriptedEngine(lambda question: right(question, f"정답은 {question.answer + 1}번이다. 혈색소가 낮다."))
    draws = writer(engine).draw([QUESTION], range(1), hinted=False)
    (sample,) = verifier(engine).check({question_key(QUESTION): QUESTION}, draws)
    sample.failed = []
    (kept,) = kept_questions([sample], {question_key(QUESTION): QUESTION})
    assert kept.options == in_order(QUESTION, sample.written.order).options
    assert kept.answer_text == QUESTION.answer_text


def test_the_journal_stores_plain_json(tmp_path: Path) -> None:
    run(tmp_path / "journal", questions(3))
    header, *units = map(json.loads, (tmp_path / "journal").read_text(encoding="utf-8").splitlines())
    assert header["identity"] == "one"
    assert [unit["first"] for unit in units] == [0] * len(units)
