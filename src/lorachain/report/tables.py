"""training_info.json files as tables: what each stage is worth, and what to type next."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Info = Mapping[str, Any]
_WEIGHTS = {"original": "original", "dequantized": "dequantized"}


def accuracy_summary(found: Info | None) -> str:
    """`52.3 % [47.1, 57.4] n=380`, or a dash."""
    if not found:
        return "–"
    low, high = found["wilson95"]
    return f"{100 * found['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={found['n']}"


def measure_summary(measures: Info | None) -> str:
    """The stage's own measure: perplexity on the held-out slice, or exact-match recall of names."""
    if not measures:
        return "–"
    if "heldout_perplexity" in measures:
        found = measures["heldout_perplexity"]
        return f"perplexity {found['perplexity']:.2f} (n={found['tokens']:,} tokens)"
    found = measures["exact_match"]
    return f"exact match {accuracy_summary({**found, 'accuracy': found['exact_match']})}"


def status_table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """One line a step: stage, state, accuracy, when, next command."""
    table = Table("stage", "state", "accuracy (dev)", "when", "next command", title=title)
    for row in rows:
        table.add_row(row["stage"], row["state"], row["accuracy"], row["when"], row["next"])
    return table


def stage_table(info: Info, title: str) -> Table:
    """What one stage changed: its own measure and the exam by both protocols, before and after."""
    table = Table("", "before", "after", "in words", title=title)
    measures = info["measures"]
    if measures["before"]:
        table.add_row("held-out" if info["stage"] == "00" else "dictionary", *_pair(measures))
    before, after = info["validation"]["before"], info["validation"]["after"]
    for protocol in after:
        found = after[protocol]
        table.add_row(
            f"exam dev, {protocol}/{found['version']}",
            accuracy_summary(before[protocol]),
            accuracy_summary(found),
            found["words"],
        )
    facts = info["training"]
    table.caption = (
        f"{facts['optimizer_steps']:,} steps, {facts['tokens']:,} tokens, {facts['tokens_per_second']:,.0f} tokens/s, "
        f"peak memory {facts['peak_memory_bytes'] / 1e9:.1f} GB, epoch {info['validation']['epoch_kept']} kept"
    )
    return table


def _pair(measures: Info) -> tuple[str, str, str]:
    return measure_summary(measures["before"]), measure_summary(measures["after"]), ""


def chain_table(infos: Sequence[Info], merge: Info | None, title: str) -> Table:
    """What each stage of the chain changed."""
    table = Table(
        "stage", "own measure before", "after", "letters before", "after", "options before", "after", title=title
    )
    for info in infos:
        measures, before, after = info["measures"], info["validation"]["before"], info["validation"]["after"]
        table.add_row(
            info["stage"],
            measure_summary(measures["before"]),
            measure_summary(measures["after"]),
            *(accuracy_summary(x[p]) for p in ("letters", "options") for x in (before, after)),
        )
    if merge and merge.get("probe"):
        lines = [f"merge against base + adapter: {_probe_summary(merge['probe'])}"]
        for weights, found in (merge.get("quantized_base") or {}).items():
            lines.append(f"merge into {_WEIGHTS[weights]} weights against training: {_probe_summary(found)}")
        table.caption = "\n".join(lines)
    return table


def merge_table(report: Info, title: str) -> Table:
    """The proof of one merge."""
    totals, probe = report["totals"], report["probe"]
    table = Table("checked", "found", title=title)
    table.add_row("adapter tensors, each used once", f"{totals['adapter_tensors']:,}")
    table.add_row("weights changed", f"{totals['targets']:,}")
    table.add_row("weights untouched, bytes equal", f"{totals['untouched']:,}")
    table.add_row("largest |(merged - base) - scale·B·A|, in half ulps", f"{totals['max_error_half_ulps']:.3f}")
    table.add_row("updates lost to rounding (below half an ulp)", f"{100 * totals['lost_to_rounding_share']:.1f} %")
    _add_probe(table, "merged against base + adapter", probe)
    for weights, found in (report["quantized_base"] or {}).items():
        where = f"merged into {_WEIGHTS[weights]} weights against base in {report['quantization']} + adapter"
        _add_probe(table, where, found)
    return table


def compose_table(report: Info, proof: Info, title: str) -> Table:
    """The proof of a composed adapter."""
    layers = report["layers"]
    table = Table("checked", "found", title=title)
    table.add_row("layers", f"{len(layers):,}")
    table.add_row("rank, exact", str(max(layer["exact_rank"] for layer in layers)))
    table.add_row("rank, kept", str(max(layer["rank"] for layer in layers)))
    worst = max(layers, key=lambda layer: layer["frobenius_error"] / (layer["norm"] or 1.0))
    table.add_row(
        "worst layer's relative error (Frobenius)",
        f"{worst['frobenius_error'] / (worst['norm'] or 1.0):.2e} ({worst['module']})",
    )
    _add_probe(table, "composed against the chain", proof["in_dtype"])
    _add_probe(table, "the same in float32: rounding of the merged base", proof["rounding_of_merged_base"])
    return table


def gguf_table(report: Info, title: str) -> Table:
    """What a conversion to GGUF changed."""
    table = Table("checked", "found", title=title)
    table.add_row("file", f"{report['file']}, sha256 {report['sha256'][:12]}…")
    _add_probe(table, "loaded back against the merged model", report["probe"])
    return table


def _add_probe(table: Table, what: str, probe: Info) -> None:
    table.add_row(f"{what}: {probe['rows']} probe rows", _probe_summary(probe))


def _probe_summary(probe: Info) -> str:
    return (
        f"max |Δlogit| {probe['max_abs_logit']:.3f}, mean {probe['mean_abs_logit']:.4f}, mean KL "
        f"{probe['mean_kl']:.2e} nats, letters agree {100 * probe['letter_agreement']:.0f} %"
    )


def result_table(result: Info, title: str) -> Table:
    """One evaluation: every accuracy with n and interval, baselines beside it."""
    settings = ", ".join(f"{key}={value}" for key, value in result["settings"].items())
    table = Table("", "score", "in words", title=title)
    asked = f"{result['protocol']}/{result['protocol_version']} on {result['split']}"
    table.add_row(f"all, {asked}", accuracy_summary(result["score"]), result["score"]["words"])
    for subject, found in result["per_subject"].items():
        table.add_row(subject, accuracy_summary(found), "")
    for name, found in result["baselines"].items():
        table.add_row(f"baseline: {name.replace('_', ' ')}", accuracy_summary(found), "")
    tokens, seconds = result["tokens"], result["seconds"]
    table.caption = (
        f"{settings}\n{seconds:.0f} s, {result['data']['n'] / max(seconds, 1e-9):.1f} questions/s, "
        f"{tokens['prompt']:,} prompt and {tokens['generated']:,} generated tokens"
    )
    return table


def comparison_tables(found: Info, *, with_flips: bool) -> list[Table]:
    """The difference with its interval and test, and the questions that changed."""
    low, high = found["bootstrap95"] or (float("nan"), float("nan"))
    table = Table("A", "B", "B - A", "exact McNemar", "in words", title=f"{found['protocol']} on {found['split']}")
    table.add_row(
        accuracy_summary(found["a"]),
        accuracy_summary(found["b"]),
        f"{100 * found['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]",
        f"p = {found['mcnemar_p']:.3g} ({len(found['gained'])} gained, {len(found['lost'])} lost)",
        found["words"],
    )
    if not with_flips:
        return [table]
    flips = Table("question", "right", "A", "B", title="questions that changed")
    for flip in (*found["gained"], *found["lost"]):
        flips.add_row(f"{flip['exam']} {flip['id']}", flip["gold"], *(flip[side] or "–" for side in "ab"))
    return [table, flips]
