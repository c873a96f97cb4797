"""The fixed probe: are two ways to the same weights the same model? Exam questions and plain text, both shipped."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.exam.scoring import letter_tokens
from lorachain.memory import release
from lorachain.prompts import answer_prompt
from lorachain.tokens import TokenEncoder
from lorachain.weights.adapter import load_adapter
from lorachain.weights.load import load_model, load_tokenizer
from lorachain.weights.proof import compare_probe, probe_logits

QUESTIONS = 16
DOCUMENTS = 8
_DOCUMENT_TOKENS = 256


class Probe:
    """Compares models by their next-token logits after each of the probe's rows; one is in memory at a time."""

    def __init__(self, base: Path, device: torch.device, dtype: torch.dtype) -> None:
        encoder = TokenEncoder(load_tokenizer(base))
        questions = load_exam(["sample"], "dev", max_samples=QUESTIONS).questions
        documents = stream_plain_text(["sample"], max_samples=DOCUMENTS)
        self._rows = [encoder.prompt_ids(answer_prompt(question)) for question in questions]
        self._rows += [[encoder.bos_id, *encoder.text_ids(d.text)][:_DOCUMENT_TOKENS] for d in documents]
        self._letters = letter_tokens(encoder).ids
        self._device, self._dtype = device, dtype

    def logits(self, base: Path, adapter: Path | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """(N, V) float32 logits of base (+ adapter), computed in `dtype` or the probe's own type."""
        release()
        model = load_model(base, self._device, dtype or self._dtype)
        return probe_logits(load_adapter(model, adapter, trainable=False) if adapter else model, self._rows)

    def compare(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        """Max and mean |Δlogit|, KL in nats, agreement of the most likely token and of the exam letter."""
        return compare_probe(a, b, self._letters)


def prove_merge(base: Path, adapter: Path, merged: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """base + adapter against the merged model, in the same numeric type."""
    probe = Probe(base, device, dtype)
    return probe.compare(probe.logits(base, adapter), probe.logits(merged))


def prove_composition(
    base: Path, composed: Path, merged_base: Path, second: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """base + composed against merged base + second adapter.

    `in_dtype` is what a user sees. `rounding_of_merged_base` is the same in float32, where nothing but the rounding of
    the merged base (and what a recompression left out) can differ.
    """
    probe = Probe(base, device, dtype)

    def compared(compute: torch.dtype) -> dict[str, Any]:
        chained = probe.logits(merged_base, second, compute)
        return probe.compare(chained, probe.logits(base, composed, compute))

    return {"in_dtype": compared(dtype), "rounding_of_merged_base": compared(torch.float32)}
