"""Bad inputs of the commands around a chain: exit code 2, one message that names the value, nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import make_workspace, run_command_line
from refusals import listing

CHAIN = ("--model", "tiny", "--workspace", "ws")
"""Of a workspace in which nothing was trained; all paths are below the current directory."""
WORKSPACE = CHAIN[2:]
NOTHING = "is missing; finish the chain with: lorachain run --model tiny"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    place = tmp_path_factory.mktemp("place")
    model = save_tiny_in(place)
    make_workspace(place / "ws", model)
    for name in ("empty", "no-weights", "broken", "llama"):
        (place / name).mkdir()
    shutil.copyfile(model / "config.json", place / "no-weights" / "config.json")
    (place / "broken" / "config.json").write_text("{")
    (place / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (place / "empty.csv").write_text("")
    (place / "header.csv").write_text("term,definition\n")
    (place / "other.csv").write_text("a,b\n1,2\n")
    (place / "terms.csv").write_text("term,definition\n가,나다\n")
    (place / "binary.csv").write_bytes(bytes(range(256)))
    (place / "result.json").write_text("{}")
    (place / "notes.html").write_text("mine")
    return place


@pytest.mark.parametrize(
    ("command", "says"),
    [
        # ask
        ("ask 질문 --compare 07", "'07' is not a model that can be scored; allowed: base, a stage of the chain"),
        ("ask 질문 --compare 01", "01_trained/tiny is missing; create it with: lorachain run"),
        ("ask 질문 --compare ,", "--compare is ','; name models, separated by commas"),
        ("ask 질문 --compare nowhere", "'nowhere' is not a model that can be scored"),
        ("ask 질문 --compare empty", "empty contains no weights"),
        ("ask 질문 --compare no-weights", "no-weights contains no weights: neither model.safetensors nor"),
        ("ask 질문 --compare owner/none", "owner/none is not in the local cache and the hub cannot be reached"),
        ("ask 질문 --device tpu", "device 'tpu' is not available; allowed: auto"),
        ("ask 질문 --config nowhere.toml", "--config nowhere.toml cannot be read: no such file"),
        ("ask 질문 --temperature -1", "Invalid value for '--temperature'"),
        ("ask --question none", "no question 'none' among the"),
        ("ask --question q --exam nowhere.jsonl", "'nowhere.jsonl': neither a path that exists"),
        ("ask --question q --exam empty", "empty: the directory has no file of a known type"),
        (f"ask {'질문' * 3000}", "tiny reads at most 4,096 together. Ask a shorter question"),
        # doctor
        ("doctor nothing", "'nothing' is not a model that can be scored"),
        ("doctor 01", "01_trained/tiny is missing"),
        ("doctor base --serving nonsense", "--serving is 'nonsense'; give the address that the server prints"),
        ("doctor base --serving ftp://x", "--serving is 'ftp://x'; give the address"),
        ("doctor base --serving http://a:b@c", "contains a user name or password"),
        ("doctor base --timeout 0", "Invalid value for '--timeout'"),
        ("doctor base --set nonsense", "--set 'nonsense' is not KEY=VALUE"),
        # export and push
        ("export --format zip --out o", "--format is 'zip'; allowed: hf, adapter, gguf, ollama, vllm"),
        ("export --format gguf --outtype q2 --out o", "--outtype is 'q2'; allowed: f16, bf16, q8_0"),
        ("export --format gguf --converter no.py --out o", "converter no.py does not exist"),
        ("export --format hf --out o", NOTHING),
        ("export --format hf", "Missing option '--out'"),
        ("push 03 --to a/b", "unknown stage '03'; allowed: 00, 01, 02"),
        ("push 02 --to b", "--to is 'b'; give a repository on the hub as OWNER/NAME"),
        ("push 02 --to a/b --format zip", "--format is 'zip'; allowed: hf, adapter, gguf, ollama, vllm"),
        ("push 02 --to a/b --format gguf --outtype q2", "--outtype is 'q2'; allowed: f16, bf16, q8_0"),
        ("push 02 --to a/b --results nowhere.json", "nowhere.json cannot be read (exam result): no such file"),
        ("push 02 --to a/b --results result.json", "result.json is not a valid exam result"),
        ("push 02 --to a/b --dry-run", NOTHING),
        # report
        ("report --format pdf", "'pdf' is not one of 'html', 'md'"),
        ("report --out nowhere/r.html", "the directory"),
        ("report --out notes.html", "--out notes.html exists and is not a report of lorachain"),
        ("report --out empty", "--out empty exists and is not a report of lorachain"),
        ("report --results nowhere.json", "nowhere.json cannot be read (exam result): no such file"),
        (
            "report --out /proc/r.html",
            "/proc/r.html cannot be written: no such file or directory; choose another place",
        ),
    ],
)
def test_commands_of_a_chain(place: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str) -> None:
    refuses(place, monkeypatch, (*command.split(), *CHAIN), says)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fit nothing", "'nothing' is neither a model of the workspace, nor a directory, nor a hub id"),
        ("fit empty", "empty is not a model directory: it has no config.json"),
        ("fit broken", "broken is not a model directory: config.json cannot be read"),
        ("fit llama", "contains a model of type 'llama'; lorachain trains Gemma 3"),
        ("fit tiny --gpu -4GB", "--gpu is '-4GB'; give the card's memory, such as 24GB"),
        ("fit tiny --gpu H100", "--gpu is 'H100'; give the card's memory"),
        ("fit tiny --gpu 24GB --out notes.html", "--out notes.html exists already"),
        ("fit tiny --gpu 24GB --out terms.csv/card.toml", "terms.csv/card.toml cannot be written: "),
        ("fit tiny --gpu 24GB --out /proc/card.toml", "/proc/card.toml cannot be written: no such file or directory"),
        ("fit tiny --set lora.rank=0", "setting 'lora.rank' is 0: input should be greater"),
        ("fit tiny --measure 07", "unknown stage '07'; allowed: 00, 01, 02"),
        ("data show terms.csv --model nobody", "unknown model 'nobody'; this workspace knows: gemma-3-270m"),
    ],
)
def test_commands_of_a_workspace(place: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str) -> None:
    refuses(place, monkeypatch, (*command.split(), *WORKSPACE), says)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("nowhere.csv", "'nowhere.csv': neither a path that exists"),
        ("empty.csv", "empty.csv: the file is empty (0 bytes)"),
        ("header.csv", "header.csv: there is no record in it; give a file with rows"),
        ("other.csv", "its rows are of no known kind; say which with --as, or name columns with --columns. as exam: "),
        ("empty", "empty: the directory has no file of a known type"),
        ("binary.csv", "binary.csv:1: expected a line of UTF-8 text"),
        ("notes.html", "found .html"),
        ("owner/none", "owner/none: the Hugging Face hub cannot be reached"),
        ("terms.csv --as exam", "terms.csv: no question found. 1 bad row was skipped"),
        ("terms.csv --as poem", "'poem' is not one of"),
        ("terms.csv --encoding klingon", "encoding is 'klingon'; allowed: utf-8, cp949"),
        ("terms.csv --columns x=y", "--columns names the field 'x'; allowed: text, term"),
        ("terms.csv --columns term", "--columns has 'term'; give FIELD=COLUMN"),
        ("terms.csv --max-samples 0", "Invalid value for '--max-samples'"),
    ],
)
def test_data_show(place: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str) -> None:
    refuses(place, monkeypatch, ("data", "show", *command.split()), says)


def refuses(place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str) -> None:
    monkeypatch.chdir(place)
    before = listing(place)
    code, out, err = run_command_line(*arguments)
    assert code == 2, (code, out, err)
    assert says in err
    assert err.lower().count("error: ") == 1, err
    assert "Traceback" not in err
    assert listing(place) == before


def test_a_check_that_fails_has_its_fix_below_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` reports what it finds wrong as checks, and goes on."""
    monkeypatch.chdir(place)
    code, out, err = run_command_line("doctor", "empty", *CHAIN)
    assert (code, err) == (2, "")
    assert "failure tensors              empty contains no weights" in out
    assert "neither tokenizer.json nor tokenizer.model is there; copy the tokenizer files" in out
    assert out.splitlines()[-1].endswith("2 failures") or out.splitlines()[-1].endswith("3 failures")
    code, out, _ = run_command_line("doctor", "base", "--serving", "http://127.0.0.1:9/v1", *CHAIN)
    assert code == 2
    assert "failure server" in out
    assert "127.0.0.1:9" in out
