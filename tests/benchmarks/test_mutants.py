"""`make mutants`: which bugs it plants, that it tells which ones the tests notice, and that it leaves no trace."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import mutants  # noqa: E402
from mutation.operators import mutants_of  # noqa: E402
from mutation.planted import Planted, load_planted, unnoticed  # noqa: E402
from mutation.runner import Run, Tree  # noqa: E402

ROOT = BENCHMARKS.parent
TARGETS = mutants.load_targets(mutants.FOLDER / "targets.toml")


def lines_of(source: str) -> list[str]:
    """The changed lines of every mutant of a module."""
    content = source.encode()
    return [mutant.lines(content)[1] for mutant in mutants_of(content)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["(a <= b)"]),
        ("a == b != c", ["(a != b != c)", "(a == b == c)"]),
        ("x = a and not b", ["x = (a or not b)", "x = (not b)", "x = (a)", "x = a and (b)"]),
        ("x = a + b * 2", ["x = (a - b * 2)", "x = a + (b / 2)", "x = a + b * 3"]),
        ("x = a | b", ["x = (a)", "x = (b)"]),
        ("x = a[1:n]", ["x = a[1:]", "x = a[:n]", "x = a[2:n]"]),
        ("x = 0.5 if a else True", ["x = (0.5)", "x = (True)", "x = 1.0 if a else True", "x = 0.5 if a else False"]),
        ("if a:\n    f()", ["if False:", "if True:", "pass"]),
        ("x += 1", ["pass", "x -= 1", "x += 2"]),
        ("o.x = f(a, b, k=c)", ["o.x = f(a, b)", "o.x = f(b, a, k=c)", "pass"]),
        ("x = sorted(a, key=b)", ["x = list(a)", "x = sorted(a)"]),
        ("x = [a for a in b if c]", ["x = [a for a in b]"]),
        ("x = t.to(torch.float32).double()", ["x = (t.to(torch.float32))", "x = t.to(torch.bfloat16).double()"]),
        ("for a in b:\n    continue", ["break"]),
        # Text, types and messages are left alone, and what cannot be wrong for a test to see.
        ('"""A doc."""\nx: Annotated[int, 3]\nraise E(f"{1 + 2}")', []),
        ('message(f"{1}")\nlogger.info("x", 3)\nT = TypeVar("T", bound=1)', []),
        ("x = zip(a(), b(), strict=True)", []),
        ('x = a / "b"', []),
        ("@dataclass(frozen=True)\nclass A:\n    x: int", []),
    ],
)
def test_what_is_planted(source: str, expected: list[str]) -> None:
    assert sorted(lines_of(source)) == sorted(expected)


def test_a_change_is_in_its_place_whatever_is_around_it() -> None:
    source = '용어 = "가나"; x = (a\n     < b)  # 다라\ny = 1\n'.encode()
    first, second = mutants_of(source)
    assert first.applied(source).decode() == '용어 = "가나"; x = ((a <= b))  # 다라\ny = 1\n'
    assert first.lines(source) == ('용어 = "가나"; x = (a < b) # 다라', '용어 = "가나"; x = ((a <= b)) # 다라')
    assert second.applied(source).endswith(b"\ny = 2\n")
    assert (first.line, second.line) == (1, 3)


@pytest.mark.parametrize("name", ["workspace.py", "chain/resume.py"])
def test_the_mutants_of_a_module_differ_from_it_and_from_each_other(name: str) -> None:
    source = (ROOT / "src" / "lorachain" / name).read_bytes()
    planted = mutants_of(source)
    tree = ast.dump(ast.parse(source))
    assert all(ast.dump(ast.parse(mutant.applied(source))) != tree for mutant in planted)
    assert len({mutant.applied(source) for mutant in planted}) == len(planted)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_and_its_tests_exist(name: str) -> None:
    assert (ROOT / "src" / "lorachain" / name).is_file()
    for test in TARGETS[name]:
        file, _, function = test.partition("[")[0].partition("::")
        assert not function or f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_accepted_mutant_still_exists() -> None:
    """An entry of a line that has changed is removed, or judged again."""
    accepted: dict[str, set[tuple[str, str]]] = {}
    for name, before, after in mutants.load_equivalents(mutants.FOLDER / "equivalents.toml"):
        accepted.setdefault(name, set()).add((before, after))
    for name, lines in accepted.items():
        source = (ROOT / "src" / "lorachain" / name).read_bytes()
        assert lines <= {mutant.lines(source) for mutant in mutants_of(source)}, name


def test_every_planted_bug_fits_the_source_and_its_test_exists() -> None:
    for bug in load_planted(mutants.FOLDER / "planted.toml"):
        source = (ROOT / "src" / "lorachain" / bug.module).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(bug.applied(source))) != ast.dump(ast.parse(source))
        file, _, function = bug.test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
        with pytest.raises(ValueError, match="has 0 times, not once"):
            bug.applied("")


class OneTest(Tree):
    """A tree in which the tests `noticing` fail where the module has the bug, and the tests `broken` always."""

    def run(self, tests: list[str], limit: float | None = None) -> Run:
        bug = "x = 2" in self.module("calc.py").read_text(encoding="utf-8")
        return Run(int(tests == ["broken"] or (bug and tests == ["noticing"])), 0.1, "")


def test_planted_bugs_that_their_test_does_not_notice_are_returned(tmp_path: Path) -> None:
    module = tmp_path / "src" / "lorachain" / "calc.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n", encoding="utf-8")
    tree = OneTest(tmp_path, tmp_path)
    noticed, missed, broken = (Planted("calc.py", "x = 1", "x = 2", test) for test in ("noticing", "blind", "broken"))
    assert unnoticed(tree, [noticed, missed]) == [missed]
    with pytest.raises(RuntimeError, match="broken fails without a bug"):
        unnoticed(tree, [broken])
    assert module.read_text(encoding="utf-8") == "x = 1\n"


def test_the_seed_decides_which_mutants_are_drawn_and_equivalent_ones_never_are() -> None:
    def drawn(seed: int, equivalents: set[tuple[str, str, str]]) -> list[tuple[str, str]]:
        module = mutants.open_module("atomic.py", [], equivalents, count=15, seed=seed)
        return [mutant.lines(module.source) for mutant in module.drawn]

    first = drawn(0, set())
    assert (len(first), drawn(0, set()), drawn(1, set()) == first) == (15, first, False)
    accepted = {("atomic.py", *lines) for lines in first}
    assert not set(drawn(0, accepted)) & set(first)


SOURCE = """def half(values):
    total = 0
    while total < 100:
        total += 50
    return [value // 2 for value in values if value > 0]


def unused():
    return 1
"""
TESTS = """from lorachain.calc import half


def test_half():
    assert half([4, 1, 0]) == [2, 0]
"""
START = """import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import mutants
from mutation import runner
runner.PRELOADED = ("pytest", "hypothesis", "_hypothesis_pytestplugin")
runner._EXTRA_SECONDS = 0.0
root = Path(sys.argv[2])
module = mutants.open_module("calc.py", ["tests/test_calc.py"], set(), count=99, seed=0, root=root)
try:
    mutants.run_all([module], 5.0, root)
except KeyboardInterrupt:
    print("interrupted")
print(json.dumps(module.as_dict()))
"""


def begin(root: Path) -> "subprocess.Popen[str]":
    package = root / "src" / "lorachain"
    package.mkdir(parents=True)
    (root / "tests").mkdir()
    (package / "__init__.py").touch()
    (package / "calc.py").write_text(SOURCE)
    (root / "tests" / "test_calc.py").write_text(TESTS)
    (root / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", START, str(BENCHMARKS), str(root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(root / "tmp")},
    )  # fmt: skip


def untouched(root: Path) -> bool:
    """Nothing was written into the checkout, and nothing is left of its copy."""
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return files == {"src/lorachain/__init__.py", "src/lorachain/calc.py", "tests/test_calc.py"} and (
        (root / "src" / "lorachain" / "calc.py").read_text() == SOURCE and not list((root / "tmp").iterdir())
    )


def test_survivors_are_those_that_no_test_notices(tmp_path: Path) -> None:
    out, err = begin(tmp_path).communicate(timeout=250)
    assert untouched(tmp_path)
    result = json.loads(out.splitlines()[-1])
    survived = {lines[1] for lines in (survivor["lines"] for survivor in result["survivors"])}
    # The loop's own numbers change nothing that it returns, and one function has no test.
    assert {"return 2", "while total < 101:", "while (total <= 100):", "total += 51"} <= survived, err
    assert not any("//" in line or "value" in line for line in survived)
    assert result["of these by time"] == 2  # `pass` and `-=` in the loop: it never ends
    assert result["run"] == result["mutants"] == result["killed"] + len(survived)
    assert "survived: src/lorachain/calc.py:9 (constant)\n  - return 1\n  + return 2" in out


def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    process = begin(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()  # the tests without a mutant are done: the first mutants are being planted
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "interrupted" in out
    assert untouched(tmp_path)
