"""Reports of weights that were made from others: merge, composition, GGUF."""

from typing import Any, ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record, renamed

MergeWeights = Literal["original", "dequantized"]
"""`original`: the base's files. `dequantized`: what training on a quantized base multiplied with."""


class LogitDiff(Record):
    """How far the next-token logits of two models are apart on the fixed probe rows (`weights.logit_diff`)."""

    rows: int
    max_abs_logit: float
    mean_abs_logit: float
    mean_kl: float
    """Nats."""
    max_kl: float
    argmax_agreement: float
    letter_agreement: float


class TargetReport(Record):
    """One weight that the adapter changed."""

    tensor: str
    """Its key in the files."""
    module: str
    dtype: str
    shape: tuple[int, ...]
    rank: int
    scale: float
    delta_norm: float
    """Frobenius norm of scale*B@A."""
    max_error_half_ulps: float
    """max |(merged - base) - scale*B@A| in halves of a unit in the last place of the merged number: one rounding to the
    nearest is at most 1."""
    updates: int
    """Elements whose delta is not zero."""
    lost_to_rounding: int
    """Updates that left the stored number as it was: below half an ulp of the base's type."""
    base_sha256: str
    """Of the numbers that the update was added to."""
    merged_sha256: str


class MergeTotals(Record):
    targets: int
    untouched: int
    adapter_tensors: int
    max_error_half_ulps: float
    updates: int
    lost_to_rounding: int
    lost_to_rounding_share: float


class MergeReport(Artifact):
    """`merge_report.json` beside merged weights: what the merge did to every tensor, and the checks that it passed."""

    title: ClassVar[str] = "merge report"
    remedy: ClassVar[str] = "merge again"

    schema_version: int = 2
    totals: MergeTotals
    base_path: str | None
    """From the merged directory; None where the base has a name."""
    base_name: str | None
    """A short name of model_paths.json."""
    base_sha256: str
    """`weights_sha256` of the base."""
    adapter_path: str
    """From the merged directory."""
    adapter_sha256: str
    adapter_tensors: int
    """Tensors in the adapter's file; each was used exactly once."""
    merged_sha256: str
    targets: tuple[TargetReport, ...]
    untouched: dict[str, str]
    """SHA-256 of each tensor that was copied."""
    probe: LogitDiff | None
    """base + adapter against the merged model."""
    quantization: Literal["none", "nf4", "int8"]
    """What the base was held in while the adapter was trained."""
    weights: MergeWeights
    """What the updates were added to."""
    dequantized: dict[str, str]
    """SHA-256 of each tensor that was quantized and back, and is no target."""
    quantized_base: dict[str, LogitDiff] | None
    """What training saw (quantized base + adapter) against the merge into either weights."""
    packages: dict[str, str]

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        spelling = {
            "swallowed": "lost_to_rounding",
            "swallowed_share": "lost_to_rounding_share",
            "dequantised": "dequantized",
            "quantised_base": "quantized_base",
        }
        report: dict[str, Any] = renamed(stored, spelling)
        if report["weights"] == "dequantised":
            report["weights"] = "dequantized"
        return report

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "MergeReport":
        if stored.get("schema") == "lorachain/merge-report":  # version 1 named its version `version`
            stored = {key: value for key, value in stored.items() if key not in ("schema", "version")} | {
                "schema_version": stored.get("version")
            }
        return super().parse(stored)


class ComposedLayer(Record):
    """One layer of the composed adapter."""

    module: str
    exact_rank: int
    """Sum of the stages' ranks."""
    rank: int
    norm: float
    """Frobenius norm of the exact update."""
    frobenius_error: float
    """||exact - kept||_F: the root of the sum of the squared singular values left out (Eckart and Young 1936)."""
    spectral_error: float
    """||exact - kept||_2: no input x moves by more than this times |x|. The first singular value left out."""


class CompositionProbe(Record):
    """The composed adapter on the public base against the chain."""

    in_dtype: LogitDiff
    """In the type that the model is used in."""
    rounding_of_merged_base: LogitDiff
    """In float32, where only the rounding of the merged base and a recompression can differ."""


class ComposeReport(Artifact):
    """`compose_report.json`: what was composed, and what recompression left out."""

    title: ClassVar[str] = "compose report"
    remedy: ClassVar[str] = "compose again"

    base_sha256: str
    adapter_sha256: tuple[str, ...]
    """Of the stages' adapters, first to last."""
    merged_base_sha256: str
    """Of the base that the second adapter was trained on: the first one merged."""
    composed_sha256: str
    relative_error: float
    """||exact - kept||_F / ||exact||_F over all layers; 0 where nothing was left out."""
    layers: tuple[ComposedLayer, ...]
    probe: CompositionProbe | None = None


class GgufReport(Artifact):
    """`gguf_report.json`: the converted file, loaded back and compared with the merged model."""

    title: ClassVar[str] = "GGUF report"
    remedy: ClassVar[str] = "export again"

    file: str
    sha256: str
    outtype: Literal["f16", "bf16", "q8_0"]
    model_sha256: str
    probe: LogitDiff
    packages: dict[str, str]
