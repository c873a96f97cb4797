"""Cached tokens that came with a workspace are not trained on: only those that this account made here are."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from chain_making import TWO_LAYERS, make_workspace, options_of, run_command_line
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file
from lorachain.user_key import is_signed, signature
from lorachain.workspace import user_key_file

AGAIN = "they are created again"


@pytest.fixture
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of this test's own key, which does not exist yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return user_key_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    """A workspace whose stage 00 was trained by another account: its key is gone."""
    parent = tmp_path_factory.mktemp("trained")
    root = make_workspace(parent / "workspace", save_tiny_in(parent, **TWO_LAYERS), measured=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(parent / "state"))
        for command in (("init",), ("train", "00")):
            code, _, err = run_command_line(*command, *options_of(root))
            assert code == 0, err
    return root


def train_again(root: Path) -> tuple[str, str]:
    """Trains stage 00 from the beginning: (SHA-256 of the adapter, messages)."""
    shutil.rmtree(root / "model" / "00_trained")
    shutil.rmtree(root / "model" / "00_training" / "tiny")
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert code == 0, err
    return sha256_file(root / "model" / "00_trained" / "tiny" / "adapter_model.safetensors"), err


def store_of(root: Path) -> Path:
    return root / "model" / "00_training" / ".tiny.data" / "tokens" / "documents"


def poison(store: Path) -> None:
    """Other ids in the rows, and a manifest that matches them in everything but the signature."""
    table = pa.ipc.open_file(store / "rows.arrow").read_all()
    ids = [[70] * len(row) for row in table.column("ids").to_pylist()]
    table = table.set_column(0, table.schema.field(0), pa.array(ids, table.schema.field(0).type))
    with pa.OSFile(str(store / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((store / "made_from.json").read_text(encoding="utf-8"))
    manifest["rows_sha256"] = sha256_file(store / "rows.arrow")
    (store / "made_from.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("poisoned", [False, True])
@pytest.mark.usefixtures("own_key")
def test_a_strangers_cache_is_made_again(poisoned: bool, trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "copy")
    expected = sha256_file(root / "model" / "00_trained" / "tiny" / "adapter_model.safetensors")
    if poisoned:
        poison(store_of(root))
    adapter, messages = train_again(root)
    assert adapter == expected
    assert "were not made by your account" in messages
    assert AGAIN in messages
    adapter, messages = train_again(root)  # now they are this account's
    assert adapter == expected
    assert AGAIN not in messages


@pytest.mark.usefixtures("own_key")
def test_an_own_cache_that_was_poisoned_is_made_again(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "copy")
    expected, _ = train_again(root)
    poison(store_of(root))
    adapter, messages = train_again(root)
    assert adapter == expected
    assert AGAIN in messages


def test_without_a_key_tokens_are_made_at_each_start(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory", encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    root = shutil.copytree(trained, tmp_path / "copy")
    expected = sha256_file(root / "model" / "00_trained" / "tiny" / "adapter_model.safetensors")
    for _ in range(2):
        adapter, messages = train_again(root)
        assert adapter == expected
        assert messages.count("tokens are created again at each start") == 1
        assert "set XDG_STATE_HOME" in messages


def test_the_key_is_created_for_its_owner_alone(own_key: Path) -> None:
    signed = signature({"a": 1})
    status = own_key.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(own_key.parent.stat().st_mode) == 0o700
    assert status.st_size == 32
    assert [path.name for path in own_key.parent.iterdir()] == ["key"]
    assert is_signed({"a": 1}, signed)
    assert not is_signed({"a": 2}, signed)
    assert not is_signed({"a": 1}, "")
    assert not is_signed({"a": 1}, "\ud800")
    own_key.unlink()
    assert not is_signed({"a": 1}, signed)  # another key


def others_may_read(key: Path) -> None:
    key.chmod(0o644)


def too_short(key: Path) -> None:
    key.write_bytes(b"\0" * 31)


def too_long(key: Path) -> None:
    key.write_bytes(b"\0" * 33)


def a_link(key: Path) -> None:
    key.rename(key.with_name("elsewhere"))
    key.symlink_to(key.with_name("elsewhere"))


def a_pipe(key: Path) -> None:
    key.unlink()
    os.mkfifo(key)


@pytest.mark.parametrize("change", [others_may_read, too_short, too_long, a_link, a_pipe])
def test_a_key_that_proves_nothing_is_refused(change: Callable[[Path], None], own_key: Path) -> None:
    signature(1)
    change(own_key)
    with pytest.raises(WorkspaceError, match=r"remove it|XDG_STATE_HOME"):
        signature(1)


def test_a_key_of_another_user_is_refused(own_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature(1)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(WorkspaceError, match="belongs to another user"):
        signature(1)


def test_the_first_of_two_keys_stays(own_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process creates its key while this one creates its own."""
    link = os.link

    def late(source: object, target: object) -> None:
        Path(str(target)).write_bytes(b"\1" * 32)
        Path(str(target)).chmod(0o600)
        link(str(source), str(target))

    monkeypatch.setattr(os, "link", late)
    signature(1)
    assert own_key.read_bytes() == b"\1" * 32
    assert [path.name for path in own_key.parent.iterdir()] == ["key"]
