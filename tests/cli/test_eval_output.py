"""`lorachain eval` checks its output and its model before it scores anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import FinishedChain
from refusals import raising, refused


@pytest.fixture
def options(finished_chain: Callable[..., FinishedChain], monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Options of an evaluation that fails as soon as it scores a question."""
    failure = raising(AssertionError("questions were scored"))
    monkeypatch.setattr("lorachain.evaluation.protocols.letters.Letters.score", failure)
    return ("--model", "tiny", "--workspace", finished_chain("text").root, "--exam", "sample", "--device", "cpu")


@pytest.mark.parametrize("name", ["r.parquet", "r", "directory", "directory/", "r.json.bak"])
def test_a_name_that_cannot_be_a_result(tmp_path: Path, options: tuple[object, ...], name: str) -> None:
    (tmp_path / "directory").mkdir()
    refused(tmp_path, "eval", "02", *options, "--out", f"{tmp_path}/{name}", says=("--out", "must end in .json"))


@pytest.mark.parametrize("existing", ["r.json", "r.parquet"])
@pytest.mark.parametrize("make", [lambda path: path.write_text("kept"), Path.mkdir])
def test_an_existing_result_is_not_replaced(
    tmp_path: Path, options: tuple[object, ...], existing: str, make: Any
) -> None:
    make(tmp_path / existing)
    says = (f"{existing} exists", "choose another name or remove it")
    refused(tmp_path, "eval", "02", *options, "--out", tmp_path / "r.json", says=says)


def test_a_directory_that_is_a_file(tmp_path: Path, options: tuple[object, ...]) -> None:
    (tmp_path / "file").write_text("kept")
    says = ("file is not a directory that can be written to",)
    refused(tmp_path, "eval", "02", *options, "--out", tmp_path / "file" / "r.json", says=says)


@pytest.mark.parametrize(
    "name", ["nope/", "./nope", "nope/nope/nope", "../nope", "", "/nowhere/nope", "nope/..", "nope/-", "a--b/c"]
)
def test_what_is_not_a_model(tmp_path: Path, options: tuple[object, ...], name: str) -> None:
    says = (f"{name!r} is not a model that can be scored", "a stage of the chain (init, 00, 01, merge, 02)")
    refused(tmp_path, "eval", name, *options, "--out", tmp_path / "r.json", says=says)


def test_a_directory_without_a_model(tmp_path: Path, options: tuple[object, ...]) -> None:
    (tmp_path / "empty").mkdir()
    refused(
        tmp_path,
        "eval",
        tmp_path / "empty",
        *options,
        "--out",
        tmp_path / "r.json",
        says=("empty contains no weights",),
    )


def test_a_stage_that_is_missing(started: Path, tmp_path: Path) -> None:
    common = ("--model", "tiny", "--workspace", started, "--exam", "sample", "--device", "cpu")
    says = (f"{started}/model/02_trained/tiny is missing", "create it with: lorachain run --model tiny")
    refused(tmp_path, "eval", "02", *common, "--out", tmp_path / "r.json", says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--split", "validation"), ("--split is 'validation'; allowed: dev, train, test",)),
        (("--split", "test"), ("no test split",)),
        (("--protocol", "guess"), ("'guess'",)),
        (("--subjects", "surgeon"), ("surgeon", "doctor")),
    ],
)
def test_other_settings_that_are_not_allowed(
    tmp_path: Path, options: tuple[object, ...], arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refused(tmp_path, "eval", "02", *options, *arguments, "--out", tmp_path / "r.json", says=says)
