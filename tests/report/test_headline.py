"""What a finished run says at its end: base against chain on held-out questions, and what to do next."""

from collections.abc import Callable

from chain_making import FinishedChain
from lorachain.artifacts import ValidationHistory, read_training_info
from lorachain.chain.headline import Headline, ReasoningExample
from lorachain.evaluation.validation_result import compare_validations, summarize_validation
from lorachain.records import ExamQuestion
from lorachain.report.headline import headline_lines, next_lines
from lorachain.report.tables import accuracy_text

QUESTIONS = [
    ExamQuestion(f"x-1-1-{n}", "x", f"물음 {n}", ("가", "나", "다", "라", "마"), 0, exam="표본") for n in range(10)
]


def headline(example: ReasoningExample | None = None) -> Headline:
    before = summarize_validation(QUESTIONS, {"options": "AABBBBBBBB"}, "dev", 0.0)
    after = summarize_validation(QUESTIONS, {"options": "AAAAAAAAAB"}, "dev", 0.0)
    return Headline(
        exams=("표본",),
        before=before.protocols["options"],
        after=after.protocols["options"],
        comparison=compare_validations(after, before, other="the base")["options"],
        baselines={"always the longest option": before.protocols["options"]},
        example=example,
    )


def test_both_scores_have_n_and_interval_and_the_paired_test() -> None:
    lines = headline_lines(headline())
    assert lines == [
        "held-out questions (표본, dev), options/1:",
        "  base       20.0 % [5.7, 51.0] n=10",
        "  the chain  90.0 % [59.6, 98.2] n=10",
        "  7 questions gained, 0 lost: better than the base (p = 0.016)",
        "  without a model, always the longest option: 20.0 %",
    ]


def test_the_example_is_one_line_a_text_whatever_the_model_wrote() -> None:
    example = ReasoningExample(QUESTIONS[0], "가\n나\n" * 400, "")
    lines = headline_lines(headline(example))[-7:]
    assert lines[1:3] == ["  물음 0", "  A. 가  B. 나  C. 다  D. 라  E. 마"]
    assert lines[3].startswith("  before stage 02: 가 나 가")
    assert lines[3].endswith("…")
    assert lines[4:] == [
        "  after:           (nothing)",
        "  right answer:    가 (A)",
        "  (answers are read by the option's text: a small model does not learn the letters)",
    ]


def test_a_finished_run_ends_with_it(finished_chain: Callable[..., FinishedChain]) -> None:
    chain = finished_chain("text")
    history = ValidationHistory.read(chain.model / "02_trained" / "tiny" / "kormedmcqa_validation_results.json").results
    info = read_training_info(chain.model / "02_trained" / "tiny")
    (protocol,) = {"letters", "options"} & {line.split(",")[-1].split("/")[0].strip() for line in chain.out.splitlines()
                                            if line.startswith("held-out questions")}  # fmt: skip
    assert f"  base       {accuracy_text(history[0].result.protocols[protocol])}\n" in chain.out
    assert f"  the chain  {accuracy_text(info.validation.after[protocol])}\n" in chain.out
    assert "without a model, the option whose definition shares most with the question: " in chain.out
    assert "one of them, with the reasoning that the model writes:\n" in chain.out
    assert f"lorachain report --model tiny --workspace {chain.root}" in chain.err
    assert 'lorachain ask "질문" --model tiny' in chain.err
    assert "lorachain run --dictionary FILE --exam FILE" in chain.err


def test_commands_are_aligned() -> None:
    assert list(next_lines([("a", "one"), ("abc", "two")])) == ["  a    # one", "  abc  # two"]
