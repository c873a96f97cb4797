"""Checks of a model's files: tensors, types, tokenizer and chat template."""

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, cast

from lorachain.artifacts import Check
from lorachain.doctor.findings import failure, gigabytes, ok, warning
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder
from lorachain.weights.checks import check_weights
from lorachain.weights.load import folder_end_ids, load_tokenizer
from lorachain.weights.model_config import read_model_config
from lorachain.weights.parameter_names import key_prefix
from lorachain.weights.safetensors_io import open_shards

_PROMPT = Prompt("두통이 있는 환자", "정답：")


def weights_bytes(folder: Path) -> int:
    """The size of a model's safetensors files.

    Raises:
        ModelError: the weights are missing or broken.
    """
    return sum(tensor.size for tensor in open_shards(folder).tensors.values())


def check_tensors(folder: Path) -> Iterator[Check]:
    """Headers only: every parameter from a file, the tied head, the names of the keys, the types.

    Raises:
        ModelError: as `check_weights`.
    """
    names = check_weights(folder)
    tensors = names.shards.tensors
    prefixes = ", ".join(name for name, _ in Counter(map(key_prefix, tensors)).most_common(3))
    parameters = sum(prod(tensor.shape) for tensor in tensors.values())
    files = len(names.shards.shards)
    yield ok(
        "tensors",
        f"{len(tensors)} tensors in {files} file{'' if files == 1 else 's'}, {parameters:,} parameters, "
        f"{gigabytes(weights_bytes(folder))}: exactly those of {type(names.model).__name__}; keys {prefixes}",
    )
    if names.tied:
        stored = sorted(name for name in names.tied if name in names.stored)
        yield ok("head", f"tied to the embeddings, stored as {' and '.join(names.stored[name] for name in stored)}")
    else:
        yield warning(
            "head",
            "the head is not tied to the embeddings, as it is in every published Gemma 3",
            "check tie_word_embeddings in config.json, unless the model was made so",
        )
    yield from _check_types(folder, Counter(tensor.dtype for tensor in tensors.values()))


def _check_types(folder: Path, types: Counter[str]) -> Iterator[Check]:
    declared = str(getattr(read_model_config(folder), "dtype", None) or "no type").removeprefix("torch.")
    stored = ", ".join(f"{name} ({count})" for name, count in types.most_common())
    if "F16" in types or declared == "float16":
        yield failure(
            "type",
            f"stored as {stored}, config.json says {declared}: Gemma 3 overflows float16",
            "use the bf16 weights that it was made from, and write bfloat16 into config.json",
        )
    else:
        yield ok("type", f"stored as {stored}, config.json says {declared}")


def check_tokenizer(folder: Path) -> Iterator[Check]:
    """Tokenizer, embeddings, BOS and chat template.

    Raises:
        ModelError: the tokenizer or its template cannot be used, or the embeddings lack a row for a token.
    """
    tokenizer = load_tokenizer(folder)
    encoder = TokenEncoder(tokenizer)
    rows = cast(Any, read_model_config(folder).get_text_config()).vocab_size
    vocabulary = cast(Any, tokenizer).get_vocab()
    yield ok("tokenizer", f"{len(vocabulary):,} tokens, embeddings of {rows:,} rows")
    yield from _check_bos(encoder)
    yield from _check_turns(encoder, folder_end_ids(folder))


def _check_bos(encoder: TokenEncoder) -> Iterator[Check]:
    ids = encoder.prompt_ids(_PROMPT)
    if ids[0] != encoder.bos_id or ids.count(encoder.bos_id) != 1:
        yield failure(
            "BOS",
            f"a prompt has {ids.count(encoder.bos_id)} BOS tokens; exactly one is needed, at its beginning",
            "use the tokenizer files published with the model",
        )
        return
    alone = cast(list[int], encoder.tokenizer("환자")["input_ids"]).count(encoder.bos_id)
    if alone == 1:
        yield ok("BOS", "exactly one, at the beginning of every sequence")
        return
    yield warning(
        "BOS",
        f"lorachain adds exactly one, the tokenizer by itself {alone or 'none'}",
        "where other tools use this tokenizer, see that every prompt begins with exactly one (add_bos_token)",
    )


def _check_turns(encoder: TokenEncoder, end_ids: set[int]) -> Iterator[Check]:
    if encoder.turns is None:
        end = encoder.tokenizer.decode([encoder.end_id])
        yield ok("chat template", f"none: prompts are plain text, an answer ends with {end}")
        return
    end = encoder.turns.end
    if encoder.end_id in end_ids or encoder.end_id == encoder.eos_id:
        yield ok("chat template", f"an answer ends with {end} (id {encoder.end_id}), which ends generation too")
        return
    yield warning(
        "chat template",
        f"an answer ends with {end} (id {encoder.end_id}), which is not among the ids that end generation "
        f"({', '.join(map(str, sorted(end_ids))) or 'none'}): other tools would write on behind it",
        f"add {encoder.end_id} to eos_token_id in generation_config.json",
    )
