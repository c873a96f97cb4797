"""Plants small bugs, one at a time, and lists those that no test notices (docs/testing.md).

    python benchmarks/mutants.py                                       # every module of mutation/targets.toml
    python benchmarks/mutants.py --module weights/merge.py --count 100
    python benchmarks/mutants.py --minutes 20 --seed 1 --out mutants.json
    python benchmarks/mutants.py --module atomic.py --list             # the mutants, without running a test
    python benchmarks/mutants.py --planted                             # the bugs of mutation/planted.toml instead

Which mutants are drawn depends on the seed and the source only. They are planted in a copy of the tree in a temporary
directory. Mutants of `mutation/equivalents.toml` behave like the original and are left out. Exits with 1 where one
survived.
"""

import argparse
import json
import os
import random
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: no thread may exist when tests are forked
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mutation.operators import Mutant, mutants_of
from mutation.planted import load_planted, unnoticed
from mutation.runner import Tree, copied_tree, limit_of, outcome_of

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).resolve().parent / "mutation"


@dataclass(slots=True)
class Module:
    """A module, its tests, and what became of its mutants."""

    name: str
    tests: list[str]
    source: bytes
    drawn: list[Mutant]
    total: int
    equivalent: int
    limit: float = 0.0
    killed: int = 0
    timeouts: int = 0
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def run(self) -> int:
        return self.killed + len(self.survivors)

    def as_dict(self) -> dict[str, object]:
        return {
            "module": self.name,
            "mutants": self.total,
            "equivalent": self.equivalent,
            "run": self.run,
            "killed": self.killed,
            "of these by time": self.timeouts,
            "survivors": [
                {"line": mutant.line, "operator": mutant.operator, "lines": mutant.lines(self.source)}
                for mutant in self.survivors
            ],
        }


def load_targets(path: Path) -> dict[str, list[str]]:
    """Test files or tests by module."""
    with path.open("rb") as file:
        return {str(name): [str(test) for test in tests] for name, tests in tomllib.load(file).items()}


def load_equivalents(path: Path) -> set[tuple[str, str, str]]:
    """(module, line before, line after) of mutants that behave like the original."""
    with path.open("rb") as file:
        entries = tomllib.load(file).get("equivalent", [])
    return {(entry["module"], entry["before"], entry["after"]) for entry in entries}


def open_module(
    name: str, tests: list[str], equivalents: set[tuple[str, str, str]], *, count: int, seed: int, root: Path = ROOT
) -> Module:
    """A module with its drawn mutants, in random order."""
    source = (root / "src" / "lorachain" / name).read_bytes()
    mutants = mutants_of(source)
    drawable = [mutant for mutant in mutants if (name, *mutant.lines(source)) not in equivalents]
    drawn = random.Random(f"{seed}:{name}").sample(drawable, min(count, len(drawable)))
    return Module(name, tests, source, drawn, len(mutants), len(mutants) - len(drawable))


def try_mutant(tree: Tree, module: Module, mutant: Mutant) -> None:
    """Plants one mutant in the copy, runs the module's tests, and takes it out again."""
    path = tree.module(module.name)
    path.write_bytes(mutant.applied(module.source))
    try:
        outcome = outcome_of(tree.run(module.tests, module.limit))
    finally:
        path.write_bytes(module.source)
    if outcome == "survived":
        module.survivors.append(mutant)
        before, after = mutant.lines(module.source)
        print(
            f"survived: src/lorachain/{module.name}:{mutant.line} ({mutant.operator})\n  - {before}\n  + {after}",
            flush=True,
        )
    else:
        module.killed += 1
        module.timeouts += outcome == "timeout"


def run_all(modules: list[Module], minutes: float, root: Path = ROOT) -> None:
    """Runs the drawn mutants of all modules in turns, until all are done or the time is over."""
    deadline = time.monotonic() + 60 * minutes
    with copied_tree(root) as tree:
        for module in modules:
            baseline = tree.run(module.tests)
            if baseline.code != 0:
                raise SystemExit(f"{module.name}: its tests fail without a mutant:\n{baseline.output[-3000:]}")
            module.limit = limit_of(baseline)
            print(f"{module.name}: {module.total} mutants, {baseline.seconds:.1f} s for its tests", flush=True)
        for turn in range(max(len(module.drawn) for module in modules)):
            for module in modules:
                if turn < len(module.drawn) and time.monotonic() < deadline:
                    try_mutant(tree, module, module.drawn[turn])


def table(modules: list[Module]) -> str:
    lines = ["| module | mutants | equivalent | run | killed | survived |", "|---|---:|---:|---:|---:|---:|"]
    lines += (
        f"| `{m.name}` | {m.total} | {m.equivalent} | {m.run} | {m.killed} | {len(m.survivors)} |" for m in modules
    )
    run, killed = sum(m.run for m in modules), sum(m.killed for m in modules)
    share = f" ({100 * killed / run:.1f} %)" if run else ""
    sums = (sum(m.total for m in modules), sum(m.equivalent for m in modules))
    return "\n".join([*lines, f"| all | {sums[0]} | {sums[1]} | {run} | {killed}{share} | {run - killed} |"])


def main(arguments: list[str] | None = None) -> int:
    targets = load_targets(FOLDER / "targets.toml")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=sorted(targets), help="repeatable; default: all")
    parser.add_argument("--count", type=int, default=20, help="mutants per module (20)")
    parser.add_argument("--minutes", type=float, default=30.0, help="no mutant is begun after that (30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    parser.add_argument("--list", action="store_true", help="print the drawn mutants and run nothing")
    parser.add_argument(
        "--planted", action="store_true", help="run the bugs that were planted by hand, each by its test"
    )
    options = parser.parse_args(arguments)
    if options.planted:
        with copied_tree(ROOT) as tree:
            return int(bool(unnoticed(tree, load_planted(FOLDER / "planted.toml"))))
    equivalents = load_equivalents(FOLDER / "equivalents.toml")
    modules = [
        open_module(name, targets[name], equivalents, count=options.count, seed=options.seed)
        for name in options.module or targets
    ]
    if options.list:
        for module in modules:
            for mutant in sorted(module.drawn, key=lambda m: m.start):
                before, after = mutant.lines(module.source)
                print(f"{module.name}:{mutant.line} ({mutant.operator})\n  - {before}\n  + {after}")
        return 0
    try:
        run_all(modules, options.minutes)
    except KeyboardInterrupt:
        print("interrupted; the checkout was not touched", file=sys.stderr)
    print(table(modules))
    if options.out is not None:
        options.out.write_text(json.dumps([m.as_dict() for m in modules], indent=1) + "\n", encoding="utf-8")
    return int(any(module.survivors for module in modules))


if __name__ == "__main__":
    sys.exit(main())
