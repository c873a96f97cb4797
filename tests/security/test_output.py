"""What reaches the terminal, files and child processes: no secrets, no control characters, nothing that runs."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from chain_making import make_workspace, options_of, run_command_line
from lorachain.chain.context import ChainContext, load_config
from lorachain.provenance import git_commit, write_json
from lorachain.redaction import printable, without_secrets, without_tokens
from lorachain.registry import ModelEntry
from lorachain.report.console import ConsoleReporter
from lorachain.workspace import Workspace

TOKENS = [
    "hf_" + "a1B2" * 9,
    "hf_oauth_eyJhbGciOi.eyJzdWIiOiIx.c2lnbmF0dXJl",
    "hf_jwt-" + "x" * 30,
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "token={}&x=1", '"{}"', "https://user:{}@huggingface.co/x", "({})."])
def test_every_form_of_a_token_is_hidden(token: str, around: str) -> None:
    assert token not in without_tokens(around.format(token))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://name:secret@host/path", "https://***@host/path"),
        ("s3://key@bucket/x", "s3://***@bucket/x"),
        ("mail me at a@b.kr", "mail me at a@b.kr"),
        ("hf_short stays", "hf_short stays"),
    ],
)
def test_credentials_in_urls(text: str, expected: str) -> None:
    assert without_tokens(text) == expected


def test_a_very_short_token_variable_does_not_damage_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "a")
    write_json(tmp_path / "x.json", {"data": "banana"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"data": "banana"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--model", TOKENS[0]),
        ("run", "--no-such-option", TOKENS[0]),
        ("run", "--set", f"seed={TOKENS[0]}"),
        ("eval", f"https://u:{TOKENS[0]}@huggingface.co/a/b", "--out", "x.json"),
        ("--debug", "init", "--model", TOKENS[0]),
    ],
)
def test_a_token_in_the_wrong_place_is_not_shown(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command_line(*arguments)
    assert code == 2
    assert TOKENS[0] not in out + err


def test_a_token_in_a_source_is_not_shown_by_a_dry_run(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    named = tmp_path / f"{TOKENS[0]}.csv"
    named.write_text("term,definition\n심장,피를 내보낸다\n간,해독\n", encoding="utf-8")
    code, out, err = run_command_line("run", *options_of(root), "--dictionary", named, "--dry-run")
    assert code == 0, err
    assert TOKENS[0] not in out + err


def test_children_get_no_secrets() -> None:
    environment = {"PATH": "/bin", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "y", "OPENAI_API_KEY": "z", "LANG": "C"}
    assert without_secrets(environment) == {"PATH": "/bin", "LANG": "C"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\x07", "a\\x0db\\x07"),
        ("name\nerror: forged", "name\\nerror: forged"),
        ("two\n  indented", "two\n  indented"),
        ("\u202eabc", "\\x202eabc"),
        ("한국어 표준 문장", "한국어 표준 문장"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_lock_file_cannot_forge_a_message(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    content = {"pid": 1, "host": "\x1b[2Jevil\nerror: forged", "start": "now"}
    (root / "model" / ".lock-tiny").write_text(json.dumps(content), encoding="utf-8")
    code, _, err = run_command_line("init", *options_of(root))
    assert code == 0
    assert "\x1b" not in err
    assert not [line for line in err.splitlines() if line.startswith("error: forged")]


def test_markup_in_data_is_printed_as_it_is(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    exam = tmp_path / "exam" / "[red]의사"
    exam.mkdir(parents=True)
    row = {"question": "문제?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 1}
    (exam / "dev.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    out_file = tmp_path / "r.json"
    model = ("--model", "tiny", "--workspace", root)
    code, out, err = run_command_line("eval", "base", "--exam", exam.parent, "--out", out_file, *model)
    assert code == 0, err
    assert "[red]" in out


def test_a_proposed_command_is_quoted(tmp_path: Path) -> None:
    context = ChainContext(
        Workspace(tmp_path / "ws; touch pwned"),
        "tiny",
        ModelEntry(local_path=tmp_path),
        load_config(),
        ConsoleReporter(),
        options_for=lambda command: ("--config", "$(touch pwned).toml"),
    )
    command = context.command("run").replace("lorachain", "true")
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_a_repository_above_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git status` in a stranger's tree would run its core.fsmonitor."""
    package = tmp_path / "stranger" / "lib" / "site-packages" / "lorachain"
    package.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", tmp_path / "stranger"], check=True)
    marker = tmp_path / "ran"
    script = tmp_path / "monitor.sh"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n", encoding="utf-8")
    script.chmod(0o755)
    subprocess.run(["git", "-C", tmp_path / "stranger", "config", "core.fsmonitor", script], check=True)
    monkeypatch.setattr("lorachain.provenance.__file__", str(package / "provenance.py"))
    assert git_commit() is None
    assert not marker.exists()


def test_configuration_of_the_own_checkout_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "src" / "lorachain").mkdir(parents=True)
    git = ["git", "-C", str(checkout), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "init", "-q", checkout], check=True)
    (checkout / "src" / "lorachain" / "provenance.py").write_text("", encoding="utf-8")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    marker = tmp_path / "ran"
    script = tmp_path / "monitor.sh"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n", encoding="utf-8")
    script.chmod(0o755)
    subprocess.run([*git, "config", "core.fsmonitor", script], check=True)
    monkeypatch.setattr("lorachain.provenance.__file__", str(checkout / "src" / "lorachain" / "provenance.py"))
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 40
    assert not marker.exists()


def test_markup_in_a_progress_bar_is_printed_as_it_is() -> None:
    reporter = ConsoleReporter()
    printed = io.StringIO()
    reporter.err = Console(file=printed, force_terminal=True, width=120)
    with reporter.bar("merging into [/red][bold]x", 10) as bar:
        bar(5, "[/blue] half")
    assert "merging into [/red][bold]x" in printed.getvalue()
    assert "[/blue] half" in printed.getvalue()
