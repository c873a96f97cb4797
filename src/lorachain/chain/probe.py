"""The fixed probe: do two ways to the same weights result in the same model? Exam questions and plain text, both
bundled."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lorachain.artifacts import LogitDiff, MergeReport, MergeWeights
from lorachain.artifacts.merging import CompositionProbe
from lorachain.config import Quantization
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.evaluation.scoring import letter_tokens
from lorachain.memory import free_memory, release
from lorachain.prompts import answer_prompt
from lorachain.records import PlainText
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_model, load_tokenizer
from lorachain.weights.logit_diff import check_logit_diff, compare_logits, mean_kl_limit, probe_logits
from lorachain.weights.lora import load_adapter
from lorachain.weights.merge import merge_adapter
from lorachain.weights.safetensors_io import open_shards

QUESTIONS = 16
DOCUMENTS = 8
_DOCUMENT_TOKENS = 256
_FREE_SHARE = 0.9
"""Of an accelerator's free memory, for weights; the probe's activations are small."""
_MERGE = ("base + adapter", "the merged model")
_TRAINED = ("quantized base + adapter", "the merged model")


class Probe:
    """Compares models by their next-token logits after each of the probe's rows; one is in memory at a time."""

    def __init__(self, base: Path, device: torch.device, dtype: torch.dtype) -> None:
        encoder = TokenEncoder(load_tokenizer(base))
        questions = load_exam(["sample"], "dev", max_samples=QUESTIONS).questions
        stream = stream_plain_text(["sample"], max_samples=DOCUMENTS)
        documents = [document for document in stream if isinstance(document, PlainText)]
        self._rows = [encoder.prompt_ids(answer_prompt(question)) for question in questions]
        self._rows += [[encoder.bos_id, *encoder.text_ids(d.text)][:_DOCUMENT_TOKENS] for d in documents]
        self._letters = letter_tokens(encoder).ids
        self._device, self._dtype = device, dtype

    def logits(
        self,
        base: Path,
        adapter: Path | None = None,
        dtype: torch.dtype | None = None,
        quantization: Quantization = "none",
    ) -> Tensor:
        """(N, V) float32 logits of base (+ adapter), computed in `dtype` or the probe's own type."""
        release()
        model = load_model(base, self._device_for(base, quantization), dtype or self._dtype, quantization)
        return self.logits_of(load_adapter(model, adapter, trainable=False) if adapter else model)

    def logits_of(self, model: nn.Module) -> Tensor:
        """The same for a model that is in memory already."""
        return probe_logits(model, self._rows)

    def _device_for(self, base: Path, quantization: Quantization) -> torch.device:
        """The CPU where a base is trained quantized because it does not fit the accelerator otherwise."""
        if self._device.type != "cuda" or quantization != "none":
            return self._device
        fits = open_shards(base).total_bytes < _FREE_SHARE * free_memory(self._device)
        return self._device if fits else torch.device("cpu")

    def compare(
        self, a: Tensor, b: Tensor, names: tuple[str, str] = ("the reference", "the compared model")
    ) -> LogitDiff:
        """Max and mean |Δlogit|, KL in nats, agreement of the most likely token and of the exam letter.

        Raises:
            ModelError: a logit is not finite.
        """
        return LogitDiff(**compare_logits(a, b, self._letters, names))


def merge_check(
    base: Path, adapter: Path, device: torch.device, dtype: torch.dtype
) -> Callable[[Path, MergeReport], MergeReport]:
    """`check_merge_logits` as the `check` of `merge_adapter`: a merge that fails it leaves nothing behind."""
    return lambda merged, report: check_merge_logits(report, base, adapter, merged, device, dtype)


def check_merge_logits(
    report: MergeReport, base: Path, adapter: Path, merged: Path, device: torch.device, dtype: torch.dtype
) -> MergeReport:
    """The report with its probe: base + adapter against the merged model, computed in the same type.

    Where the base was quantized in training, also what training computed against the merge into the original and into
    the dequantized weights. The one that was not requested is written beside `merged`, and removed afterwards.

    Raises:
        ModelError: logits are not finite, or differ by more than `mean_kl_limit`.
        AdapterError, ModelError, ConfigError, WorkspaceError: as `merge_adapter`.
    """
    probe = Probe(base, device, dtype)
    merged_logits = probe.logits(merged)
    if report.quantization == "none":
        diff = probe.compare(probe.logits(base, adapter), merged_logits, _MERGE)
        check_logit_diff(diff.as_dict(), mean_kl_limit(dtype), " and ".join(_MERGE))
        return report.model_copy(update={"probe": diff})
    trained = probe.logits(base, adapter, quantization=report.quantization)
    other_weights: MergeWeights = "dequantized" if report.weights == "original" else "original"
    other = merged.with_name(f".{merged.name}.compared")
    shutil.rmtree(other, ignore_errors=True)  # left by a check that was killed
    try:
        merge_adapter(base, adapter, other, quantization=report.quantization, weights=other_weights)
        other_logits = probe.logits(other)
    finally:
        shutil.rmtree(other, ignore_errors=True)
    against = {
        report.weights: probe.compare(trained, merged_logits, _TRAINED),
        other_weights: probe.compare(trained, other_logits, _TRAINED),
    }
    # Quantized layers multiply by the dequantized weights (int8 also rounds activations).
    diff, limit, names = against["dequantized"], mean_kl_limit(dtype, report.quantization), _TRAINED
    if report.weights == "original":
        diff, limit, names = (
            probe.compare(probe.logits(base, adapter), merged_logits, _MERGE),
            mean_kl_limit(dtype),
            _MERGE,
        )
    check_logit_diff(diff.as_dict(), limit, " and ".join(names))
    ordered = {name: against[name] for name in sorted(against, reverse=True)}
    return report.model_copy(update={"probe": diff, "quantized_base": ordered})


def check_composition_logits(
    base: Path,
    composed: Path,
    merged_base: Path,
    second: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    exact: bool = True,
) -> CompositionProbe:
    """base + composed adapter against merged base + second adapter.

    `in_dtype` is what a user sees. `rounding_of_merged_base` is the same in float32, where nothing but the rounding of
    the merged base (and what a recompression left out) can differ. A recompression (not `exact`) may differ by any
    amount.

    Raises:
        ModelError: logits are not finite, or those of an exact composition differ by more than `mean_kl_limit`.
    """
    probe = Probe(base, device, dtype)
    names = ("merged base + second adapter", "base + composed adapter")

    def compared(compute: torch.dtype) -> LogitDiff:
        chained = probe.logits(merged_base, second, compute)
        diff = probe.compare(chained, probe.logits(base, composed, compute), names)
        if exact:
            check_logit_diff(diff.as_dict(), mean_kl_limit(compute), " and ".join(names))
        return diff

    return CompositionProbe(in_dtype=compared(dtype), rounding_of_merged_base=compared(torch.float32))
