"""The critical cases as an ordinary user, also where root runs the tests: links to a canary, files of somebody else.

All of them run in one process that imports everything first and then gives up root's privileges: the interpreter itself
may be in a directory that no other user can read.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chain_making import make_workspace, options_of, run_command_line

NOBODY = 65534
Results = list[dict[str, Any]]
COMMANDS = (("init",), ("train", "00"), ("run",), ("status",))
LINKED_DIRECTORIES = ("raw_lora_added", "00_training/.tiny.data/tokens", "00_training/tiny", "00_trained/tiny")
LINKED_FILES = (".lock-tiny", "00_training/train_00_debug.log", "00_training/tiny/run.json")
THEIRS = (True, False)
"""Whether the canary belongs to the user who runs the commands, so that no permission protects it."""
OF_ROOT = (".lock-tiny", "00_training/train_00_debug.log", "raw/model_paths.json", "raw_lora_added")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@dataclass(frozen=True)
class Case:
    """A workspace, and what is done in it."""

    root: Path
    commands: tuple[tuple[str, ...], ...]

    @property
    def canary(self) -> Path:
        return self.root.parent / "canary"


def give(folder: Path) -> None:
    """Everything below to the other user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def make_canary(tree: Path, *, theirs: bool) -> Path:
    """A tree that must stay as it is."""
    (tree / "deep").mkdir(parents=True)
    for name in ("notes.txt", "deep/letter.txt", "training_info.json", "manifest.json", "run.json"):
        (tree / name).write_text(f"precious {name}", encoding="utf-8")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, *((NOBODY, NOBODY) if theirs else (0, 0)))
        path.chmod(0o700 if path.is_dir() else 0o600)
    return tree


def snapshot(tree: Path) -> dict[str, tuple[int, int, bytes]]:
    paths = [tree, *sorted(tree.rglob("*"))] if tree.exists() else []
    return {str(p): (p.lstat().st_mode, p.lstat().st_uid, p.read_bytes() if p.is_file() else b"") for p in paths}


def linked(folder: Path, base: Path, name: str, theirs: bool) -> Case:
    case = Case(make_workspace(folder / "workspace", base, measured=False), COMMANDS)
    link = case.root / "model" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    give(folder)
    canary = make_canary(case.canary, theirs=theirs)
    link.symlink_to(canary / "notes.txt" if name in LINKED_FILES else canary)
    return case


def of_root(folder: Path, base: Path, name: str) -> Case:
    case = Case(make_workspace(folder / "workspace", base, measured=False), (("init",), ("train", "00")))
    path = case.root / "model" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if "." in name:
        path.touch()
    else:
        path.mkdir()
    give(folder)
    os.chown(path, 0, 0)
    path.chmod(0o755 if path.is_dir() else 0o600)
    return case


@pytest.fixture(scope="module")
def outcomes(save_tiny_in: Callable[..., Path]) -> Iterator[dict[str, tuple[Case, Results, Any, Any]]]:
    """By case: what the commands did, and the canary before and after."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are root's alone
        place = Path(name).resolve()
        place.chmod(0o755)
        base = save_tiny_in(place)
        good = make_workspace(place / "good" / "workspace", base, measured=False)
        cases = {"good": Case(good, (*COMMANDS[:2], ("status",)))}
        give(place / "good")
        give(base)
        for link in (*LINKED_DIRECTORIES, *LINKED_FILES):
            for theirs in THEIRS:
                key = f"{link} {theirs}"
                cases[key] = linked(place / str(len(cases)), base, link, theirs)
        for file in OF_ROOT:
            cases[file] = of_root(place / str(len(cases)), base, file)
        before = {key: snapshot(case.canary) for key, case in cases.items()}
        results = run_as_nobody(place, base, cases)
        yield {key: (case, results[key], before[key], snapshot(case.canary)) for key, case in cases.items()}


def run_as_nobody(place: Path, base: Path, cases: dict[str, Case]) -> dict[str, Results]:
    jobs = {key: {"root": str(case.root), "commands": case.commands} for key, case in cases.items()}
    home = place / "home"
    home.mkdir()
    give(home)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, __file__, str(base)],
        input=json.dumps(jobs), capture_output=True, text=True, check=False, cwd=place,
        env={**environment, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: dict[str, Results] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.parametrize("theirs", THEIRS, ids=["own canary", "root's canary"])
@pytest.mark.parametrize("name", [*LINKED_DIRECTORIES, *LINKED_FILES])
def test_a_link_is_refused_and_the_canary_stays(name: str, theirs: bool, outcomes: dict[str, Any]) -> None:
    case, results, before, after = outcomes[f"{name} {theirs}"]
    assert after == before
    assert len(before) > 5
    assert len(results) == len(COMMANDS)
    for result in results:
        assert result["user"] == NOBODY
        assert result["code"] == 2, result
        assert str(case.root / "model" / name) in result["err"]
        assert "symbolic link" in result["err"]


def test_a_good_chain_runs(outcomes: dict[str, Any]) -> None:
    case, results, _, _ = outcomes["good"]
    assert [result["code"] for result in results] == [0, 0, 0], results
    key = case.root.parents[1] / "home" / ".local" / "state" / "lorachain" / "key"
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (NOBODY, 0o600)
    written = list((case.root / "model").rglob("*"))
    assert {path.lstat().st_uid for path in written} == {NOBODY}
    assert case.root / "model" / "00_trained" / "tiny" / "training_info.json" in written


@pytest.mark.parametrize("name", OF_ROOT)
def test_what_belongs_to_somebody_else_is_a_message(name: str, outcomes: dict[str, Any]) -> None:
    case, results, _, _ = outcomes[name]
    path = case.root / "model" / name
    refused = [result for result in results if result["code"] != 0]
    assert refused
    assert {result["code"] for result in refused} == {2}, results
    assert any(str(path) in result["err"] for result in refused), results
    assert not [result for result in results if "Traceback" in result["err"]]
    assert path.stat().st_uid == 0


def become_nobody_and_run(base: Path, jobs: dict[str, Any]) -> dict[str, Results]:
    """In the other process."""
    # Whatever the commands import is imported while everything can be read.
    warm = make_workspace(Path(tempfile.mkdtemp()) / "workspace", base, measured=False)
    for command in COMMANDS[:2]:
        code, _, err = run_command_line(*command, *options_of(warm))
        assert code == 0, err
    shutil.rmtree(warm.parent)
    shutil.rmtree(Path.home() / ".local")  # root's key
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    results: dict[str, Results] = {}
    for key, job in jobs.items():
        results[key] = []
        for words in job["commands"]:
            code, out, err = run_command_line(*words, *options_of(Path(job["root"])))
            results[key].append({"code": code, "out": out, "err": err, "user": os.geteuid()})
    return results


if __name__ == "__main__":
    print(json.dumps(become_nobody_and_run(Path(sys.argv[1]), json.load(sys.stdin))))
