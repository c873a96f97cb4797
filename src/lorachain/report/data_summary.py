"""A summary of a source for the terminal."""

from collections.abc import Iterator

from lorachain.artifacts.data_summary import Quantiles, ShownExample, SourceSummary
from lorachain.redaction import printable

_WIDTH = 12
_LONGEST_TEXT = 600
"""Characters of a shown text; the middle of a longer one is left out."""


def summary_lines(summary: SourceSummary) -> Iterator[str]:
    """The summary as lines of text, control characters replaced."""
    for line in _lines(summary):
        yield "\n".join(printable(part) for part in line.split("\n"))


def _lines(summary: SourceSummary) -> Iterator[str]:
    yield f"{summary.name}, read as {summary.read_as}"
    yield _row("records", _records(summary))
    if summary.splits:
        yield _row("splits", ", ".join(f"{split} {n:,}" for split, n in summary.splits.items()))
    yield _row("characters", _quantiles(summary.characters))
    yield _row("tokens", _quantiles(summary.tokens) if summary.tokens else "not counted: name a model with --model")
    shares = (("Hangul", summary.hangul), ("Latin", summary.latin), ("other", summary.other_letters))
    yield _row("letters", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares))
    if summary.reasoning_writers:
        writers = ", ".join(f"{writer} ({n:,})" for writer, n in summary.reasoning_writers.items())
        yield _row("reasoning", f"written by {writers}")
    for refusals in summary.refused:
        yield _row("refused", f"{_count(refusals.rows, 'row')}; the first: {refusals.first}")
    for record in summary.shown:
        for example in record.examples:
            yield ""
            yield from _example(record.where, example)
        if record.further_examples:
            yield f"  and {_count(record.further_examples, 'further form')}"


def _records(summary: SourceSummary) -> str:
    text = f"{summary.records:,}"
    if summary.files is not None:
        text += f" in {_count(summary.files, 'file')}"
    if not summary.complete:
        text = f"the first {text}"
    return f"{text}; {_count(summary.duplicates, 'duplicate')}; {_count(summary.refused_rows, 'row')} refused"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _example(where: str, example: ShownExample) -> Iterator[str]:
    size = "" if example.tokens is None else f", {example.supervised_tokens} of {example.tokens} tokens supervised"
    yield f"{where}{f' ({example.form})' if example.form else ''}{size}"
    if example.prompt:
        yield _block("prompt", example.prompt)
    yield _block("supervised", example.supervised)


def _block(title: str, text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"
    return _row(title, text.replace("\n", f"\n  {'':{_WIDTH}}| "), mark="| ")


def _row(title: str, text: str, mark: str = "") -> str:
    return f"  {title:{_WIDTH}}{mark}{text}"


def _quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None:
        return "none"
    q = quantiles
    return f"min {q.min:,}, 25 % {q.p25:,}, median {q.p50:,}, 75 % {q.p75:,}, 95 % {q.p95:,}, max {q.max:,} (n={q.n:,})"
