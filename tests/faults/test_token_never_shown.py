"""The hub token appears in no log, manifest, message or traceback, whoever writes the text."""

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

OF_THE_ENVIRONMENT = "a-token-of-no-known-form"
OF_KNOWN_FORM = "hf_" + "aB3" * 11 + "x"  # as the hub's look, from a token file


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", OF_THE_ENVIRONMENT)


def planted() -> str:
    return f"401 for url https://user:{OF_KNOWN_FORM}@huggingface.co (Authorization: Bearer {OF_THE_ENVIRONMENT})"


def assert_hidden(text: str) -> None:
    assert "hf_***" in text
    assert OF_KNOWN_FORM not in text
    assert OF_THE_ENVIRONMENT not in text


def test_in_a_log_line_and_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "debug.log"
    with debug_log(log):
        try:
            raise RuntimeError(planted())
        except RuntimeError:
            logging.getLogger("huggingface_hub.file_download").exception("%s", planted())
    text = log.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert_hidden(text)


def test_in_a_manifest(tmp_path: Path) -> None:
    write_json(tmp_path / "info.json", {"source": planted()})
    text = (tmp_path / "info.json").read_text(encoding="utf-8")
    assert_hidden(text)
    json.loads(text)


def test_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter().message(planted())
    assert_hidden(capsys.readouterr().err)


def test_in_the_message_of_a_mistake(tiny_workspace: Callable[..., Path]) -> None:
    code, _, err = run_command_line(
        "train", "00", *options_of(tiny_workspace()), "--plain-text", f"/nowhere/{OF_KNOWN_FORM}/{OF_THE_ENVIRONMENT}"
    )
    assert code == 2
    code, _, err = run_command_line("status", "--model", OF_KNOWN_FORM, "--workspace", str(tiny_workspace(name="b")))
    assert code == 2
    assert OF_KNOWN_FORM not in err
    assert "hf_***" in err


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_in_the_traceback_of_a_fault(
    tiny_workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error(planted())

    monkeypatch.setattr(pipeline, "run_steps", fail)
    code, _, err = run_command_line("run", *options_of(tiny_workspace()))
    assert code == 1
    assert "Traceback" in err
    assert_hidden(err)


def test_other_text_stays_as_it_is() -> None:
    assert without_tokens("hf_transfer and 혈압 stay") == "hf_transfer and 혈압 stay"
