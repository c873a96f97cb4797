"""`merge_report.json`: assembled while merging, read back for verification."""

from pathlib import Path
from typing import Any

from lorachain.artifacts import MergeReport
from lorachain.artifacts.merging import MergeTotals, TargetReport
from lorachain.errors import ModelError, WorkspaceError
from lorachain.provenance import package_versions

MERGE_REPORT = "merge_report.json"


def build_merge_report(
    *, targets: list[TargetReport], untouched: dict[str, str], adapter_tensors: int, **fields: Any
) -> MergeReport:
    """A report with its totals; the probe is added later."""
    updates, lost = sum(t.updates for t in targets), sum(t.lost_to_rounding for t in targets)
    totals = MergeTotals(
        targets=len(targets),
        untouched=len(untouched),
        adapter_tensors=adapter_tensors,
        max_error_half_ulps=max(target.max_error_half_ulps for target in targets),
        updates=updates,
        lost_to_rounding=lost,
        lost_to_rounding_share=lost / max(1, updates),
    )
    return MergeReport(
        totals=totals,
        targets=tuple(targets),
        untouched=untouched,
        adapter_tensors=adapter_tensors,
        probe=None,
        quantized_base=None,
        packages=package_versions(),
        **fields,
    )


def write_merge_report(folder: Path, report: MergeReport) -> None:
    report.write(folder / MERGE_REPORT)


def read_merge_report(folder: Path) -> MergeReport:
    """The report of a merged directory.

    Raises:
        ModelError: there is none (a merge without its report does not exist), or it is not valid.
    """
    try:
        return MergeReport.read(folder / MERGE_REPORT)
    except WorkspaceError as error:
        raise ModelError(f"{error}; {folder} was not merged by lorachain, or its report was edited") from error
