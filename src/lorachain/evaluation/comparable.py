"""A result as `compare` needs it: who answered which question how. Ours, or one of lm-evaluation-harness."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.errors import DataError
from lorachain.evaluation.results import read_results


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer."""

    content: str | None
    """Hash of its text, options and answer (`question_content_hash`); None in results that were written without."""
    exam: str
    id: str
    question: str
    """Its beginning, for messages; empty where the result has no texts."""
    gold: str
    chosen: str | None
    correct: bool


@dataclass(frozen=True, slots=True)
class Comparable:
    """One result."""

    path: Path
    model: ScoredModelIdentity
    protocol: str
    version: str
    prompt_version: int | None
    """None: not checked; lm-evaluation-harness has prompts of its own."""
    settings: dict[str, Any]
    split: str
    engine: str | None
    """None: not checked; lm-evaluation-harness records its own in the model's name."""
    questions: str | None
    """Hash of all questions in order; None: they are matched one by one."""
    rows: tuple[Answered, ...] = field(repr=False)


def our_result(path: Path) -> Comparable:
    """A result of `lorachain eval`.

    Raises:
        DataError: as `read_results`.
    """
    result, rows = read_results(path)
    return Comparable(
        path=path,
        model=result.model,
        protocol=result.protocol,
        version=result.protocol_version,
        prompt_version=result.prompt_version,
        settings=result.settings,
        split=result.split,
        engine=result.model.engine or "local",
        questions=f"{result.data.n} with hash {result.data.sha256[:12]}",
        rows=tuple(
            Answered(
                content=row.get("content_sha256"),
                exam=row["exam"],
                id=row["id"],
                question="",
                gold=row["gold"],
                chosen=row["chosen"],
                correct=bool(row["correct"]),
            )
            for row in rows
        ),
    )


def paired(a: Comparable, b: Comparable) -> list[tuple[Answered, Answered]]:
    """The answers of both to each question: in order where both say that they asked the same, else by content.

    Raises:
        DataError: the questions are not the same, or a result does not have what they are matched by.
    """
    if a.questions is not None and b.questions is not None:
        return list(zip(a.rows, b.rows, strict=True))
    keys_a, keys_b = _keys(a), _keys(b)
    only_a, only_b = _missing(keys_a, keys_b), _missing(keys_b, keys_a)
    if only_a or only_b:
        first = (only_a or only_b)[0]
        shown = f" {first.question!r}" if first.question else ""
        raise DataError(
            f"{a.path} and {b.path} cannot be compared: {len(only_a):,} of {len(a.rows):,} questions are only in the "
            f"first, {len(only_b):,} of {len(b.rows):,} only in the second (text, options and answer must be the "
            f"same); for example {first.exam}/{first.id}{shown}. Evaluate both on the same split, subjects and limit"
        )
    return [(row, keys_b[key]) for key, row in keys_a.items()]


def _keys(result: Comparable) -> dict[tuple[str, int], Answered]:
    """Each question by its content, and the how-manieth of that content it is."""
    seen: Counter[str] = Counter()
    keys: dict[tuple[str, int], Answered] = {}
    for row in result.rows:
        if row.content is None:
            raise DataError(
                f"{result.path} was written before questions were recorded by their content; evaluate again to compare "
                "it with a result of lm-evaluation-harness"
            )
        keys[row.content, seen[row.content]] = row
        seen[row.content] += 1
    return keys


def _missing(of: dict[tuple[str, int], Answered], other: Iterable[tuple[str, int]]) -> Sequence[Answered]:
    there = set(other)
    return [row for key, row in of.items() if key not in there]
