"""training_info.json files as tables: what each stage is worth, and what to type next."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Info = Mapping[str, Any]


def accuracy_words(found: Info | None) -> str:
    """`52.3 % [47.1, 57.4] n=380`, or a dash."""
    if not found:
        return "–"
    low, high = found["wilson95"]
    return f"{100 * found['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={found['n']}"


def measure_words(measures: Info | None) -> str:
    """The stage's own measure: perplexity on the held-out slice, or exact-match recall of names."""
    if not measures:
        return "–"
    if "heldout_perplexity" in measures:
        found = measures["heldout_perplexity"]
        return f"perplexity {found['perplexity']:.2f} (n={found['tokens']:,} tokens)"
    found = measures["recall"]
    return f"recall {accuracy_words({**found, 'accuracy': found['exact_match']})}"


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
            accuracy_words(before[protocol]),
            accuracy_words(found),
            found["words"],
        )
    facts = info["training"]
    table.caption = (
        f"{facts['optimizer_steps']:,} steps, {facts['tokens']:,} tokens, {facts['tokens_per_second']:,.0f} tokens/s, "
        f"peak memory {facts['peak_memory_bytes'] / 1e9:.1f} GB, epoch {info['validation']['epoch_kept']} kept"
    )
    return table


def _pair(measures: Info) -> tuple[str, str, str]:
    return measure_words(measures["before"]), measure_words(measures["after"]), ""


def chain_table(infos: Sequence[Info], probe: Info | None, title: str) -> Table:
    """What each stage of the chain changed."""
    table = Table(
        "stage", "own measure before", "after", "letters before", "after", "options before", "after", title=title
    )
    for info in infos:
        measures, before, after = info["measures"], info["validation"]["before"], info["validation"]["after"]
        table.add_row(
            info["stage"],
            measure_words(measures["before"]),
            measure_words(measures["after"]),
            *(accuracy_words(x[p]) for p in ("letters", "options") for x in (before, after)),
        )
    if probe:
        table.caption = (
            f"merge: {probe['rows']} probe rows, mean KL {probe['mean_kl']:.2e} nats, max |Δlogit| "
            f"{probe['max_abs_logit']:.3f}, letters agree {100 * probe['letter_agreement']:.0f} %"
        )
    return table
