"""`SERVING.md` beside exported weights: the exact commands that serve them, and how to see that they are served."""

from pathlib import Path

from lorachain.atomic import atomic_write_text
from lorachain.export.card import CardFacts, Form
from lorachain.registry import is_hub_id

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM's --max-lora-rank allows."""


def write_serving(folder: Path, facts: CardFacts, form: Form) -> None:
    """`SERVING.md`, for merged weights and for an adapter."""
    from lorachain.weights.lora_config import read_lora_config

    rank = None
    if form == "adapter":
        config = read_lora_config(folder)
        rank = max([config.r, *(config.rank_pattern or {}).values()])
    atomic_write_text(folder / "SERVING.md", serving_text(facts, rank=rank))


def serving_text(facts: CardFacts, *, rank: int | None) -> str:
    """The page as Markdown.

    Args:
        rank: the adapter's largest; None: the weights are merged.
    """
    return (
        "\n\n".join(
            [
                f"# Serving {facts.name}",
                _merged(facts) if rank is None else _adapter(facts, rank),
                _prompts(facts),
                _check(facts, adapter=rank is not None),
                *([] if rank is not None else [_QUANTIZED]),
            ]
        )
        + "\n"
    )


def _merged(facts: CardFacts) -> str:
    return (
        "The weights are merged: any server for Gemma 3 loads this directory. With vLLM:\n\n"
        "```sh\n"
        f"vllm serve THIS_DIRECTORY --served-model-name {facts.name} --dtype bfloat16 --max-model-len 8192"
        f"{_text_only(facts)}\n"
        "```"
    )


def _adapter(facts: CardFacts, rank: int) -> str:
    allowed = next((one for one in _RANKS if one >= rank), None)
    if allowed is None:
        return (
            f"This adapter has rank {rank}; vLLM serves adapters up to rank {_RANKS[-1]}. Export the merged weights "
            "(`lorachain export --format vllm`), or compose with a smaller `--rank`."
        )
    base = facts.base if is_hub_id(facts.base) else f"PATH_OF_THE_BASE --served-model-name {facts.base}"
    return (
        f"This directory has a LoRA of rank {rank} on {facts.base}. With vLLM:\n\n"
        "```sh\n"
        f"vllm serve {base} --dtype bfloat16 --max-model-len 8192{_text_only(facts)} \\\n"
        f"  --enable-lora --max-lora-rank {allowed} --lora-modules {facts.name}=THIS_DIRECTORY\n"
        "```\n\n"
        f"Ask for the model `{facts.name}`; `{facts.base}` is the base without the adapter. Some versions of vLLM load "
        "an adapter of a multimodal Gemma 3 and then ignore it (vllm-project/vllm#34186): do the check below, and "
        "serve merged weights where it fails."
    )


def _text_only(facts: CardFacts) -> str:
    images = facts.auto_class == "AutoModelForImageTextToText"
    return " --limit-mm-per-prompt '{\"image\": 0}'" if images else ""


def _prompts(facts: CardFacts) -> str:
    if facts.chat:
        return (
            "## Prompts\n\n"
            "The model was trained in the turns of the chat template that is beside it. Use `/v1/chat/completions` "
            "with one user message; the server adds the turns and BOS once, and stops at the end of the turn. "
            "Temperature 0 is what the chain was validated with."
        )
    return (
        "## Prompts\n\n"
        "The base has no chat template, and the model was trained on plain text. Use `/v1/completions`, not "
        "`/v1/chat/completions`; the server adds BOS once. Temperature 0 is what the chain was validated with."
    )


def _check(facts: CardFacts, *, adapter: bool) -> str:
    options = f"--engine openai --base-url http://localhost:8000/v1{'' if facts.chat else ' --completions'}"
    command = f"{options} --protocol reasoning --limit 40"
    faults = "other weights, another chat template or a missing BOS"
    return (
        "## Check\n\nFour greedy answers of the server under the weights of this directory show "
        f"{'a dropped adapter, ' if adapter else ''}{faults}:\n\n"
        "```sh\n"
        f"lorachain doctor THIS_DIRECTORY --serving http://localhost:8000/v1 --server-model {facts.name}\n"
        "```\n\n"
        "Then score what the server answers, and compare it with the card's scores of the same questions:\n\n"
        "```sh\n"
        f"lorachain eval {facts.name} {command} --out served.json\n"
        "```"
    )


_QUANTIZED = """## FP8 and NVFP4

Not part of lorachain, and not tried by it. llm-compressor quantizes merged weights for vLLM:

```sh
pip install llmcompressor
python - <<'PY'
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier

scheme = "FP8_DYNAMIC"  # NVFP4 needs calibration data (`dataset=`) and a Blackwell GPU
recipe = QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head", "re:.*vision_tower.*"])
oneshot(model="THIS_DIRECTORY", recipe=recipe, output_dir="quantized")
PY
vllm serve quantized
```

Keep `lm_head` out: Gemma 3 ties it to the embeddings. Score the result again before it is used: quantizing can change
answers."""
