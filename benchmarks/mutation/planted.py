"""Bugs that were planted by hand, each with the test that must notice it (`planted.toml`)."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from mutation.runner import Tree, outcome_of


@dataclass(frozen=True, slots=True)
class Planted:
    """In `module`, `before` is replaced by `after`; `test` fails then."""

    module: str
    before: str
    after: str
    test: str

    def applied(self, source: str) -> str:
        """The source with the bug.

        Raises:
            ValueError: the text to replace is not there exactly once: the entry is of another version.
        """
        if source.count(self.before) != 1:
            raise ValueError(f"{self.module} has {source.count(self.before)} times, not once: {self.before}")
        return source.replace(self.before, self.after)


def load_planted(path: Path) -> list[Planted]:
    with path.open("rb") as file:
        return [Planted(**entry) for entry in tomllib.load(file).get("planted", [])]


def unnoticed(tree: Tree, planted: list[Planted]) -> list[Planted]:
    """The bugs that their test does not notice.

    Raises:
        RuntimeError: a test fails without the bug.
    """
    missed = []
    for test in dict.fromkeys(bug.test for bug in planted):
        if (code := tree.run([test]).code) != 0:
            raise RuntimeError(f"{test} fails without a bug (exit code {code})")
    for bug in planted:
        path = tree.module(bug.module)
        source = path.read_text(encoding="utf-8")
        path.write_text(bug.applied(source), encoding="utf-8")
        try:
            outcome = outcome_of(tree.run([bug.test]))
        finally:
            path.write_text(source, encoding="utf-8")
        if outcome == "survived":
            missed.append(bug)
        print(f"{'not noticed' if outcome == 'survived' else 'noticed'}: {bug.module}: {bug.after}", flush=True)
    return missed
