"""Planted harm: stages that make the model worse on purpose, and harmless ones. Which of them do the gates stop?

    python benchmarks/planted_harm.py --names kcd8_ko_en.jsonl --out harm/ [--repeats 20]

One chain is made first, without gates: stage 00 on the embedded Korean text, stage 01 on 300 names of diseases, the
merge. Then

- `english`, `english-long`: stage 00 on English text only (the docstrings of Python's standard library), for one epoch
  and for ten;
- `rate`: stage 02 at 20 times its learning rate;
- `shuffled`: stage 02 on an exam of these names whose answers are drawn at random;
- `right`: stage 02 on the same exam with its right answers;
- `repeat-N`: stage 00 on the Korean text with other seeds.

Each is checked by the same gates against its parent: 2 points of the exam, 5 points of exact match, 10 % of the
perplexity of general Korean. Half of the names are asked for in training, the other half on dev. The rows of --names
are objects with `code`, `korean` and `english`. An interrupted run resumes; what was finished is not repeated.
"""

import argparse
import ast
import json
import random
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forgetting import copy_once, draw_names, names_parser, write_entries

GATES = {
    "exam": {"max_loss": 2.0, "unit": "points"},
    "exact_match": {"max_loss": 5.0, "unit": "points"},
    "korean": {"max_loss": 10.0, "unit": "percent"},
}
RATE = 5e-4
NO_REPLAY = {"plain_text": 0.0, "dictionary": 0.0}
"""Harm is planted in stages that train their own task alone."""
HARM = ("english", "english-long", "rate", "shuffled")
ENGLISH_DOCUMENTS = 60


def english_text() -> Iterator[str]:
    """Docstrings of the standard library's modules, of 400 characters or more, in the order of the modules' names."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_bytes()))
        if text and text.isascii() and len(text) >= 400 and "@" not in text:  # no addresses: a gate refuses them
            yield text


def write_sources(out: Path, names: Path, count: int) -> dict[str, str]:
    """The dictionary, its exam, the same exam with answers drawn at random, and the English text; the paths by name."""
    from lorachain.data.dictionary import load_dictionary
    from lorachain.data.exam_writer import write_exam
    from lorachain.data.make_exam import make_exam

    first, _ = draw_names(names, count, seed=0)
    dictionary = write_entries(out / "dictionary.jsonl", first)
    exam = make_exam(load_dictionary([dictionary]).entries, seed=0, dev_fraction=0.5, subject="names")
    draw = random.Random("planted harm")
    shuffled = {
        split: [replace(q, answer=draw.randrange(5)) if split == "train" else q for q in questions]
        for split, questions in exam.items()
    }
    for name, questions in (("right", exam), ("shuffled", shuffled)):
        shutil.rmtree(out / "exams" / name, ignore_errors=True)
        write_exam(questions, out / "exams" / name)
    english = out / "english.jsonl"
    rows = [{"text": text} for text, _ in zip(english_text(), range(ENGLISH_DOCUMENTS), strict=False)]
    english.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "dictionary": dictionary,
        "exam": str(out / "exams" / "right"),
        "shuffled": str(out / "exams" / "shuffled"),
        "english": str(english),
    }


def settings(arguments: argparse.Namespace, seed: int, rate: float, epochs: int, *, gated: bool) -> dict[str, Any]:
    return {
        "seed": seed,
        "stages": {
            "00": {"max_samples": ENGLISH_DOCUMENTS, "max_length": 512, "learning_rate": RATE, "epochs": epochs},
            "01": {
                "epochs": arguments.epochs,
                "forms": 0,
                "learning_rate": RATE,
                "batch_size": 16,
                "replay": NO_REPLAY,
            },
            "02": {"epochs": 3, "learning_rate": rate, "keep": "last", "replay": NO_REPLAY},
        },
        "validation": {"heldout_documents": 8, "exact_match_entries": 60, "explained_questions": 1},
        "ledger": {
            "documents": 30,
            "document_tokens": 96,
            "entries": 60,
            "dictionary_questions": 8,
            "prompts": 6,
            "intruder_layers": 0,
        },
        "gates": {name: {**gate, "against": "parent", "on_fail": "stop"} for name, gate in GATES.items() if gated},
    }


@dataclass(frozen=True)
class Runs:
    """Stages of one model, each in a workspace of its own."""

    arguments: argparse.Namespace
    sources: dict[str, str]

    def chain(
        self,
        workspace: Path,
        *,
        seed: int = 0,
        rate: float = RATE,
        epochs: int = 1,
        text: str = "sample",
        exam: str = "exam",
        gated: bool = True,
    ) -> Any:
        from lorachain.api import load_config, open_chain

        config = load_config(None, [settings(self.arguments, seed, rate, epochs, gated=gated)])
        config = config.model_copy(update={"device": self.arguments.device})
        sources = {
            "plain_text": [text],
            "dictionary": [self.sources["dictionary"]],
            "exam": [self.sources[exam]],
        }
        return open_chain(self.arguments.model, workspace, config=config, sources=sources)

    def train(self, name: str, stage: str, workspace: Path, **changed: Any) -> dict[str, Any]:
        """Trains one stage; returns its gates and whether they stopped it."""
        from lorachain import train_stage
        from lorachain.chain.ledger import read_ledger
        from lorachain.errors import GateError

        done = self.arguments.out / f"{name}.json"
        if done.exists():
            stored: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
            return stored
        chain = self.chain(workspace, **changed)
        try:
            train_stage(chain, stage)
            stopped = False
        except GateError as error:
            print(error)
            stopped = True
        row = read_ledger(chain).step(stage)
        gates = [gate.model_dump(mode="json") for gate in row.gates] if row else []
        result = {"name": name, "stage": stage, "stopped": stopped, "gates": gates}
        done.write_text(json.dumps(result, indent=1), encoding="utf-8")
        return result


def run_all(arguments: argparse.Namespace, sources: dict[str, str]) -> list[dict[str, Any]]:
    """Every stage of the list above, the harm first."""
    from lorachain import init, measure_ledger

    runs, out = Runs(arguments, sources), arguments.out
    start, bare = out / "start", out / "bare"
    init(runs.chain(bare))
    measure_ledger(runs.chain(bare))  # the base, once for all
    copy_once(bare, start)
    results = [runs.train(f"stage-{stage}", stage, start, gated=False) for stage in ("00", "01")]
    for name, epochs in (("english", 1), ("english-long", 10)):
        place = copy_once(bare, out / name)
        results.append(runs.train(name, "00", place, text=sources["english"], epochs=epochs))
    for name, changed in (("rate", {"rate": 20 * RATE}), ("shuffled", {"exam": "shuffled"}), ("right", {})):
        results.append(runs.train(name, "02", copy_once(start, out / name), **changed))
    for number in range(1, arguments.repeats + 1):
        place = out / f"repeat-{number}"
        if not place.with_suffix(".json").exists():
            init(runs.chain(place, seed=number))
            shutil.copytree(bare / "model" / "ledger", place / "model" / "ledger", dirs_exist_ok=True)
        results.append(runs.train(place.name, "00", place, seed=number))
        shutil.rmtree(place, ignore_errors=True)
    return results


def report(results: list[dict[str, Any]]) -> list[str]:
    """A line per stage with what its gates say, and the counts."""
    lines = []
    for result in results:
        lines.append(f"{result['name']:<10} stage {result['stage']}  {'STOPPED' if result['stopped'] else 'published'}")
        lines += [f"    {gate['outcome']:<13} {gate['summary']}" for gate in result["gates"]]
    harm = [result for result in results if result["name"] in HARM]
    repeats = [result for result in results if result["name"].startswith("repeat-")]
    lines.append(
        f"{sum(r['stopped'] for r in harm)} of {len(harm)} harmful stages stopped, "
        f"{sum(r['stopped'] for r in repeats)} of {len(repeats)} harmless repeats"
    )
    return lines


def main() -> None:
    parser = names_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--count", type=int, default=300, help="names")
    parser.add_argument("--epochs", type=int, default=6, help="of stage 01")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    from lorachain.chain.debug_log import quiet_libraries

    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = run_all(arguments, write_sources(arguments.out, arguments.names, arguments.count))
    print("\n".join(report(results)))
    arguments.out.joinpath("planted_harm.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
