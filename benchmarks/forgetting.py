"""Forgetting made, then prevented: names are taught, then another convention on prompts of the same form, with replay.

    python benchmarks/forgetting.py --names kcd8_ko_en.jsonl --out forgetting/ [--seeds 0,1,2] [--chapter M]

Task A teaches the English names of 300 diseases in the form `용어: … / 영어:`, and back. Task B has the same form and
300 other diseases, but writes "ICD" before each English name: what it overwrites is the convention, not a name. Which
diseases belong to which task is arbitrary, or with --chapter recognizable: B has the names of that chapter, A those of
the others. Both are stage 01's task with its own form only (`forms = 0`); B replays A at each share, in batches of the
same schedule.
Reported, for each share: exact match of the English names of A and of B after B, with Wilson intervals, and A after A.
The rows of --names are objects with `code`, `korean` and `english`. A run that was interrupted resumes; finished scores
are not repeated.
"""

import argparse
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorachain.evaluation.statistics import discordant, mcnemar_exact, wilson

SHARES = (0.0, 0.01, 0.05, 0.1, 0.25)
LONGEST_KOREAN, LONGEST_ENGLISH = 20, 40
ASKED: Any = "term->english"


def draw_names(
    path: Path, count: int, seed: int, chapter: str | None = None
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Entries of the two tasks, no name, English name or code in both: chapters A to N, short names that say neither
    "other" nor "unspecified". With a chapter, the second task has only its names and the first none of them."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    usable: dict[str, dict[str, str]] = {}
    for row in rows:
        vague = any(word in row["english"].lower() for word in ("other", "unspecified"))
        short = len(row["korean"]) <= LONGEST_KOREAN and len(row["english"]) <= LONGEST_ENGLISH
        if "A" <= row["code"][0] <= "N" and short and not vague:
            usable.setdefault(row["korean"], row)
    names = sorted(usable.values(), key=lambda row: row["code"])
    generator = random.Random(f"forgetting:{seed}")
    if chapter is None:
        drawn = generator.sample(names, 2 * count)
        own, others = drawn[count:], drawn[:count]
    else:
        own = generator.sample([row for row in names if row["code"].startswith(chapter)], count)
        others = generator.sample([row for row in names if not row["code"].startswith(chapter)], count)
    first = [{"term": row["korean"], "english": row["english"]} for row in others]
    second = [{"term": row["korean"], "english": f"ICD {row['english']}"} for row in own]
    return first, second


def write_entries(path: Path, entries: list[dict[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return str(path)


def two_task_chain() -> tuple[Any, ...]:
    """init, then the dictionary task twice, the second continuing the LoRA of the first."""
    from lorachain.chain.stages import find_stage

    first = replace(find_stage("01"), parent="init")
    return (
        find_stage("init"),
        first,
        replace(first, name="02", title="another convention", parent="01", output="02_trained", command="train 02"),
    )


def settings(arguments: argparse.Namespace, seed: int, share: float) -> dict[str, Any]:
    stage = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate, "batch_size": 16, "forms": 0}
    return {
        "seed": seed,
        "stages": {
            "01": {**stage, "replay": {"plain_text": 0.0}},
            "02": {**stage, "replay": {"plain_text": 0.0, "dictionary": share, "repeat": True}},
        },
        "validation": {"max_questions": 1, "exact_match_entries": 1},
    }


def exact_answers(context: Any, runtime: Any, stage: str, files: dict[str, str]) -> dict[str, str]:
    """`1` or `0` for the English name of each task's entries, by the model of a stage."""
    from lorachain.chain.scored_model import find_scored_model
    from lorachain.data.dictionary import load_dictionary
    from lorachain.evaluation.exact_match import exact_match

    model, encoder = find_scored_model(context, stage).load(runtime.device, runtime.dtype)
    answers = {}
    for task, path in files.items():
        entries = load_dictionary([path]).entries
        result = exact_match(model, encoder, entries, split="trained entries", ask=[ASKED])
        answers[task] = result.by_direction[ASKED].correct
    return answers


def run_one(arguments: argparse.Namespace, seed: int, share: float) -> dict[str, Any]:
    """Trains A and then B with one share of replay; returns the answers of both tasks after each."""
    from lorachain.api import load_config, open_chain
    from lorachain.chain.pipeline import run_stages
    from lorachain.chain.runtime import start_runtime
    from lorachain.chain.stages import stage_table

    place = arguments.out / f"seed-{seed}"
    done = place / f"replay-{share:g}.json"
    if done.exists():
        stored: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return stored
    first, second = draw_names(arguments.names, arguments.count, seed, arguments.chapter)
    files = {"A": write_entries(place / "a.jsonl", first), "B": write_entries(place / "b.jsonl", second)}
    workspace = place / f"replay-{share:g}"
    after_first = place / "after-a"
    table = two_task_chain()
    with stage_table(table):
        config = load_config(None, [settings(arguments, seed, share)])
        config = config.model_copy(update={"device": arguments.device})
        start = open_chain(arguments.model, after_first, config=config, sources={"dictionary": [files["A"]]})
        runtime = start_runtime(config)
        run_stages(start, runtime, table[:2])
        known = place / "after-a.json"
        if not known.exists():
            known.write_text(json.dumps(exact_answers(start, runtime, "01", files)), encoding="utf-8")
        copy_once(after_first, workspace)
        context = open_chain(arguments.model, workspace, config=config, sources={"dictionary": [files["B"]]})
        run_stages(context, runtime, table[2:])
        result = {
            "seed": seed,
            "share": share,
            "after_a": json.loads(known.read_text(encoding="utf-8")),
            "after_b": exact_answers(context, runtime, "02", files),
            "replay": replayed(context.output(table[2])),
        }
    done.write_text(json.dumps(result), encoding="utf-8")
    return result


def replayed(folder: Path) -> list[dict[str, Any]]:
    from lorachain.artifacts import read_training_info

    return [part.model_dump(mode="json", exclude={"sources"}) for part in read_training_info(folder).replay]


def rate(answers: list[str]) -> str:
    """Exact match over the seeds' answers: per cent, interval, n."""
    joined = "".join(answers)
    low, high = wilson(joined.count("1"), len(joined))
    return f"{100 * joined.count('1') / len(joined):5.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={len(joined)}"


def report(results: list[dict[str, Any]]) -> list[str]:
    """One line per share, over all seeds."""
    lines = [
        "A after A                     "
        + rate([r["after_a"]["A"] for r in results if r["share"] == results[0]["share"]])
    ]
    without = {r["seed"]: r["after_b"] for r in results if r["share"] == 0}
    for share in sorted({result["share"] for result in results}):
        of_share = [result for result in results if result["share"] == share]
        line = f"replay {share:<5g} after B:  A {rate([r['after_b']['A'] for r in of_share])}"
        line += f"   B {rate([r['after_b']['B'] for r in of_share])}"
        before, after = (sum(r[when]["A"].count("1") for r in of_share) for when in ("after_a", "after_b"))
        line += f"   kept {100 * after / before:.1f} % of A" if before else "   nothing of A was learned"
        if share and without.keys() >= {r["seed"] for r in of_share}:
            for task in ("A", "B"):
                pairs = [(without[r["seed"]][task], r["after_b"][task]) for r in of_share]
                no_replay, replay = ([hit == "1" for hit in "".join(side)] for side in zip(*pairs, strict=True))
                lost, gained = discordant(no_replay, replay)
                line += (
                    f"   {task}: {gained} gained, {lost} lost against replay 0, p = {mcnemar_exact(lost, gained):.2g}"
                )
        lines.append(line)
    return lines


def names_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every experiment with names of diseases."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=Path, required=True, help="JSONL with code, korean, english")
    parser.add_argument("--out", type=Path, required=True, help="directory for data, workspaces and results")
    parser.add_argument("--model", default="gemma-3-270m")
    return parser


def copy_once(workspace: Path, target: Path) -> Path:
    """A copy of a workspace, complete or not there; one that is there is kept."""
    if not target.exists():
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(workspace, partial).rename(target)
    return target


def main() -> None:
    parser = names_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    parser.add_argument("--count", type=int, default=300, help="names per task")
    parser.add_argument("--chapter", help="the chapter of KCD whose names task B teaches; without it any")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    arguments = parser.parse_args()
    from lorachain.chain.debug_log import quiet_libraries

    quiet_libraries()
    results = [
        run_one(arguments, int(seed), float(share))
        for seed in arguments.seeds.split(",")
        for share in arguments.shares.split(",")
    ]
    print("\n".join(report(results)))
    arguments.out.joinpath("forgetting.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
