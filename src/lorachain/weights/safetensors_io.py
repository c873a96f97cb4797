"""Weights on disk: safetensors files, single or sharded, read in blocks and hashed by content.

The format is eight bytes of header length, a JSON header (name -> dtype, shape, byte range) and the raw values
(https://github.com/huggingface/safetensors#format). Files are read, not mapped: each block is freed after use, so the
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
"""Bytes read at once where a tensor is only copied or hashed; a multiple of every element size."""
TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""The types that a LoRA can be merged into."""
LOADABLE_DTYPES = {**TORCH_DTYPES, "F64": torch.float64}
"""The types that a model's weights can be loaded from."""
_ITEM_SIZES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is stored: `size` bytes of `file` from the absolute position `start`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file: its header as stored (length included), tensors in the order of their bytes."""

    file: Path
    header: bytes
    tensors: list[StoredTensor]


@dataclass(frozen=True, slots=True)
class Shards:
    """All weights of a model directory."""

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
        ModelError: the file is missing, is not a safetensors file, or is truncated.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            header_size = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or header_size > min(_MAX_HEADER, length - 8):
                raise ModelError(f"{file} is truncated or not a safetensors file ({length} bytes); fetch it again")
            header = stream.read(header_size)
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        tensors = sorted((_stored(file, 8 + header_size, *item) for item in entries.items()), key=lambda t: t.start)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
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
    """The weights of a directory, as transformers would find them: `model.safetensors`, else what the index lists.

    Raises:
        ModelError: there are none, a shard is missing or truncated, or the index does not match the shards.
    """
    if (folder / SINGLE_FILE).is_file():
        shard = read_shard(folder / SINGLE_FILE)
        return Shards(folder, [shard], None, {tensor.name: tensor for tensor in shard.tensors})
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ModelError(f"{folder} contains no weights: neither {SINGLE_FILE} nor {INDEX_FILE}")
    index, weight_map = _read_index(path)
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{path} names the file {name!r}; allowed: a .safetensors file in the same directory")
        if not (folder / name).is_file():
            raise ModelError(f"{path} names {name}, which is missing; fetch the model again")
    shards = [read_shard(folder / name) for name in names]
    shard_of = {tensor.name: shard.file.name for shard in shards for tensor in shard.tensors}
    if sum(len(shard.tensors) for shard in shards) != len(shard_of):
        raise ModelError(f"{folder}: two shards have a tensor of the same name; fetch the model again")
    wrong = sorted(name for name in weight_map.keys() | shard_of.keys() if weight_map.get(name) != shard_of.get(name))
    if wrong:
        raise ModelError(
            f"{path} is wrong about {len(wrong)} tensors, first {wrong[0]}: the index says "
            f"{weight_map.get(wrong[0], 'nothing')}, it is in {shard_of.get(wrong[0], 'no shard')}"
        )
    return Shards(folder, shards, index, {tensor.name: tensor for shard in shards for tensor in shard.tensors})


def _read_index(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of an index, and its `weight_map`: tensor -> file. `metadata` may be missing; nothing needs it.

    Raises:
        ModelError: it is not an index of weights.
    """
    try:
        index = load_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as an index of weights: {error}; fetch the model again") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(
            f'{path} is not an index of weights: it must contain an object "weight_map" with the file of each tensor; '
            "fetch the model again"
        )
    wrong = next((name for name, file in weight_map.items() if not isinstance(file, str)), None)
    if wrong is not None:
        raise ModelError(
            f"{path} is not an index of weights: the file of {wrong} is {json.dumps(weight_map[wrong])[:80]}, not a "
            "name"
        )
    return index, weight_map


def read_blocks(tensor: StoredTensor, block: int = COPY_BLOCK) -> Iterator[bytearray]:
    """The bytes of a tensor in pieces of at most `block`, each a new buffer.

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
                count = stream.readinto(view[filled:])
                if not count:
                    raise ModelError(f"{tensor.file} ended while {tensor.name} was read; fetch it again")
                filled += count
            yield buffer
            left -= len(buffer)


def read_tensor(tensor: StoredTensor) -> Tensor:
    """A complete tensor in its stored type (one of `TORCH_DTYPES`)."""
    if not tensor.size:
        return torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype])
    (buffer,) = read_blocks(tensor, tensor.size)
    return torch.frombuffer(buffer, dtype=TORCH_DTYPES[tensor.dtype]).view(tensor.shape)


def refuse_not_finite(tensor: StoredTensor, block: bytearray) -> None:
    """Raises ModelError where some bytes of a floating-point tensor hold a NaN or an infinity."""
    dtype = LOADABLE_DTYPES.get(tensor.dtype)
    if dtype is not None and not is_finite(torch.frombuffer(block, dtype=dtype)):
        raise ModelError(
            f"{tensor.file}: the tensor {tensor.name} has values that are not finite (NaN or infinity): the file is "
            "damaged, or the training that it comes from diverged. Fetch the model again, or use another one"
        )


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. Unlike `isfinite().all()` it allocates nothing and reads once."""
    if not values.numel():
        return True
    lowest, highest = torch.aminmax(values)  # a NaN is passed on
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


def tensor_sha256(tensor: StoredTensor, *, require_finite: bool = False) -> str:
    """SHA-256 of a tensor's bytes.

    Raises:
        ModelError: the file ends early, or with `require_finite` a value is NaN or infinite.
    """
    digest = hashlib.sha256()
    for block in read_blocks(tensor):
        if require_finite:
            refuse_not_finite(tensor, block)
        digest.update(block)
    return digest.hexdigest()


def weights_sha256(folder: Path, *, require_finite: bool = False) -> str:
    """The identity of a model's weights: SHA-256 over `config.json` and every tensor's name, type, shape and bytes.

    It is the hash of a small JSON of hashes (see `combine_digests`), so it does not change when the same weights are
    sharded differently, and a merge can compute it in the same pass.

    Raises:
        ModelError: the weights are incomplete or broken, or with `require_finite` a value is NaN or infinite.
    """
    shards = open_shards(folder)
    digests = {name: tensor_sha256(t, require_finite=require_finite) for name, t in shards.tensors.items()}
    return combine_digests(shards, digests)


def combine_digests(shards: Shards, digests: dict[str, str]) -> str:
    """`weights_sha256` from the SHA-256 of each tensor's bytes.

    SHA-256 of the canonical JSON `{"config": sha256(config.json), "tensors": {name: [dtype, shape, sha256(bytes)]}}`.

    Raises:
        ModelError: `config.json` cannot be read.
    """
    try:
        config = sha256_file(shards.folder / "config.json")
    except OSError as error:
        raise ModelError(f"{shards.folder} is not a model directory: config.json: {error.strerror}") from error
    tensors = {n: [t.dtype, list(t.shape), digests[n]] for n, t in shards.tensors.items()}
    return sha256_json({"config": config, "tensors": tensors})
