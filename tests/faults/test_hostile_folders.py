"""Damaged and hostile files in model directories: a message and exit code 2, never a hang, a crash or unpickling."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import make_workspace, options_of, run_command_line

NESTED = "[" * 100_000


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def header_of_a_terabyte(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")


def nested(path: Path) -> None:
    path.write_text(NESTED)


def nested_header(path: Path) -> None:
    path.write_bytes(len(NESTED).to_bytes(8, "little") + NESTED.encode())


def a_gigabyte(path: Path) -> None:
    """Sparse: cheap to create, and a gigabyte of memory to read."""
    path.write_bytes(b"{")
    os.truncate(path, 2**30)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    """Reading it would block forever."""
    path.unlink()
    os.mkfifo(path)


def not_utf8(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}")


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


Damage = Callable[[Path], None]
WEIGHTS: list[Damage] = [empty, cut, header_of_a_terabyte, nested_header, loop]
JSONS: list[Damage] = [empty, cut, nested, a_gigabyte, loop, pipe, not_utf8, other_json]


def assert_refused(code: int, err: str, *texts: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    for text in texts:
        assert text in err


@pytest.fixture
def fresh(tmp_path: Path, save_tiny: Callable[..., Path]) -> tuple[Path, Path]:
    """A workspace and the directory of its model."""
    weights = save_tiny("text")
    return make_workspace(tmp_path / "workspace", weights), weights


@pytest.mark.parametrize("damage", WEIGHTS)
def test_the_bases_weights(fresh: tuple[Path, Path], damage: Damage) -> None:
    root, weights = fresh
    damage(weights / "model.safetensors")
    code, _, err = run_command_line("init", *options_of(root))
    assert_refused(code, err, str(weights))
    assert not (root / "model" / "raw_lora_added").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", JSONS)
def test_the_bases_json(fresh: tuple[Path, Path], damage: Damage, name: str) -> None:
    root, weights = fresh
    damage(weights / name)
    code, _, err = run_command_line("init", *options_of(root))
    if name == "tokenizer_config.json" and damage in (loop, pipe):
        return  # transformers treats it as missing, and does not need it
    assert_refused(code, err, str(weights))


@pytest.mark.parametrize("damage", JSONS)
def test_model_paths(fresh: tuple[Path, Path], damage: Damage) -> None:
    root, _ = fresh
    damage(root / "model" / "raw" / "model_paths.json")
    code, _, err = run_command_line("init", *options_of(root))
    assert_refused(code, err, "model_paths.json")


@pytest.fixture
def started(fresh: tuple[Path, Path]) -> tuple[Path, Path]:
    """A workspace with raw_lora_added, and that directory."""
    root, _ = fresh
    assert run_command_line("init", *options_of(root))[0] == 0
    return root, root / "model" / "raw_lora_added" / "tiny"


@pytest.mark.parametrize("damage", WEIGHTS)
def test_a_parents_adapter(started: tuple[Path, Path], damage: Damage) -> None:
    root, parent = started
    damage(parent / "adapter_model.safetensors")
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert_refused(code, err, str(parent))
    assert not (root / "model" / "00_trained").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "training_info.json"])
@pytest.mark.parametrize("damage", JSONS)
def test_a_parents_json(started: tuple[Path, Path], damage: Damage, name: str) -> None:
    root, parent = started
    damage(parent / name)
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert_refused(code, err, str(parent))
    # No command follows a link in a workspace.
    assert run_command_line("status", *options_of(root))[0] == (2 if damage is loop else 0)


def test_a_pickle_instead_of_an_adapter_is_never_loaded(started: tuple[Path, Path], tmp_path: Path) -> None:
    """PEFT reads adapter_model.bin where the safetensors file is missing."""
    root, parent = started
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.mkdir, (witness,)

    (parent / "adapter_model.safetensors").unlink()
    (parent / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert_refused(code, err, "adapter_model.safetensors")
    assert not witness.exists()


def test_a_pickle_instead_of_weights_is_never_loaded(fresh: tuple[Path, Path], tmp_path: Path) -> None:
    root, weights = fresh
    shutil.move(weights / "model.safetensors", weights / "pytorch_model.bin")
    code, _, err = run_command_line("init", *options_of(root))
    assert_refused(code, err, "model.safetensors")


@pytest.mark.parametrize("name", ["../x", "/etc", "", "a\nb", "..", "a/b", "x" * 97])
def test_a_model_name_cannot_leave_the_workspace(fresh: tuple[Path, Path], name: str) -> None:
    root, _ = fresh
    code, _, err = run_command_line("status", "--model", name, "--workspace", root)
    assert_refused(code, err, "is not allowed")
