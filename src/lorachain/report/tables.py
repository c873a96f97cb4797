"""Artifacts as tables for the terminal."""

from collections.abc import Mapping, Sequence
from math import nan

from rich.markup import escape as escape_markup
from rich.table import Table

from lorachain.artifacts import (
    Comparison,
    ComposeReport,
    EvalResult,
    GgufReport,
    LogitDiff,
    Measure,
    MergeInfo,
    MergeReport,
    TrainingInfo,
)
from lorachain.artifacts.validation import Proportion
from lorachain.redaction import printable

NOT_MEASURED = "–"


def escape(text: str) -> str:
    """Text from files, for a cell: no markup, no control characters."""
    return escape_markup(printable(text))


def accuracy_text(score: Proportion | None) -> str:
    """`52.3 % [47.1, 57.4] n=380`, or a dash."""
    if score is None:
        return NOT_MEASURED
    low, high = score.wilson95
    return f"{100 * score.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={score.n}"


def measure_text(measure: Measure | None) -> str:
    return NOT_MEASURED if measure is None else measure.summary


def status_table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """One row per stage: state, accuracy, when, next command."""
    table = Table("stage", "state", "accuracy (dev)", "finished", "next command", title=escape(title))
    for row in rows:
        table.add_row(*(escape(row[key]) for key in ("stage", "state", "accuracy", "finished", "next")))
    return table


def stage_table(info: TrainingInfo, title: str) -> Table:
    """What one stage changed: its own measures and the exam by both protocols, before and after."""
    table = Table("", "before", "after", "after, against chance", title=escape(title))
    for name, after in info.measures.after.items():
        table.add_row(after.split, measure_text(info.measures.before.get(name)), measure_text(after), "")
    before = info.validation.before or {}
    for protocol, score in info.validation.after.items():
        table.add_row(
            f"exam dev, {protocol}/{score.protocol_version}",
            accuracy_text(before.get(protocol)),
            accuracy_text(score),
            score.summary,
        )
    facts = info.training
    table.caption = (
        f"{facts.optimizer_steps:,} steps, {facts.tokens:,} tokens, {facts.tokens_per_second:,.0f} tokens/s, "
        f"peak memory {facts.peak_memory_bytes / 1e9:.1f} GB, epoch {info.validation.epoch_kept} kept"
    )
    return table


def chain_table(infos: Sequence[TrainingInfo], merge: MergeInfo | None, title: str) -> Table:
    """What each stage of the chain changed, a row per measure: narrow enough for 80 columns."""
    table = Table("stage", "measure", "before", "after", title=escape(title))
    for info in infos:
        rows = [
            (after.name, _short(info.measures.before.get(name)), _short(after))
            for name, after in info.measures.after.items()
        ]
        before = info.validation.before or {}
        for protocol, score in info.validation.after.items():
            rows.append((protocol, accuracy_text(before.get(protocol)), f"{accuracy_text(score)}\n{score.summary}"))
        for number, row in enumerate(rows):
            table.add_row(escape(info.stage) if number == 0 else "", *row, end_section=number == len(rows) - 1)
    lines = ["accuracy on the dev split with its 95 % interval"]
    if merge is not None and merge.probe is not None:
        lines.append(f"merge against base + adapter:\n{_probe_text(merge.probe)}")
        for weights, probe in (merge.quantized_base or {}).items():
            lines.append(f"merge into {weights} weights against training:\n{_probe_text(probe)}")
    table.caption = "\n".join(lines)
    return table


def _short(measure: Measure | None) -> str:
    return NOT_MEASURED if measure is None else measure.summary.removeprefix(f"{measure.name} ")


def merge_table(report: MergeReport, title: str) -> Table:
    """The verification of one merge."""
    totals = report.totals
    table = Table("checked", "result", title=escape(title))
    table.add_row("adapter tensors, each used once", f"{totals.adapter_tensors:,}")
    table.add_row("weights changed", f"{totals.targets:,}")
    table.add_row("weights untouched, bytes equal", f"{totals.untouched:,}")
    table.add_row("largest |(merged - base) - scale·B·A|, in half ulps", f"{totals.max_error_half_ulps:.3f}")
    table.add_row("updates lost to rounding (below half an ulp)", f"{100 * totals.lost_to_rounding_share:.1f} %")
    if report.probe is not None:
        _add_probe(table, "merged against base + adapter", report.probe)
    for weights, probe in (report.quantized_base or {}).items():
        where = f"merged into {weights} weights against base in {report.quantization} + adapter"
        _add_probe(table, where, probe)
    return table


def compose_table(report: ComposeReport, title: str) -> Table:
    """The verification of a composed adapter."""
    layers = report.layers
    table = Table("checked", "result", title=escape(title))
    table.add_row("layers", f"{len(layers):,}")
    table.add_row("rank, exact", str(max(layer.exact_rank for layer in layers)))
    table.add_row("rank, kept", str(max(layer.rank for layer in layers)))
    worst = max(layers, key=lambda layer: layer.frobenius_error / (layer.norm or 1.0))
    table.add_row(
        "worst layer's relative error (Frobenius)",
        f"{worst.frobenius_error / (worst.norm or 1.0):.2e} ({escape(worst.module)})",
    )
    if report.probe is not None:
        _add_probe(table, "composed against the chain", report.probe.in_dtype)
        _add_probe(table, "the same in float32: rounding of the merged base", report.probe.rounding_of_merged_base)
    return table


def gguf_table(report: GgufReport, title: str) -> Table:
    """What a conversion to GGUF changed."""
    table = Table("checked", "result", title=escape(title))
    table.add_row("file", f"{escape(report.file)}, sha256 {report.sha256[:12]}…")
    _add_probe(table, "loaded back against the merged model", report.probe)
    return table


def files_table(files: Sequence[tuple[str, int, str]], title: str) -> Table:
    """Files with their sizes in bytes and their SHA-256."""
    table = Table("file", "bytes", "sha256", title=escape(title))
    for name, size, sha256 in files:
        table.add_row(escape(name), f"{size:,}", f"{sha256[:12]}…")
    table.add_row(f"{len(files)} files", f"{sum(size for _, size, _ in files):,}", "")
    return table


def _add_probe(table: Table, what: str, probe: LogitDiff) -> None:
    table.add_row(f"{what}: {probe.rows} probe rows", _probe_text(probe))


def _probe_text(probe: LogitDiff) -> str:
    return (
        f"max |Δlogit| {probe.max_abs_logit:.3f}, mean {probe.mean_abs_logit:.4f}, mean KL "
        f"{probe.mean_kl:.2e} nats, letters agree {100 * probe.letter_agreement:.0f} %"
    )


def result_table(result: EvalResult, title: str) -> Table:
    """One evaluation: every accuracy with n and interval, and the baselines."""
    settings = ", ".join(f"{key}={value}" for key, value in result.settings.items())
    table = Table("", "score", "against chance", title=escape(title))
    protocol = f"{result.protocol}/{result.protocol_version} on {result.split}"
    table.add_row(escape(f"all, {protocol}"), accuracy_text(result.score), result.score.summary)
    for subject, score in result.per_subject.items():
        table.add_row(escape(subject), accuracy_text(score), "")
    table.add_row("baseline: always majority letter", accuracy_text(result.baselines.always_majority_letter), "")
    table.add_row("baseline: always longest option", accuracy_text(result.baselines.always_longest_option), "")
    if against_direct := result.report.get("against_direct"):
        table.add_row(
            "the same questions answered directly",
            accuracy_text(Proportion(**against_direct["direct"])),
            f"explained: {against_direct['summary']}",
        )
    tokens, seconds = result.tokens, result.seconds
    table.caption = (
        f"{escape(settings)}\n{seconds:.0f} s, {result.data.n / max(seconds, 1e-9):.1f} questions/s, "
        f"{tokens.prompt:,} prompt and {tokens.generated:,} generated tokens"
    )
    return table


def comparison_tables(comparison: Comparison, *, with_flips: bool) -> list[Table]:
    """The difference with its interval and test, and the questions that changed."""
    low, high = comparison.bootstrap95 or (nan, nan)
    title = f"{comparison.protocol} on {comparison.split}"
    table = Table("A", "B", "B - A", "exact McNemar", "result", title=escape(title))
    table.add_row(
        accuracy_text(comparison.a),
        accuracy_text(comparison.b),
        f"{100 * comparison.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]",
        f"p = {comparison.mcnemar_p:.3g} ({len(comparison.gained)} gained, {len(comparison.lost)} lost)",
        escape(comparison.summary),
    )
    if not with_flips:
        return [table]
    flips = Table("question", "correct", "A", "B", title="questions that changed")
    for flip in (*comparison.gained, *comparison.lost):
        flips.add_row(escape(f"{flip.exam} {flip.id}"), flip.gold, flip.a or NOT_MEASURED, flip.b or NOT_MEASURED)
    return [table, flips]
