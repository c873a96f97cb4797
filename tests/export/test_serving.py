"""SERVING.md has the commands that serve what is beside it."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from artifact_making import training_info
from lora_making import save_adapter_for, save_base
from lorachain.export.card import CardFacts
from lorachain.export.folders import copy_adapter
from lorachain.export.serving import serving_text


def facts(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {"name": "kormed", "base": "google/medgemma-4b-it", "stages": [training_info()]}
    return CardFacts(**{"auto_class": "AutoModelForCausalLM", **values, **changes})


def command(text: str, start: str) -> list[str]:
    """The command of the page that begins with `start`, as a shell would read it."""
    lines = text.replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith(start)))


def test_merged_weights() -> None:
    text = serving_text(facts(), rank=None)
    words = command(text, "vllm serve")
    assert words[:5] == ["vllm", "serve", "THIS_DIRECTORY", "--served-model-name", "kormed"]
    assert words[words.index("--dtype") + 1] == "bfloat16"
    assert "--enable-lora" not in words
    assert "/v1/chat/completions" in text
    assert "llmcompressor" in text


@pytest.mark.parametrize(("rank", "allowed"), [(1, "8"), (16, "16"), (32, "32"), (33, "64"), (512, "512")])
def test_an_adapter(rank: int, allowed: str) -> None:
    text = serving_text(facts(), rank=rank)
    words = command(text, "vllm serve")
    assert words[2] == "google/medgemma-4b-it"
    assert words[words.index("--max-lora-rank") + 1] == allowed
    assert words[words.index("--lora-modules") + 1] == "kormed=THIS_DIRECTORY"
    server = ["--serving", "http://localhost:8000/v1", "--server-model", "kormed"]
    assert command(text, "lorachain doctor") == ["lorachain", "doctor", "THIS_DIRECTORY", *server]
    assert "llmcompressor" not in text


def test_a_base_that_is_not_on_the_hub_is_a_directory() -> None:
    words = command(serving_text(facts(base="gemma-3-270m"), rank=8), "vllm serve")
    assert words[2:5] == ["PATH_OF_THE_BASE", "--served-model-name", "gemma-3-270m"]


def test_a_rank_that_vllm_does_not_serve() -> None:
    assert "vLLM serves adapters up to rank 512" in serving_text(facts(), rank=513)


def test_a_multimodal_base_is_served_without_images() -> None:
    words = command(serving_text(facts(auto_class="AutoModelForImageTextToText"), rank=None), "vllm serve")
    assert words[words.index("--limit-mm-per-prompt") + 1] == '{"image": 0}'


def test_without_a_chat_template_prompts_are_plain() -> None:
    text = serving_text(facts(chat=False), rank=None)
    assert "Use `/v1/completions`" in text
    assert "--completions" in command(text, "lorachain eval")


def test_the_page_beside_an_adapter_has_its_rank(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    (tmp_path / "out").mkdir()
    copy_adapter(base, adapter, tmp_path / "out", facts(base="google/gemma-3-270m"))
    assert "LoRA of rank 4 on google/gemma-3-270m" in (tmp_path / "out" / "SERVING.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()
