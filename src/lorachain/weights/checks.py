"""Checks of a model directory before anything is computed with it.

`check_weights` reads headers only and is part of every load; `check_finite` reads all values and is for places that
read them anyway or cannot check them in memory; `check_tokenizer` compares the tokenizer with the embeddings.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from lorachain.errors import ModelError
from lorachain.tokens import Tokenizer
from lorachain.weights.parameter_names import ParameterNames, read_parameter_names
from lorachain.weights.safetensors_io import (
    INDEX_FILE,
    SINGLE_FILE,
    Shards,
    StoredTensor,
    open_shards,
    read_blocks,
    refuse_not_finite,
)


def check_weights(folder: Path) -> ParameterNames:
    """The parameters of a model directory, after checking that its files hold exactly those of its class.

    Reads headers, and the values of head and embeddings where both are stored although they are tied.

    Raises:
        ModelError: the model is not a Gemma 3 or is quantized, a tensor is missing, misnamed, of the wrong shape or
            type, or unknown to the class, or tied tensors differ; names tensors and the prefix of the files' keys.
    """
    names = read_parameter_names(open_shards(folder))
    tied: dict[str, str] = names.model.all_tied_weights_keys
    for pair in tied.items():
        first, second = (names.shards.tensors[names.stored[name]] if name in names.stored else None for name in pair)
        if first is not None and second is not None and not _same_bytes(first, second):
            raise ModelError(
                f"{folder}: {first.name} and {second.name} have different values, but config.json ties them "
                "(tie_word_embeddings). Set tie_word_embeddings to false if both are meant"
            )
    return names


def _same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    if (first.dtype, first.size) != (second.dtype, second.size):
        return False
    return all(a == b for a, b in zip(read_blocks(first), read_blocks(second), strict=True))


def check_finite(folder: Path, keys: Collection[str] | None = None) -> None:
    """Reads all tensors of a model directory, or those of the given `keys`, block by block.

    Raises:
        ModelError: a value is NaN or infinite; names the tensor and its file.
    """
    for name, tensor in open_shards(folder).tensors.items():
        if keys is None or name in keys:
            for block in read_blocks(tensor):
                refuse_not_finite(tensor, block)


def has_weights(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises ModelError unless every token of `tokenizer`, added ones included, has a row in the model's embeddings."""
    shards = open_shards(folder)
    rows = _embedding_rows(shards)
    vocabulary: dict[str, int] = cast(Any, tokenizer).get_vocab()
    token, largest = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if rows is not None and largest >= rows:
        raise ModelError(
            f"{folder}: the tokenizer has {len(vocabulary):,} tokens up to id {largest:,} ({token!r}), the embeddings "
            f"have {rows:,} rows. Use the tokenizer files that belong to these weights, or resize the embeddings "
            "(transformers: resize_token_embeddings)"
        )


def _embedding_rows(shards: Shards) -> int | None:
    """Of `embed_tokens`, or of the head where the two are tied and only the head is stored."""
    for suffix in ("embed_tokens.weight", "lm_head.weight"):
        for name, tensor in shards.tensors.items():
            if name.endswith(suffix) and tensor.shape:
                return tensor.shape[0]
    return None
