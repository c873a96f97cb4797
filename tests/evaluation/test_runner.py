"""Evaluations on disk: complete, resumable, checked before the work, and only compared where they are comparable."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conftest import make_text_model, make_tokenizer
from lorachain.artifacts.evaluation import EvalResult, ScoredModelIdentity
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.protocols.options import Options
from lorachain.evaluation.protocols.registry import PROTOCOLS, make_protocol
from lorachain.evaluation.results import baselines, check_output, read_results, rows_path
from lorachain.evaluation.runner import run_evaluation
from lorachain.evaluation.statistics import macro_interval, wilson
from lorachain.prompts import PROMPT_VERSION
from lorachain.records import ExamQuestion
from lorachain.report.tables import comparison_tables
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "마른 기침", "두통이 심함", "구토", "발진")
QUESTIONS = [
    ExamQuestion(f"q{i}", ("doctor", "nurse")[i % 2], f"증상 {i}?", TEXTS[i % 5 :] + TEXTS[: i % 5], i % 5, exam="x")  # type: ignore[arg-type]
    for i in range(12)
]


def identity(name: str) -> ScoredModelIdentity:
    return ScoredModelIdentity(name=name, base_sha256="ab" * 32, adapter_sha256=None, quantization="none")


def evaluate(
    out: Path, protocol: Any = None, questions: list[ExamQuestion] = QUESTIONS, *, name: str = "tiny", **changes: Any
) -> EvalResult:
    settings = {"model_identity": identity(name), "split": "dev", **changes}
    model = make_text_model(settings.pop("model_seed", 0))
    return run_evaluation(
        model, TokenEncoder(make_tokenizer()), questions, protocol or make_protocol("letters"), out=out, **settings
    )


def test_a_result_has_everything_that_belongs_to_a_score(tmp_path: Path) -> None:
    progress: list[tuple[int, int, int]] = []
    out = tmp_path / "sub" / "results.json"
    result = evaluate(out, on_progress=lambda *state: progress.append(state), selection={"limit": 12})
    stored, rows = read_results(out)
    assert stored == result
    assert (stored.schema_version, stored.prompt_version) == (4, PROMPT_VERSION)
    assert (stored.protocol, stored.protocol_version, stored.split) == ("letters", "1", "dev")
    assert stored.settings == {"shots": 0, "rotations": 1}
    assert stored.model == identity("tiny")
    correct = sum(row["correct"] for row in rows)
    assert stored.score.n == len(rows) == 12
    assert stored.score.correct == correct
    assert stored.score.wilson95 == wilson(correct, 12)
    assert {subject: score.n for subject, score in stored.per_subject.items()} == {"doctor": 6, "nurse": 6}
    macro = sum(score.accuracy for score in stored.per_subject.values()) / 2
    assert stored.macro.accuracy == pytest.approx(macro)
    assert stored.data.selection == {"limit": 12}
    assert stored.data.exams == ("x",)
    assert stored.notice is None
    assert [row["id"] for row in rows] == [question.id for question in QUESTIONS]
    assert all(len(row["logprobs"]) == 5 and row["prompt_tokens"] > 10 for row in rows)
    assert progress[-1] == (12, 12, correct)
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.json", "results.parquet"]


def test_a_result_on_the_test_split_has_a_notice(tmp_path: Path) -> None:
    assert "test split" in (evaluate(tmp_path / "r.json", split="test").notice or "")


def small_batches() -> Options:
    return Options(batch_questions=4)


class KilledError(Exception):
    pass


def unfinished(out: Path) -> Path:
    """The file that an evaluation leaves which is killed after its second batch."""

    def kill(done: int, total: int, correct: int) -> None:
        if done >= 8:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate(out, small_batches(), on_progress=kill)
    return out.with_name(f"{out.name}.unfinished.jsonl")


@pytest.mark.parametrize(
    "cut_off", [b"", b'{"seconds": 1.0, "ro', '{"rows": [{"exam": "의'.encode()[:-1]], ids=["no", "line", "character"]
)
def test_an_interrupted_evaluation_ends_with_the_same_result(tmp_path: Path, cut_off: bytes) -> None:
    uninterrupted = evaluate(tmp_path / "whole.json", small_batches())

    finished: list[int] = []

    def kill(done: int, total: int, correct: int) -> None:
        if done >= 8:
            finished.append(done)
            raise KilledError

    out = tmp_path / "cut.json"
    with pytest.raises(KilledError):
        evaluate(out, small_batches(), on_progress=kill)
    assert not out.exists()
    journal = out.with_name("cut.json.unfinished.jsonl")
    journal.write_bytes(journal.read_bytes() + cut_off)
    scored: list[int] = []
    protocol = small_batches()
    score = Options.score

    def counting(self: Options, model: Any, encoder: Any, questions: Any) -> Any:
        scored.append(len(questions))
        return score(self, model, encoder, questions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "score", counting)
        resumed = evaluate(out, protocol)
    assert sum(scored) == 12 - finished[0] < 12  # finished questions are not scored again
    assert not journal.exists()
    same = {"seconds": 0.0, "rows": uninterrupted.rows}  # the file name and the times are other
    assert resumed.model_copy(update=same) == uninterrupted.model_copy(update=same)
    assert read_results(out)[1] == read_results(tmp_path / "whole.json")[1]


def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second each time it is read."""
    seconds = itertools.count()
    monkeypatch.setattr("lorachain.evaluation.runner.time.monotonic", lambda: float(next(seconds)))


def test_the_time_of_an_evaluation_is_that_of_scoring_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every batch of both runs, where one was interrupted: six batches of one subject and at most two questions."""
    ticking(monkeypatch)
    assert evaluate(tmp_path / "whole.json", Options(batch_questions=2)).seconds == 6.0
    unfinished(tmp_path / "cut.json")
    assert evaluate(tmp_path / "cut.json", small_batches()).seconds == 4.0


def test_another_unfinished_evaluation_is_not_continued(tmp_path: Path) -> None:
    def kill(*_: int) -> None:
        raise KilledError

    out = tmp_path / "r.json"
    with pytest.raises(KilledError):
        evaluate(out, small_batches(), on_progress=kill)
    with pytest.raises(DataError, match="unfinished evaluation with another model"):
        evaluate(out, small_batches(), name="other")
    with pytest.raises(DataError, match="another protocol"):
        evaluate(out, make_protocol("letters"))


def test_an_evaluation_of_other_prompts_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "r.json"
    journal = unfinished(out)
    with monkeypatch.context() as patch:
        patch.setattr("lorachain.evaluation.runner.PROMPT_VERSION", PROMPT_VERSION + 1)
        with pytest.raises(DataError, match="unfinished evaluation with another prompt_version"):
            evaluate(out, small_batches())
    header, rest = journal.read_text(encoding="utf-8").split("\n", 1)
    before_versions = {key: value for key, value in json.loads(header).items() if key != "prompt_version"}
    journal.write_text(f"{json.dumps(before_versions)}\n{rest}", encoding="utf-8")
    monkeypatch.setattr("lorachain.evaluation.runner.PROMPT_VERSION", 1)
    assert evaluate(out, small_batches()).score.n == 12


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (0, "{", ":1: the unfinished evaluation is damaged"),
        (0, "[]", ":1: the unfinished evaluation is damaged .it is not an object"),
        (0, "\xff", ":1: the unfinished evaluation is damaged .*utf-8"),
        (1, "{", ":2: the unfinished evaluation is damaged"),
        (1, "[1]", ":2: the unfinished evaluation is damaged"),
        (2, '{"seconds": 1.0}', ":3: .*'rows' is missing"),
        (2, '{"seconds": "1", "rows": []}', ":3: .*'seconds' is '1'"),
        (2, '{"seconds": NaN, "rows": []}', ":3: .*'seconds' is nan"),
        (2, '{"seconds": 1.0, "rows": []}', ":3: .*its questions are not those of the batch"),
        (2, '{"seconds": 1.0, "rows": [{"id": "q0", "exam": "x"}]}', ":3: .*is missing"),
    ],
)
def test_a_damaged_unfinished_evaluation_is_refused(tmp_path: Path, number: int, line: str, message: str) -> None:
    journal = unfinished(tmp_path / "r.json")
    lines = journal.read_bytes().splitlines()
    lines[number] = line.encode("latin-1")
    journal.write_bytes(b"\n".join(lines) + b"\n")
    damaged = journal.read_bytes()
    with pytest.raises(DataError, match=f"(?s){message}.*delete the file to start again"):
        evaluate(tmp_path / "r.json", small_batches())
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        Path.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.with_name("other")),
    ],
    ids=["pipe", "directory", "device", "link"],
)
def test_an_unfinished_evaluation_that_is_not_a_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "r.json.unfinished.jsonl")
    with pytest.raises(WorkspaceError, match=r"r\.json\.unfinished\.jsonl .*remove it"):
        evaluate(tmp_path / "r.json", small_batches())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("gold", [0, 4, 5, -1, None, True], "questions are not those|gold"),
        ("chosen", [5, -1, "A", 1.0, True], "chosen"),
        ("subject", ["", "other", None], "questions are not those|subject"),
        ("logprobs", [[], [1.0] * 4, [1.0] * 6, ["a"] * 5, [float("nan")] * 5], "logprobs"),
        ("prompt_tokens", [-1, 2**31, 2**63, 10**30, 1.5], "prompt_tokens"),
        ("detail", [{}, {"sum": 1}, {"sum": 1, "per_character": 9}, [], None], "sum|detail|per_character"),
        ("detail", [{"sum": "1", "per_character": 1}, {"sum": 1, "per_character": 1.0}], "sum|per_character"),
        ("detail", [{"sum": 1, "per_character": 1, "pmi": 1}], "unknown key 'pmi'"),
    ],
)
def test_a_result_that_no_protocol_writes_is_refused(
    tmp_path: Path, field: str, values: list[Any], message: str
) -> None:
    journal = unfinished(tmp_path / "r.json")
    header, first, *others = journal.read_text(encoding="utf-8").splitlines()
    batch = json.loads(first)
    stored = batch["rows"][0][field]
    for value in values:
        batch["rows"][0][field] = value if value is True or value != stored else 3
        journal.write_text("\n".join((header, json.dumps(batch), *others)) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"(?s):2: .*({message}).*delete the file"):
            evaluate(tmp_path / "r.json", small_batches())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_reads_what_it_wrote(name: str, tmp_path: Path) -> None:
    """All batches are finished: the results come from the file."""
    few = QUESTIONS[:2]
    shots = dict.fromkeys(("doctor", "nurse"), QUESTIONS[:1])
    given: dict[str, Any] = {"letters": {"rotations": 5}, "lm-eval-3.0": {"shots": 1}}.get(name, {})
    if name in ("kormedeval", "reasoning"):
        given = {"max_new_tokens": 3}
    protocol = make_protocol(name, examples=shots, **given)

    def kill(done: int, total: int, correct: int) -> None:
        if done == total:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate(tmp_path / "r.json", protocol, few, on_progress=kill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(protocol), "score", MustNotRun.score)
        result = evaluate(tmp_path / "r.json", protocol, few)
    assert result.score.n == 2


def test_lines_of_an_unfinished_evaluation_are_not_taken_for_others(tmp_path: Path) -> None:
    journal = unfinished(tmp_path / "r.json")
    header, first, second, *others = journal.read_text(encoding="utf-8").splitlines()
    for lines in ([header, second, first, *others], [header, first, second, *others, *[first] * 12]):
        journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match="is damaged"):
            evaluate(tmp_path / "r.json", small_batches())


@pytest.mark.parametrize(("questions", "message"), [([], "empty"), ([QUESTIONS[0]] * 2, "'q0' occurs twice")])
def test_bad_selections_are_refused(tmp_path: Path, questions: list[ExamQuestion], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path / "r.json", questions=questions)


class MustNotRun:
    """A protocol that fails when it is asked for anything."""

    name, version, batch_questions = "letters", "1", 1
    settings: ClassVar[dict[str, Any]] = {}

    def score(self, *arguments: object) -> None:
        raise AssertionError("scored before the output was checked")


@pytest.mark.parametrize("name", ["r.parquet", "r", "r.JSON", "directory"])
def test_a_name_that_cannot_be_a_result_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        evaluate(tmp_path / name, MustNotRun())
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


@pytest.mark.parametrize("existing", ["r.json", "r.parquet"])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_an_existing_output_is_refused_before_the_work(tmp_path: Path, existing: str, make: Any) -> None:
    make(tmp_path / existing)
    with pytest.raises(WorkspaceError, match=f"{existing} exists; choose another name or remove it"):
        evaluate(tmp_path / "r.json", MustNotRun())
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_an_output_below_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WorkspaceError, match="file is not a directory that can be written to"):
        evaluate(tmp_path / "file" / "sub" / "r.json", MustNotRun())


def test_an_output_in_a_new_directory_is_allowed(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "sub" / "r.json")
    assert not list(tmp_path.iterdir())


def test_comparison_counts_the_flips(tmp_path: Path) -> None:
    a = evaluate(tmp_path / "a.json")
    b = evaluate(tmp_path / "b.json", model_seed=5, name="trained")
    comparison = compare_results(tmp_path / "a.json", tmp_path / "b.json")
    rows = [read_results(tmp_path / name)[1] for name in ("a.json", "b.json")]
    gained = {y["id"] for x, y in zip(*rows, strict=True) if y["correct"] and not x["correct"]}
    assert {flip.id for flip in comparison.gained} == gained
    assert len(comparison.gained) - len(comparison.lost) == b.score.correct - a.score.correct
    assert comparison.difference == pytest.approx(b.score.accuracy - a.score.accuracy)
    assert comparison.bootstrap95 is not None
    assert comparison.bootstrap95[0] <= comparison.difference <= comparison.bootstrap95[1]
    assert comparison.n == 12
    assert comparison.gained or comparison.lost
    _, flips = comparison_tables(comparison, with_flips=True)
    assert flips.row_count == len(comparison.gained) + len(comparison.lost)
    assert "tiny" in comparison.summary
    same = compare_results(tmp_path / "a.json", tmp_path / "a.json")
    assert same.mcnemar_p == 1.0
    assert same.gained == same.lost == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "options"}, "protocol: letters and options"),
        ({"protocol_version": "2"}, "protocol version"),
        ({"settings": {"shots": 5}}, "settings"),
        ({"split": "test"}, "split: dev and test"),
        ({"model": {"engine": "openai vllm 0.33.0"}}, "engine: local and openai vllm 0.33.0"),
        ({"data": {"sha256": "0" * 64}}, "questions: 12 with hash"),
        ({"schema_version": 7}, "schema version 7 is from a newer lorachain, this one reads up to 4"),
        ({"score": {"accuracy": float("nan")}}, "'score.accuracy' is nan"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_results_that_are_not_alike_are_not_compared(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    stored = evaluate(tmp_path / "a.json").as_dict()
    for key, value in change.items():
        stored[key] = {**stored[key], **value} if key in ("data", "score", "model") else value
    (tmp_path / "b.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")


def test_files_that_are_not_a_result_are_refused(tmp_path: Path) -> None:
    evaluate(tmp_path / "a.json")
    rows_path(tmp_path / "a.json").write_bytes(b"other")
    with pytest.raises(DataError, match="is not the file"):
        read_results(tmp_path / "a.json")
    rows_path(tmp_path / "a.json").unlink()
    with pytest.raises(DataError, match="its rows cannot be read"):
        read_results(tmp_path / "a.json")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="is not a valid exam result: it holds list, not an object"):
        read_results(tmp_path / "list.json")
    (tmp_path / "empty.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="schema_version is None"):
        read_results(tmp_path / "empty.json")
    with pytest.raises(DataError, match=r"absent\.json cannot be read \(exam result\)"):
        read_results(tmp_path / "absent.json")


def test_baselines() -> None:
    questions = [
        ExamQuestion(f"q{i}", "s", "?", ("a", "b", "longest", "d", "e"), answer)
        for i, answer in enumerate((2, 2, 1, 0))
    ]
    scores = baselines(questions)
    assert scores.always_majority_letter.letter == "C"
    assert scores.always_majority_letter.correct == 2
    assert scores.always_longest_option.correct == 2
    assert scores.always_longest_option.n == 4


def test_macro_interval_resamples_within_subjects() -> None:
    interval = macro_interval([[True] * 30 + [False] * 70, [True] * 8 + [False] * 2])
    assert interval is not None
    low, high = interval
    assert low < 0.55 < high
    # sd of the mean of the two accuracies: half the root of 0.3 * 0.7 / 100 + 0.8 * 0.2 / 10
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * (0.0021 + 0.016) ** 0.5, rel=0.12)
    assert macro_interval([[True], [True, False]]) is None
