"""Compares two exam results question by question, where both asked the same questions in the same way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorachain.artifacts.evaluation import ComparedModel, Comparison, Flip
from lorachain.errors import DataError
from lorachain.evaluation.comparable import Answered, Comparable, our_result, paired
from lorachain.evaluation.lm_eval_results import is_lm_eval, lm_eval_result
from lorachain.evaluation.statistics import comparison_summary, discordant, mcnemar_exact, paired_bootstrap, proportion

_MUST_AGREE: dict[str, Callable[[Comparable], Any]] = {
    "protocol": lambda result: result.protocol,
    "protocol version": lambda result: result.version,
    "prompt version": lambda result: result.prompt_version,
    "settings": lambda result: result.settings,
    "engine": lambda result: result.engine,
    "split": lambda result: result.split,
    "questions": lambda result: result.questions,
}
_UNLESS_UNKNOWN = ("prompt version", "engine", "questions")
"""Not compared where one of the two does not say it: questions are then matched one by one."""


def compare_results(path_a: Path, path_b: Path, *, seed: int = 0) -> Comparison:
    """B against A: both accuracies, the difference with its paired bootstrap interval, exact McNemar, every flip.

    Each is a result of `lorachain eval`, or of lm-evaluation-harness: a `samples_*.jsonl`, or a directory of them.

    Raises:
        DataError: a result cannot be read, or the two differ in protocol, version, prompts, settings, engine, split
            or questions.
    """
    a, b = (lm_eval_result(path) if is_lm_eval(path) else our_result(path) for path in (path_a, path_b))
    differing = [
        f"{what}: {read(a)} and {read(b)}"
        for what, read in _MUST_AGREE.items()
        if read(a) != read(b) and not (what in _UNLESS_UNKNOWN and None in (read(a), read(b)))
    ]
    if differing:
        raise DataError(
            f"{path_a} and {path_b} cannot be compared, they differ in {'; '.join(differing)}. "
            "Evaluate both models with the same protocol on the same questions"
        )
    pairs = paired(a, b)
    correct_a, correct_b = [x.correct for x, _ in pairs], [y.correct for _, y in pairs]
    lost, gained = discordant(correct_a, correct_b)
    n = len(pairs)
    return Comparison(
        protocol=a.protocol,
        protocol_version=a.version,
        prompt_version=a.prompt_version or b.prompt_version,
        settings=a.settings,
        split=a.split,
        n=n,
        a=ComparedModel(model=a.model, **proportion(sum(correct_a), n)),
        b=ComparedModel(model=b.model, **proportion(sum(correct_b), n)),
        difference=(sum(correct_b) - sum(correct_a)) / n,
        bootstrap95=paired_bootstrap(correct_a, correct_b, seed=seed) if n > 1 else None,
        mcnemar_p=mcnemar_exact(lost, gained),
        summary=comparison_summary(lost, gained, a.model.name),
        gained=tuple(_flip(x, y) for x, y in pairs if y.correct and not x.correct),
        lost=tuple(_flip(x, y) for x, y in pairs if x.correct and not y.correct),
    )


def _flip(a: Answered, b: Answered) -> Flip:
    return Flip(exam=a.exam, id=a.id, gold=a.gold, a=a.chosen, b=b.chosen)
