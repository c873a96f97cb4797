"""Which of the samples that passed are trained on."""

import random
from collections import defaultdict
from collections.abc import Sequence

from lorachain.reasoning.sample import Sample
from lorachain.reasoning.text_checks import near_duplicates


def select(samples: Sequence[Sample], *, per_question: int, easy_share: float, seed: int) -> None:
    """Marks near-duplicates and what is beyond the number kept, so that what failed no check is what is kept.

    Of a question's samples that passed, the ones whose reasoning supports the answer most are kept. Questions that all
    samples solve teach the model what it can do already: only a random `easy_share` of them keeps its samples.

    Args:
        per_question: at most so many samples of a question are kept.
        easy_share: between 0 and 1.
    """
    by_question: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_question[sample.written.question].append(sample)
    easy = sorted(name for name, group in by_question.items() if _all_solve(group))
    random.Random(f"easy:{seed}").shuffle(easy)
    thinned = set(easy[round(len(easy) * easy_share) :])
    for name, group in by_question.items():
        passed = sorted((sample for sample in group if not sample.failed), key=_best_first)
        duplicates = near_duplicates([sample.reasoning for sample in passed])
        for sample, duplicate in zip(passed, duplicates, strict=True):
            if duplicate:
                sample.failed.append("duplicate")
        unique = [sample for sample in passed if not sample.failed]
        for sample in unique[0 if name in thinned else per_question :]:
            sample.failed.append("surplus")


def _all_solve(group: Sequence[Sample]) -> bool:
    """Whether every unhinted sample has the right answer; a single sample says nothing about how easy it is."""
    drawn = [sample for sample in group if not sample.written.hinted]
    return len(drawn) > 1 and not any({"parsed", "right"} & set(sample.failed) for sample in drawn)


def _best_first(sample: Sample) -> tuple[float, int]:
    return (-(sample.support_gain or 0.0), sample.written.number)
