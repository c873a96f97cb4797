"""Tiny random Gemma 3 models of both classes with a Gemma-like tokenizer, built in the test process."""

import gc
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes with a thread per core each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from chain_making import (  # noqa: F401 - fixtures
    begun,
    finished_chain,
    finished_copy,
    lorachain,
    root,
    started,
    tiny_workspace,
)
from fault_making import undisturbed  # noqa: F401 - fixture
from hub_server import hub  # noqa: F401 - fixture

TEST_DEVICE = torch.device(os.environ.get("LORACHAIN_TEST_DEVICE", "cpu"))
"""Where tiny models are (`make test-gpu`: the tests of gpu_tests.txt, on a GPU)."""

SLOWEST = (
    "chain/test_ablation.py",
    "chain/test_ledger.py",
    "faults/test_two_processes.py",
    "chain/test_replay.py",
    "chain/test_chain_end_to_end.py",
    "faults/test_kill_anywhere.py",
    "faults/test_disk_and_clock.py",
    "training/test_resume.py",
    "cli/test_stopped_stages.py",
    "cli/test_dial.py",
    "chain/test_reasoning_step.py",
    "chain/test_stage_table.py",
    "weights/test_quantized.py",
    "chain/test_quantized_chain.py",
    "chain/test_landed_weights.py",
    "benchmarks/test_training_benchmark.py",
    "chain/test_held_out.py",
)
"""Files of the longest tests, which begin first: no process waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Leaves what is imported and the tests themselves out of garbage collection, which stages do before each model."""
    gc.collect()
    gc.freeze()


# No timing assertions: how long an example takes is the machine's affair. No database: a test leaves no files behind.
hypothesis.settings.register_profile("lorachain", deadline=None, database=None)
hypothesis.settings.load_profile("lorachain")

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def make_tokenizer(*, chat: bool = False, words: Sequence[str] = ()) -> Any:
    """Byte-fallback BPE: every text has ids, as with Gemma's own tokenizer.

    Without merges, so that " A" is a space and a letter. `words` are single tokens together with the space before
    them, as " A" is in Gemma's own vocabulary.

    Of type Any: the annotations of transformers allow decode() to return a list, which `tokens.Tokenizer` excludes.
    """
    tokens = SPECIAL + [f"<0x{i:02X}>" for i in range(256)] + ["▁", *"ABCDE정답풀이용어뜻영"]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        merges |= {(f"▁{word[:i]}", word[i]): None for i in range(len(word))}
    tokens += [token for pair in merges for token in (pair[1], "".join(pair))]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    core = Tokenizer(models.BPE(ids, list(merges), unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text_config(**overrides: Any) -> Gemma3TextConfig:
    """Four layers, one of them full attention, a window of 16: both kinds of layer are exercised."""
    values: dict[str, Any] = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "max_position_embeddings": 4096,
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        **overrides,
    }
    return Gemma3TextConfig(**values)


def make_text_model(seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Gemma3ForCausalLM:
    torch.manual_seed(seed)
    model: Gemma3ForCausalLM = _randomize(Gemma3ForCausalLM(text_config(**overrides)), dtype)
    return model


def make_multimodal_model(
    seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> Gemma3ForConditionalGeneration:
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    special_ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = Gemma3Config(
        text_config=text_config(**overrides),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=383,
        boi_token_index=382,
        eoi_token_index=381,
        **special_ids,
    )
    model: Gemma3ForConditionalGeneration = _randomize(Gemma3ForConditionalGeneration(config), dtype)
    return model


def _randomize(model: Any, dtype: torch.dtype) -> Any:
    """Weights large enough that logits differ clearly: the default 0.02 leaves a tiny model almost uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.1 if "norm" in name else 0.15)
    model.generation_config.eos_token_id = [1, 5]
    return model.to(TEST_DEVICE, dtype).eval()


@pytest.fixture(params=["text", "multimodal"])
def tiny_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A float32 tiny model, once of each class."""
    return make_text_model() if request.param == "text" else make_multimodal_model()


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture
def chat_tokenizer() -> Any:
    return make_tokenizer(chat=True)


@pytest.fixture(scope="session")
def save_tiny_in() -> Callable[..., Path]:
    """Writes a tiny model of a class into a folder laid out as the hub lays it; returns that folder."""

    def save(
        parent: Path,
        kind: str = "text",
        *,
        chat: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        **overrides: Any,
    ) -> Path:
        make: Callable[..., PreTrainedModel] = make_text_model if kind == "text" else make_multimodal_model
        model = make(seed, dtype, **overrides)
        folder = parent / f"tiny-{kind}-{seed}"
        model.save_pretrained(folder)
        make_tokenizer(chat=chat).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def save_tiny(tmp_path: Path, save_tiny_in: Callable[..., Path]) -> Callable[..., Path]:
    """`save_tiny_in` the test's own folder."""
    return partial(save_tiny_in, tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, named by LORACHAIN_REAL_DATA; skips with the reason where it is absent."""
    name = os.environ.get("LORACHAIN_REAL_DATA")
    if not name or not Path(name).is_dir():
        pytest.skip("LORACHAIN_REAL_DATA names no folder: the real data may not be shipped (licences)")
    return Path(name)
