"""Weights as they lie on disk: safetensors files, single or sharded, read in blocks and hashed by content.

The format is eight bytes of header length, a JSON header (name -> dtype, shape, byte range) and the raw numbers
(https://github.com/huggingface/safetensors#format). Files are read, never mapped: what is read is freed at once, so the
memory in use is a block's, not the model's.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorachain.errors import ModelError
from lorachain.provenance import load_json, sha256_file, sha256_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
COPY_BLOCK = 8 << 20
"""Bytes read at once where a tensor is only copied or hashed."""
TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""The types that a LoRA can be merged into."""
_ITEM_SIZES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `size` bytes of `file` from the absolute position `start`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file: its header as it stands on disk (length included), tensors in the order of their bytes."""

    file: Path
    header: bytes
    tensors: list[StoredTensor]


@dataclass(frozen=True, slots=True)
class Shards:
    """All weights of a model's folder."""

    folder: Path
    shards: list[Shard]
    index: dict[str, Any] | None
    """The content of the index where the weights are sharded."""
    tensors: dict[str, StoredTensor]

    @property
    def total_bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors.values())


def read_shard(file: Path) -> Shard:
    """The header of one safetensors file, checked against the file's length.

    Raises:
        ModelError: the file is missing, is no safetensors file, or is truncated.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            header_size = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or header_size > min(_MAX_HEADER, length - 8):
                raise ModelError(f"{file} is truncated or no safetensors file ({length} bytes); fetch it again")
            header = stream.read(header_size)
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        tensors = sorted((_stored(file, 8 + header_size, *item) for item in entries.items()), key=lambda t: t.start)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} has a broken safetensors header: {error}; fetch it again") from error
    end = 8 + header_size
    for tensor in tensors:
        if tensor.start != end:
            raise ModelError(f"{file} has a broken safetensors header: {tensor.name} does not start where others end")
        end += tensor.size
    if end != length:
        raise ModelError(f"{file} is truncated: it has {length} bytes, its header promises {end}; fetch it again")
    return Shard(file, prefix + header, tensors)


def _stored(file: Path, data_start: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    dtype, shape, (start, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    if dtype in _ITEM_SIZES and end - start != math.prod(shape) * _ITEM_SIZES[dtype]:
        raise ValueError(f"{name} of shape {shape} and type {dtype} does not fill its {end - start} bytes")
    return StoredTensor(name, file, dtype, shape, data_start + start, end - start)


def open_shards(folder: Path) -> Shards:
    """The weights of a folder, as transformers would find them: `model.safetensors`, else what the index names.

    Raises:
        ModelError: there are none, a shard is missing or truncated, or index and shards do not agree.
    """
    if (folder / SINGLE_FILE).is_file():
        shard = read_shard(folder / SINGLE_FILE)
        return Shards(folder, [shard], None, {tensor.name: tensor for tensor in shard.tensors})
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ModelError(f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE}")
    try:
        index: dict[str, Any] = load_json(path)
        weight_map: dict[str, str] = dict(index["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no index of weights: {error}") from error
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{path} names the file {name!r}; shards lie beside their index")
        if not (folder / name).is_file():
            raise ModelError(f"{path} names {name}, which is not there; fetch the model again")
    shards = [read_shard(folder / name) for name in names]
    found = {tensor.name: shard.file.name for shard in shards for tensor in shard.tensors}
    if sum(len(shard.tensors) for shard in shards) != len(found):
        raise ModelError(f"{folder}: a tensor lies in two shards; fetch the model again")
    wrong = sorted(name for name in weight_map.keys() | found.keys() if weight_map.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"{path} is wrong about {len(wrong)} tensors, first {wrong[0]}: the index says "
            f"{weight_map.get(wrong[0], 'nothing')}, it lies in {found.get(wrong[0], 'no shard')}"
        )
    return Shards(folder, shards, index, {tensor.name: tensor for shard in shards for tensor in shard.tensors})


def read_blocks(tensor: StoredTensor, block: int = COPY_BLOCK) -> Iterator[bytearray]:
    """The bytes of a tensor in pieces of at most `block`, each a fresh buffer.

    Raises:
        ModelError: the file ends early.
    """
    with tensor.file.open("rb", buffering=0) as stream:
        stream.seek(tensor.start)
        left = tensor.size
        while left:
            buffer = bytearray(min(block, left))
            view, filled = memoryview(buffer), 0
            while filled < len(buffer):
                got = stream.readinto(view[filled:])
                if not got:
                    raise ModelError(f"{tensor.file} ended while {tensor.name} was read; fetch it again")
                filled += got
            yield buffer
            left -= len(buffer)


def read_tensor(tensor: StoredTensor) -> Tensor:
    """One tensor whole, in its stored type (one of `TORCH_DTYPES`)."""
    if not tensor.size:
        return torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype])
    (buffer,) = read_blocks(tensor, tensor.size)
    return torch.frombuffer(buffer, dtype=TORCH_DTYPES[tensor.dtype]).view(tensor.shape)


def tensor_sha256(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    for block in read_blocks(tensor):
        digest.update(block)
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """The identity of a model's weights: SHA-256 over `config.json` and every tensor's name, type, shape and bytes.

    It is the hash of a small JSON of hashes (see `combine_digests`), so it does not change when the same weights are
    sharded otherwise, and a merge can compute it in the pass that it makes anyway.

    Raises:
        ModelError: the folder's weights are incomplete or broken.
    """
    shards = open_shards(folder)
    return combine_digests(shards, {name: tensor_sha256(tensor) for name, tensor in shards.tensors.items()})


def combine_digests(shards: Shards, digests: dict[str, str]) -> str:
    """`weights_sha256` from the SHA-256 of each tensor's bytes.

    SHA-256 of the canonical JSON `{"config": sha256(config.json), "tensors": {name: [dtype, shape, sha256(bytes)]}}`.
    """
    tensors = {n: [t.dtype, list(t.shape), digests[n]] for n, t in shards.tensors.items()}
    return sha256_json({"config": sha256_file(shards.folder / "config.json"), "tensors": tensors})
