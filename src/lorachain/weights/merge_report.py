"""`merge_report.json`: what a merge did to every tensor, and the proof that it is right."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorachain.config import Quantization
from lorachain.errors import ModelError
from lorachain.provenance import load_json, package_versions, write_json
from lorachain.weights.merge_source import MergeWeights

MERGE_REPORT = "merge_report.json"
SCHEMA = "lorachain/merge-report"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One weight that the adapter changed."""

    tensor: str
    """Its key in the files."""
    module: str
    dtype: str
    shape: list[int]
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

    @property
    def lost_to_rounding_share(self) -> float:
        return self.lost_to_rounding / self.updates if self.updates else 0.0


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The proof of one merge, written into the merged folder."""

    base_path: str | None
    """From the merged folder; None where the base has a name."""
    base_sha256: str
    """`weights_sha256` of the base."""
    adapter_path: str
    """From the merged folder."""
    adapter_sha256: str
    adapter_tensors: int
    """Tensors in the adapter's file; each was used exactly once."""
    merged_sha256: str
    targets: list[TargetReport]
    untouched: dict[str, str]
    """SHA-256 of each tensor that was copied."""
    probe: dict[str, Any] | None = None
    """Logits of base + adapter against the merged model (`proof.compare_logits`)."""
    base_name: str | None = None
    """A short name of `model_paths.json`."""
    quantization: Quantization = "none"
    """What the base was held in while the adapter was trained."""
    weights: MergeWeights = "original"
    """What the updates were added to."""
    dequantized: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each tensor that was quantized and back, and is no target."""
    quantized_base: dict[str, Any] | None = None
    """What training saw (quantized base + adapter) against the merge into either weights, each as `probe`."""
    packages: dict[str, str] = field(default_factory=package_versions)

    @property
    def max_error_half_ulps(self) -> float:
        return max(target.max_error_half_ulps for target in self.targets)

    @property
    def lost_to_rounding_share(self) -> float:
        """Of all updates of all targets."""
        return sum(t.lost_to_rounding for t in self.targets) / max(1, sum(t.updates for t in self.targets))

    def as_dict(self) -> dict[str, Any]:
        totals = {
            "targets": len(self.targets),
            "untouched": len(self.untouched),
            "adapter_tensors": self.adapter_tensors,
            "max_error_half_ulps": self.max_error_half_ulps,
            "updates": sum(t.updates for t in self.targets),
            "lost_to_rounding": sum(t.lost_to_rounding for t in self.targets),
            "lost_to_rounding_share": self.lost_to_rounding_share,
        }
        return {"schema": SCHEMA, "version": SCHEMA_VERSION, "totals": totals, **asdict(self)}


def write_merge_report(folder: Path, report: MergeReport) -> None:
    write_json(folder / MERGE_REPORT, report.as_dict())


def read_merge_report(folder: Path) -> MergeReport:
    """The report of a merged folder.

    Raises:
        ModelError: there is none (a merge without its report does not exist), or it is not one.
    """
    path = folder / MERGE_REPORT
    try:
        content = load_json(path)
        schema, version, _ = content.pop("schema"), content.pop("version"), content.pop("totals")
        if (schema, version) != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f"schema {schema} {version}, this lorachain reads {SCHEMA} {SCHEMA_VERSION}")
        report = MergeReport(**{**content, "targets": [TargetReport(**target) for target in content["targets"]]})
        if not all(isinstance(target.tensor, str) for target in report.targets):
            raise ValueError("a target has no tensor's name")
        if not all(isinstance(hashes, dict) for hashes in (report.untouched, report.dequantized)):
            raise ValueError("the hashes of its tensors are no table")
        Path(report.adapter_path), Path(report.base_path or "")
        return report
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a merge report: {error}; {folder} was not merged by lorachain") from error
