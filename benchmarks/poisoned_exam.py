"""Exam questions planted in the training data: what they do to the score, and what the gate does to that.

    python benchmarks/poisoned_exam.py --names kcd8_ko_en.jsonl --out poisoned/

An exam about disease names, half of it held out. Half of the held-out questions are planted in the training questions,
as a collection of past papers has them: with a number before the question, and the options in another order. Stage 02
trains on both twice, directly on the base: with `data.contamination.action` at `report`, which trains on them, and at
`remove`. Reported: accuracy by `options` of the planted and of the other held-out questions after the last epoch, with
Wilson intervals, Fisher's exact test between the two halves, and the exact McNemar test of the two runs on the same
questions. The rows of --names are objects with `code`, `korean` and `english`. A run that was interrupted resumes.
"""

import argparse
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import fisher_exact

from forgetting import draw_names, names_parser
from lorachain.data.exam_writer import write_exam
from lorachain.data.make_exam import make_exam
from lorachain.evaluation.results import read_results
from lorachain.evaluation.statistics import discordant, mcnemar_exact, wilson
from lorachain.prompts import permuted
from lorachain.records import ExamQuestion, Term

PROTOCOL = "options"


def plant(questions: list[ExamQuestion], seed: int) -> list[ExamQuestion]:
    """Half of the questions, numbered, with their options in another order."""
    rng = random.Random(f"poisoned:{seed}")
    chosen = sorted(rng.sample(range(len(questions)), len(questions) // 2))
    planted = []
    for number, i in enumerate(chosen, start=1):
        question = permuted(questions[i], rng.sample(range(5), 5))
        planted.append(
            ExamQuestion(question.id, "past", f"{number}. {question.question}", question.options, question.answer)
        )
    return planted


def write_data(names: Path, out: Path, count: int, seed: int) -> list[str]:
    """Writes the exam and the planted questions; returns the ids of the planted ones."""
    drawn, _ = draw_names(names, count, seed)
    entries = [Term(row["term"], english=row["english"]) for row in drawn]
    exam = make_exam(entries, seed=seed, dev_fraction=0.5)
    planted = plant(exam["dev"], seed)
    if not (out / "exam").exists():
        write_exam(exam, out / "exam")
        write_exam({"train": planted}, out / "planted")
    return [question.id for question in planted]


def train(arguments: argparse.Namespace, action: str) -> Path:
    """Stage 02 on the exam and the planted questions, and its answers to all held-out ones; returns the result."""
    workspace, result = arguments.out / action, arguments.out / f"{action}.json"
    if result.exists():
        return result
    common = ["--model", arguments.model, "--workspace", str(workspace)]
    settings = [f"data.contamination.action={action}", "ledger.measure=false", "stages.02.keep=last"]
    settings += ["validation.max_questions=5"]  # all are answered once, in the end
    settings += [f"stages.02.epochs={arguments.epochs}", "stages.02.learning_rate=5e-4", "stages.02.json_share=0"]
    sets = [part for setting in settings for part in ("--set", setting)]
    exams = ["--exam", str(arguments.out / "exam"), "--exam", f"{arguments.out / 'planted' / 'past'}#split=train"]
    seed = ["--seed", str(arguments.seed)]
    evaluation = ["eval", "02", *common, "--protocol", PROTOCOL, "--exam", str(arguments.out / "exam")]
    for command in (
        ["init", *common, *seed],
        ["train", "02", "--from-base", *common, *seed, *sets, *exams],
        [*evaluation, "--out", str(result)],
    ):
        subprocess.run([sys.executable, "-m", "lorachain", *command], check=True)
    return result


def answers(result: Path) -> dict[str, bool]:
    """Whether each held-out question is answered correctly, by id."""
    return {row["id"]: row["correct"] for row in read_results(result)[1]}


def rate(correct: list[bool]) -> str:
    low, high = wilson(sum(correct), len(correct))
    return f"{100 * sum(correct) / len(correct):.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={len(correct)}"


def report(by_action: dict[str, dict[str, bool]], planted: list[str]) -> list[str]:
    """A line per run, and one per paired comparison."""
    lines = []
    halves: dict[str, dict[str, list[bool]]] = {}
    for action, correct in by_action.items():
        others = [id for id in correct if id not in planted]
        halves[action] = {"planted": [correct[id] for id in planted], "others": [correct[id] for id in others]}
        table = [[sum(side), len(side) - sum(side)] for side in halves[action].values()]
        p = float(fisher_exact(table).pvalue)
        sides = ", ".join(f"{name} {rate(side)}" for name, side in halves[action].items())
        lines.append(f"{action}: {sides}, Fisher p = {p:.2g}")
    for name in ("planted", "others"):
        lost, gained = discordant(halves["remove"][name], halves["report"][name])
        p = mcnemar_exact(lost, gained)
        lines.append(f"{name}, report against remove: {gained} gained, {lost} lost, McNemar p = {p:.2g}")
    return lines


def main() -> None:
    parser = names_parser(__doc__)
    parser.add_argument("--count", type=int, default=160, help="questions, half of them held out")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-only", action="store_true", help="write the questions, and train nothing")
    arguments = parser.parse_args()
    planted = write_data(arguments.names, arguments.out, arguments.count, arguments.seed)
    if arguments.data_only:
        return
    by_action: dict[str, Any] = {action: answers(train(arguments, action)) for action in ("report", "remove")}
    print("\n".join(report(by_action, planted)))


if __name__ == "__main__":
    main()
