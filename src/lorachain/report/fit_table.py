"""What `lorachain fit` calculated and measured, as tables."""

from rich.table import Table

from lorachain.artifacts import CardSettings, FitReport, Measured
from lorachain.report.tables import escape


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def memory_table(report: FitReport) -> Table:
    """Per training stage what it needs at most, and whether it fits."""
    table = Table(
        *("stage", "tokens", "base", "LoRA", "activations", "working", "total", "fits"),
        title=f"{escape(report.model)}: {report.parameters:,} parameters, LoRA {report.lora_parameters:,}",
    )
    for need in report.stages:
        kept = f"{_gb(need.activations)}{' (recomputed)' if need.recomputation else ''}"
        fits = "" if report.usable is None else "yes" if need.total <= report.usable else "no"
        parts = (_gb(need.base), _gb(need.lora), kept, _gb(need.working), _gb(need.total))
        table.add_row(need.stage, f"{need.tokens:,}", *parts, fits)
    return table


def disk_table(report: FitReport) -> Table:
    """What a chain writes."""
    disk = report.disk
    table = Table("download", "merged base", "adapters", "checkpoints", "total", "free", title="disk of a whole chain")
    parts = (disk.download, disk.merged_base, disk.adapters, disk.checkpoints, disk.total, report.disk_free)
    table.add_row(*map(_gb, parts))
    return table


def disk_line(report: FitReport) -> str | None:
    """Says so where a whole chain does not fit the disk."""
    if report.disk.total <= report.disk_free:
        return None
    return (
        f"the disk is too small: a whole chain takes {_gb(report.disk.total)}, {_gb(report.disk_free)} are free; name "
        "another disk with --workspace"
    )


def rejected_lines(report: FitReport) -> list[str]:
    """What does not fit the card, and why."""
    usable = _gb(report.usable or 0)
    return [
        f"does not fit: {_settings(rejected.settings)}: stage {rejected.stage} needs {_gb(rejected.needed)}, {usable} "
        "are usable"
        for rejected in report.rejected
    ]


def _settings(settings: CardSettings) -> str:
    lengths = [f"max_length {length} in {stage}" for stage, length in settings.max_length.items()]
    recomputed = "with" if settings.gradient_checkpointing else "without"
    parts = [
        "bf16" if settings.quantization == "none" else settings.quantization,
        f"{recomputed} gradient_checkpointing",
        f"micro_batch_tokens {settings.micro_batch_tokens}",
    ]
    return ", ".join([*parts, *lengths])


def _difference(measured: Measured) -> str:
    """Of the calculation; none where a process that had held a model before needed no more memory than it has."""
    return f"{measured.calculated / measured.peak - 1:+.1%}" if measured.peak > 0 else "–"


def measured_table(report: FitReport) -> Table:
    """Two steps of each measured stage, against the calculation."""
    table = Table(
        *(
            "stage",
            "device",
            "tokens per step",
            "calculated",
            "measured",
            "difference",
            "tokens/s",
            "per 10^6 tokens",
        ),
        title="two optimizer steps at the limits of the settings",
    )
    for measured in report.measured:
        minutes = 1e6 / measured.tokens_per_second / 60
        energy = ""
        if measured.joules is not None:
            energy = f", {measured.joules / measured.tokens * 1e6 / 3.6e6:.3f} kWh"
        table.add_row(
            measured.stage,
            escape(measured.device),
            f"{measured.tokens:,}",
            _gb(measured.calculated),
            _gb(measured.peak),
            _difference(measured),
            f"{measured.tokens_per_second:,.0f}",
            f"{minutes:,.1f} min{energy}",
        )
    return table
