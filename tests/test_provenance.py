"""Hashes identify content: equal content has one hash, and a change of any part of it another."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain import provenance
from lorachain.errors import AdapterError
from lorachain.provenance import (
    adapter_sha256,
    canonical_json,
    git_commit,
    load_json,
    package_versions,
    sha256_file,
    sha256_files,
    sha256_json,
    write_json,
)
from lorachain.version import __version__

scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=4)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(inner) for inner in value] if isinstance(value, list) else value


@given(json_values)
def test_the_order_of_keys_changes_no_hash(value: Any) -> None:
    assert sha256_json(reversed_keys(value)) == sha256_json(value)
    assert json.loads(canonical_json(value)) == value


@given(json_values, json_values)
def test_values_that_differ_have_hashes_that_differ(a: Any, b: Any) -> None:
    assert (sha256_json(a) == sha256_json(b)) == (json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))


def test_the_canonical_form() -> None:
    """Hashes in files of finished stages depend on these bytes."""
    assert canonical_json({"b": [1, "환자"], "a": None}) == '{"a":null,"b":[1,"환자"]}'.encode()
    assert sha256_json({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_an_adapter_is_its_configuration_and_its_weights(adapter: Path) -> None:
    """An edited alpha changes every logit, although no weight changes."""
    before = adapter_sha256(adapter)
    (adapter / "training_info.json").write_text("{}", encoding="utf-8")
    assert adapter_sha256(adapter) == before
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}), encoding="utf-8")
    with_other_alpha = adapter_sha256(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights!")
    with_other_weights = adapter_sha256(adapter)
    assert len({before, with_other_alpha, with_other_weights}) == 3


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_has_no_identity(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(AdapterError, match=r"is not a complete adapter.*create it again"):
        adapter_sha256(adapter)


def test_files_are_hashed_by_their_place_below_a_folder(adapter: Path) -> None:
    (adapter / "sub").mkdir()
    (adapter / "sub" / "a.txt").write_bytes(b"a")
    hashes = sha256_files(adapter)
    assert list(hashes) == ["adapter_config.json", "adapter_model.safetensors", "sub/a.txt"]
    assert hashes["sub/a.txt"] == hashlib.sha256(b"a").hexdigest() == sha256_file(adapter / "sub" / "a.txt")


def test_a_pipe_is_neither_hashed_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        sha256_file(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        load_json(tmp_path / "pipe")


def test_json_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MAX_JSON_BYTES", 8)
    (tmp_path / "a.json").write_text('"123456"')
    assert load_json(tmp_path / "a.json") == "123456"
    (tmp_path / "a.json").write_text('"1234567"')
    with pytest.raises(ValueError, match="it has 9 bytes, more than the limit of 8"):
        load_json(tmp_path / "a.json")


def test_json_that_is_nested_too_deeply_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        load_json(tmp_path / "a.json")


def test_json_is_written_for_people_and_never_with_numbers_that_are_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"이름": [1, 2]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "이름": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", float("nan"))
    assert load_json(tmp_path / "a.json") == {"이름": [1, 2]}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the package in src, as the module's own."""
    package = tmp_path / "outer" / "checkout" / "src" / "lorachain"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("", encoding="utf-8")
    folder = package.parents[1]
    git(folder.parent, "init", "-q")
    git(folder.parent, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return folder


def test_a_repository_above_the_package_is_somebody_elses(checkout: Path) -> None:
    assert git_commit() is None


def test_a_checkout_has_its_commit_and_says_where_it_was_changed(checkout: Path) -> None:
    git(checkout, "init", "-q")
    assert git_commit() is None  # nothing was committed yet
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "notes.txt").write_text("not tracked", encoding="utf-8")
    assert git_commit() == commit
    (checkout / "src" / "lorachain" / "provenance.py").write_text("changed = True", encoding="utf-8")
    assert git_commit() == f"{commit}+dirty"


def test_versions_name_what_computes() -> None:
    versions = package_versions()
    assert versions["lorachain"] == __version__
    assert {"python", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy"} <= versions.keys()
