"""User errors: exit code 2, one message (what, the value, what is allowed, the next step), nothing left behind."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chain_making import options_of, run_command_line
from refusals import listing, raising, refused

# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", ["0", "-1"])
@pytest.mark.parametrize("stage", ["00", "01", "02"])
def test_epochs_below_one(root: Path, stage: str, epochs: str) -> None:
    says = (f"'stages.{stage}.epochs' is {epochs}", "greater than or equal to 1")
    refused(root, "train", stage, "--epochs", epochs, *options_of(root), says=says)


@pytest.mark.parametrize("epochs", ["1,3", "1,3,x", "", "1;3;5"])
def test_epochs_of_a_run_that_are_not_three_numbers(root: Path, epochs: str) -> None:
    refused(root, "run", "--epochs", epochs, *options_of(root), says=(repr(epochs), "such as 1,3,5"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch-size", "0"), ("--max-length", "3"), ("--learning-rate", "0"), ("--max-samples", "-2"), ("--rank", "0")],
)
def test_numbers_that_are_not_allowed(root: Path, option: str, value: str) -> None:
    refused(root, "run", option, value, *options_of(root), says=(f"is {value}", "should be"))


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("epochz = 3", ("unknown setting 'epochz'", "(value 3)")),
        ("[stages.03]\nepochs = 1", ("unknown stage '03'", "allowed: 00, 01, 02")),
        ("[lora]\nranks = 3", ("unknown setting 'lora.ranks'",)),
        ("device = ", ("--config", "is not valid TOML")),
        ("dtype = 'float16'", ("'dtype' is 'float16'", "bfloat16")),
    ],
)
def test_a_config_file_that_is_not_allowed(root: Path, toml: str, says: tuple[str, ...]) -> None:
    (root / "user.toml").write_text(toml)
    command = ("run", "--model", "tiny", "--workspace", root, "--config", root / "user.toml")
    refused(root, *command, says=(*says, "user.toml"))


def test_a_missing_config_file(root: Path) -> None:
    refused(root, "run", "--model", "tiny", "--workspace", root, "--config", root / "no.toml", says=("no.toml",))


def test_a_target_module_that_matches_nothing(root: Path) -> None:
    (root / "user.toml").write_text("[lora]\ntarget_modules = ['q_proj', 'query']")
    command = ("init", "--model", "tiny", "--workspace", root, "--config", root / "user.toml")
    says = ("['query'] match no linear layer", "allowed: down_proj, gate_proj", "lora.target_modules")
    refused(root, *command, says=says)


@pytest.mark.parametrize("device", ["cuda:7", "nonsense"])
def test_an_unavailable_device(root: Path, device: str) -> None:
    says = (f"device {device!r} is not available", "allowed: auto, cpu")
    refused(root, "run", "--device", device, *options_of(root), says=says)


# ---- parents, locks, stale work --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "command"), [("00", "init"), ("01", "train 00"), ("02", "train 01")])
def test_a_missing_parent_names_the_command_that_creates_it(root: Path, stage: str, command: str) -> None:
    says = (f"stage {stage} starts from", "which is missing", f"lorachain {command} --model tiny --workspace {root}")
    refused(root, "train", stage, *options_of(root), says=says)


def test_a_missing_parent_leaves_an_empty_directory_empty(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    command = ("train", "01", "--model", "gemma-3-270m", "--workspace", tmp_path / "here")
    refused(tmp_path / "here", *command, says=("lorachain train 00",))


def test_a_concurrent_run_names_the_process_that_holds_the_lock(root: Path) -> None:
    path = root / "model" / ".lock-tiny"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write('{"pid": 4242, "host": "somewhere", "start": "2026-01-01 10:00:00"}')
        lock.flush()
        says = (
            "another run is working on tiny",
            "process 4242 on somewhere, started 2026-01-01 10:00:00",
            "Wait for it",
        )
        refused(root, "init", *options_of(root), says=says)


def test_the_lock_of_a_dead_run_is_taken_over_with_a_message(root: Path) -> None:
    path = root / "model" / ".lock-tiny"
    path.write_text('{"pid": 4242, "host": "somewhere", "start": "2026-01-01 10:00:00"}')
    code, _, err = run_command_line("init", *options_of(root))
    assert code == 0
    assert "took over the lock of a run that ended unexpectedly (process 4242 on somewhere" in err
    assert not path.exists()


def test_a_changed_dictionary_makes_01_stale_and_asks(finished_copy: Path, tmp_path: Path) -> None:
    dictionary = tmp_path / "dictionary.jsonl"
    lines = [json.dumps({"term": f"용어{n}", "definition": f"뜻 {n}"}, ensure_ascii=False) for n in range(8)]
    dictionary.write_text("\n".join(lines), encoding="utf-8")
    command = ("train", "01", *options_of(finished_copy), "--dictionary", dictionary, "--epochs", "1")
    says = ("stale", "stage.epochs was 2, is 1", "nothing was changed", "--yes")
    refused(finished_copy, *command, says=says)
    code, _, err = run_command_line(*command, "--yes")
    assert code == 0, err
    assert "01: medical dictionary will be run again, then merge: 01 merged + new LoRA, 02: KorMedMCQA" in err
    assert "next: lorachain train 02" in err

    code, out, err = run_command_line(*command)
    assert code == 0
    assert err.count("is finished") == 2
    dictionary.write_text("\n".join(lines[:-1]), encoding="utf-8")
    refused(finished_copy, *command, says=("stale (dictionary.jsonl changed)", "--yes"))
    # status compares with the files on disk, whatever options a stage was run with.
    _, out, _ = run_command_line("status", "--model", "tiny", "--workspace", finished_copy)
    assert "stale: dictionary.jsonl changed" in " ".join(out.split())
    assert out.count("fresh") == 3  # init, 00 and the merge


def test_an_adapter_that_was_changed_makes_its_stage_and_the_next_stale(finished_copy: Path) -> None:
    adapter = finished_copy / "model" / "00_trained" / "tiny" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(bytes(content))
    _, out, _ = run_command_line("status", *options_of(finished_copy))
    assert out.count("stale") == 2
    assert "00_trained" in out
    refused(
        finished_copy, "train", "00", *options_of(finished_copy), says=("was changed after it was written", "--yes")
    )


def test_a_damaged_training_info_can_be_replaced(started: Path) -> None:
    (started / "model" / "raw_lora_added" / "tiny" / "training_info.json").write_text("{}")
    refused(started, "init", *options_of(started), says=("training_info.json", "--yes"))
    assert run_command_line("init", "--yes", *options_of(started))[0] == 0
    assert "fresh" in run_command_line("status", *options_of(started))[1]


def test_status_of_nothing_and_of_a_finished_chain(root: Path, finished_copy: Path) -> None:
    code, out, err = run_command_line("status", *options_of(root))
    assert code == 0, err
    assert out.count("missing") == 5
    assert "lorachain init --model tiny" in " ".join(out.split())
    code, out, _ = run_command_line("status", *options_of(finished_copy))
    assert out.count("fresh") == 5
    for heading in ("stage", "state", "accuracy (dev)", "finished", "next command"):
        assert heading in out


def test_debug_shows_the_traceback(root: Path) -> None:
    code, _, err = run_command_line("init", "--model", "nobody", "--workspace", root, "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: unknown model 'nobody'")


def test_a_dry_run_writes_nothing(root: Path) -> None:
    before = listing(root)
    code, out, err = run_command_line("run", "--dry-run", *options_of(root))
    assert code == 0, err
    resolved = json.loads(out)
    assert [step["state"] for step in resolved["plan"]] == [*["missing"] * 4, "off", "missing"]
    assert resolved["configuration"]["lora"]["rank"] == 4
    assert listing(root) == before


# ---- data ------------------------------------------------------------------------------------------------------------


def question(**changes: object) -> str:
    row = {"subject": "s", "year": 1, "period": 1, "q_number": 1, "question": "옳은 것은?", "answer": 2, "cot": ""}
    return json.dumps({**row, **dict.fromkeys("ABCDE", "하나"), **changes}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("option", "name", "content", "says"),
    [
        ("--plain-text", "a.jsonl", b'{"text": "a"}\n{"text": \n', ("a.jsonl:2", "expected one JSON object")),
        ("--plain-text", "a.jsonl", b'{"body": "x"}\n', ("a.jsonl:1", "a field named text")),
        ("--plain-text", "a.txt", "간".encode("cp949"), ("a.txt:1", "not UTF-8", "--encoding cp949", "save the file")),
        ("--plain-text", "a.jsonl", b"", ("a.jsonl", "empty")),
        ("--plain-text", "a.txt", b" \n \n", ("a.txt",)),
        ("--exam", "dev.jsonl", question(answer="F").encode(), ("dev.jsonl:1", "'F'", "1 to 5 or A to E")),
        ("--exam", "dev.jsonl", question(answer=6).encode(), ("dev.jsonl:1", "'6'", "1 to 5 or A to E")),
        ("--exam", "dev.csv", b"question,A,B,C,D,E,answer\nq,a,b,c\n", ("dev.csv:2", "7 fields as in the header")),
        ("--exam", "train.jsonl", question().encode(), ("no dev split", "found: train")),
    ],
)  # fmt: skip
def test_bad_sources(
    started: Path, tmp_path: Path, option: str, name: str, content: bytes, says: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(started, "train", "00", option, path, *options_of(started), says=says)


def test_a_missing_source(started: Path) -> None:
    says = ("nowhere.jsonl", "neither a path that exists", "nor a hub id")
    refused(started, "train", "00", "--plain-text", "nowhere.jsonl", *options_of(started), says=says)


def test_a_bad_dictionary_line_and_skip_bad_rows(finished_copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    good = "".join(f"용어{n},뜻 {n}\n" for n in range(6))
    path.write_text(f"term,definition\n{good}하나뿐\n", encoding="utf-8")
    command = ("train", "01", "--yes", "--epochs", "1", "--dictionary", path, *options_of(finished_copy))
    says = ("d.csv:8", "expected 2 fields as in the header", "--skip-bad-rows")
    refused(finished_copy, *command, says=says)
    code, _, err = run_command_line(*command, "--skip-bad-rows")
    assert code == 0, err
    info = json.loads((finished_copy / "model/01_trained/tiny/training_info.json").read_text())
    (source,) = info["sources"]
    assert (source["rows"], source["bad_rows"]) == (6, 1)


# ---- disk ------------------------------------------------------------------------------------------------------------


def test_no_space_before_a_stage(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10**12, used=10**12, free=10)
    monkeypatch.setattr("lorachain.atomic.shutil.disk_usage", lambda path: usage)
    refused(started, "train", "00", *options_of(started), says=("needs about", "0.0 GB free", "--workspace DIR"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes every flush to the disk fail."""
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("command", [("init", "--yes", "--rank", "2"), ("train", "00")])
def test_no_space_during_a_write(started: Path, command: tuple[str, ...]) -> None:
    says = ("no space left on the disk while writing", "existing files are unchanged", "run the same command again")
    refused(started, *command, *options_of(started), says=says)


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path, lorachain: Callable[..., tuple[int, str, str]]) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    code, _, err = lorachain("status", "--model", "gemma-3-270m", "--workspace", file)
    assert code == 2
    assert f"{file} is not a directory" in err
    assert "Traceback" not in err
