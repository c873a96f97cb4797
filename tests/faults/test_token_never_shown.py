"""The hub token appears in no log, file, message or traceback, whatever writes the text."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import options_of, run_command_line
from lorachain.chain import pipeline
from lorachain.chain.debug_log import debug_log
from lorachain.provenance import write_json
from lorachain.redaction import without_tokens
from lorachain.report.console import ConsoleReporter

FROM_ENVIRONMENT = "a-token-of-no-known-form"
FROM_FILE = "hf_" + "aB3" * 11 + "x"  # recognized by its form


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", FROM_ENVIRONMENT)


def text_with_tokens() -> str:
    return f"401 for url https://user:{FROM_FILE}@huggingface.co (Authorization: Bearer {FROM_ENVIRONMENT})"


def assert_hidden(text: str) -> None:
    assert "hf_***" in text
    assert FROM_FILE not in text
    assert FROM_ENVIRONMENT not in text


def test_in_a_log_line_and_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "debug.log"
    with debug_log(log):
        try:
            raise RuntimeError(text_with_tokens())
        except RuntimeError:
            logging.getLogger("huggingface_hub.file_download").exception("%s", text_with_tokens())
    text = log.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert_hidden(text)


def test_in_a_json_file(tmp_path: Path) -> None:
    write_json(tmp_path / "info.json", {"source": text_with_tokens()})
    text = (tmp_path / "info.json").read_text(encoding="utf-8")
    assert_hidden(text)
    json.loads(text)


def test_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter().message(text_with_tokens())
    assert_hidden(capsys.readouterr().err)


def test_in_the_message_of_a_user_error(tiny_workspace: Callable[..., Path]) -> None:
    code, _, err = run_command_line(
        "train", "00", *options_of(tiny_workspace()), "--plain-text", f"/nowhere/{FROM_FILE}/{FROM_ENVIRONMENT}"
    )
    assert code == 2
    code, _, err = run_command_line("status", "--model", FROM_FILE, "--workspace", str(tiny_workspace(name="b")))
    assert code == 2
    assert FROM_FILE not in err
    assert "hf_***" in err


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_in_the_traceback_of_a_bug(
    tiny_workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error(text_with_tokens())

    monkeypatch.setattr(pipeline, "run_stages", fail)
    code, _, err = run_command_line("run", *options_of(tiny_workspace()))
    assert code == 1
    assert "Traceback" in err
    assert_hidden(err)


def test_other_text_is_unchanged() -> None:
    assert without_tokens("hf_transfer and 혈압 stay") == "hf_transfer and 혈압 stay"
