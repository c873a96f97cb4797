"""Whatever is in a model's or an adapter's files: they load, or one message says why not. No traceback, no hang."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_making import ATTENTION, IDS, save_adapter_for, save_base
from lorachain.errors import LorachainError
from lorachain.weights.load import load_model, load_tokenizer
from lorachain.weights.lora import load_adapter
from lorachain.weights.merge import merge_adapter

CPU = torch.device("cpu")
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**9, 10**18, -(10**30), 1.5, float("nan"), float("inf")),
    *("", "a", "sdpa", "((a+)+)+", "\u0000", "../x", "float16", [], [1], ["a"], {}, {"a": 1}, [[]], [None] * 5),
]
ADDED = ["auto_map", "dtype", "rope_scaling", "vision_config", "text_config", "rope_parameters", "tie_word_embeddings"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fuzz")
    return {
        "single": (single := save_base(root / "single", "text")),
        "multimodal": save_base(root / "multimodal", "multimodal"),
        "sharded": save_base(root / "sharded", "text", shard="20KB"),
        "adapter": save_adapter_for(
            single, root / "adapter", "text", alpha_pattern={"layers.1.self_attn.q_proj": 9}, target_modules=ATTENTION
        ),
    }


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a JSON value has values of its own."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    result = [path] if path else []
    for key, child in children:
        result += paths(child, (*path, key))
    return result


def mutated_json(content: bytes, dice: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(dice.choice([1, 1, 2, 3])):
        if not (positions := paths(value)):
            break
        *parents, last = dice.choice(positions)
        container = value
        for key in parents:
            container = container[key]
        if isinstance(container, dict) and dice.random() < 0.1:
            container[dice.choice(ADDED)] = deepcopy(dice.choice(VALUES))
        elif isinstance(container, dict) and dice.random() < 0.15:
            del container[last]
        else:
            container[last] = deepcopy(dice.choice(VALUES))
    return json.dumps(value).encode()


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice([1, 2, 4])):
        changed[dice.randrange(min(len(changed), 4_000))] = dice.randrange(256)
    return bytes(changed[: dice.randrange(len(changed))] if dice.random() < 0.2 else changed)


def load_and_compute(folder: Path) -> None:
    load_model(folder, CPU)(input_ids=IDS)


def tokenize(folder: Path) -> None:
    load_tokenizer(folder)("환자 <bos> a")


FILES: dict[str, tuple[str, str, Callable[[bytes, random.Random], bytes]]] = {
    "text configuration": ("single", "config.json", mutated_json),
    "multimodal configuration": ("multimodal", "config.json", mutated_json),
    "generation configuration": ("single", "generation_config.json", mutated_json),
    "weights' header": ("single", "model.safetensors", mutated_bytes),
    "index": ("sharded", "model.safetensors.index.json", mutated_json),
    "tokenizer": ("single", "tokenizer.json", mutated_json),
    "tokenizer configuration": ("single", "tokenizer_config.json", mutated_json),
    "adapter's configuration": ("adapter", "adapter_config.json", mutated_json),
    "adapter's header": ("adapter", "adapter_model.safetensors", mutated_bytes),
    "any bytes": ("single", "config.json", mutated_bytes),
}


@pytest.mark.parametrize("file", FILES)
@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_every_file_loads_or_is_refused(folders: dict[str, Path], file: str, seed: int) -> None:
    folder, name, mutate = FILES[file]
    path = folders[folder] / name
    content = path.read_bytes()
    path.write_bytes(mutate(content, random.Random(seed)))
    # Any other exception fails the test.
    try:
        with suppress(LorachainError):
            if folder == "adapter":
                load_adapter(load_model(folders["single"], CPU), folders["adapter"], trainable=False)
                merge_adapter(folders["single"], folders["adapter"], folders["single"].parent / f"merged-{seed}")
            elif name.startswith("tokenizer"):
                tokenize(folders[folder])
            else:
                load_and_compute(folders[folder])
    finally:
        path.write_bytes(content)
