"""Exam scores of the dev questions that the training data contain, and of the others.

With `data.contamination.action` at `report`, records that contain a dev question are trained on. The score of these
questions then says what was memorized; only that of the others can be compared.
"""

from collections.abc import Collection

from lorachain.artifacts import DataReport, EpochScore, Measure
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, training_stages
from lorachain.errors import WorkspaceError
from lorachain.evaluation.measures import CLEAN, TOUCHED, MeasureKind
from lorachain.evaluation.statistics import wilson


def touched_questions(context: ChainContext, stage: Stage) -> set[str]:
    """The held-out questions in what `stage` and the training stages before it were trained on, as their data reports
    name them."""
    touched: set[str] = set()
    stages = training_stages()
    for earlier in stages[: [other.name for other in stages].index(stage.name) + 1]:
        for path in sorted(context.workspace.token_cache(earlier.name, context.model).parent.glob("*data_report.json")):
            try:
                touched.update(DataReport.read(path).contamination.touched)
            except WorkspaceError as error:
                context.reporter.message(f"its questions are not counted as touched: {error}")
    return touched


def touched_measures(score: EpochScore | None, protocol: str, touched: Collection[str]) -> dict[str, Measure]:
    """The accuracy of touched and of clean questions by `protocol`; empty where no validated question is touched."""
    if score is None:
        return {}
    questions = score.result.questions
    names = (f"{exam}/{id}" if exam else id for exam, id in zip(questions.exams, questions.ids, strict=True))
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for name, correct in zip(names, score.result.correct(protocol), strict=True):
        hits[name in touched].append(correct)
    if not hits[True]:
        return {}
    version = score.result.protocols[protocol].protocol_version
    measures = {}
    for name, kind, correct_ones in (("exam_touched", TOUCHED, hits[True]), ("exam_clean", CLEAN, hits[False])):
        measures[name] = _accuracy(kind, protocol, version, correct_ones)
    return measures


def _accuracy(kind: MeasureKind, protocol: str, version: str, correct: list[bool]) -> Measure:
    n, count = len(correct), sum(correct)
    return Measure(
        name=kind.name,
        protocol_version=version,
        split=kind.split,
        value=count / n if n else None,
        n=n,
        unit=kind.unit,
        wilson95=wilson(count, n) if n else None,
        detail={"protocol": protocol, "correct": count},
    )
