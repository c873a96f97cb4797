"""Exam scores by profession for a model card: with n, shots, split and protocol, and the public base beside the model.

The files may have been edited, so no text of theirs gets into a row: professions, protocols and splits are those that
lorachain knows, and every accuracy is computed from its counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorachain.artifacts import EpochScore, EvalResult, TrainingInfo
from lorachain.artifacts.stages import SourceRecord
from lorachain.artifacts.validation import Proportion
from lorachain.errors import DataError
from lorachain.evaluation.protocols.registry import PROTOCOLS
from lorachain.evaluation.statistics import wilson
from lorachain.evaluation.validation_result import PROTOCOL_VERSIONS

PROFESSIONS = {"doctor": "의사", "nurse": "간호사", "pharm": "약사", "dentist": "치과의사"}
"""KorMedMCQA's, in its order, with their Korean names."""
KORMEDMCQA = "sean0042/KorMedMCQA"
_SPLITS = ("dev", "test")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}")


@dataclass(frozen=True, slots=True)
class ProfessionRow:
    """One profession by one protocol."""

    profession: str
    protocol: str
    version: str
    split: str
    shots: int
    on_hub: bool
    """Whether the questions are KorMedMCQA's, as the hub has them."""
    model: tuple[int, int]
    """Correct and n."""
    base: tuple[int, int] | None

    @property
    def korean(self) -> str:
        return PROFESSIONS[self.profession]

    @property
    def n(self) -> int:
        return self.model[1]

    @property
    def accuracy(self) -> float:
        """As a fraction."""
        return self.model[0] / self.model[1]

    @property
    def model_text(self) -> str:
        return percent(*self.model)

    @property
    def base_text(self) -> str | None:
        return None if self.base is None else percent(*self.base)


def percent(correct: int, n: int) -> str:
    """`55.3 % (52.3 % to 58.3 %)`: the accuracy and its Wilson 95 % interval."""
    low, high = wilson(correct, n)
    return f"{100 * correct / n:.1f} % ({100 * low:.1f} % to {100 * high:.1f} %)"


def profession_rows(
    lineage: Sequence[TrainingInfo], history: Sequence[EpochScore], results: Sequence[EvalResult] = ()
) -> tuple[ProfessionRow, ...]:
    """The rows of the last stage of `lineage`: its validation (no shots), then `results` of `lorachain eval`.

    A result is of the model where it has the last stage's adapter, and of the public base where it has none. The two
    share rows where protocol, settings and questions are the same.

    Raises:
        DataError: a result is of another model.
    """
    rows = _validated(lineage[-1], history)
    on_hub = {source.short_name for source in lineage[-1].exam_sources if _is_kormedmcqa(source)}
    bases = [result for result in results if _is_base(result, lineage)]
    for result in results:
        if _is_base(result, lineage):
            continue
        if result.model.adapter_sha256 != lineage[-1].adapter_sha256:
            raise DataError(
                f"a result of `lorachain eval` is of {result.model.name}, which is neither stage {lineage[-1].stage} "
                "nor the public base; evaluate the step that you export"
            )
        base = next((other for other in bases if _comparable(other, result)), None)
        rows += _evaluated(result, base, on_hub=set(result.data.exams) <= on_hub)
    return tuple(rows)


def _is_kormedmcqa(source: SourceRecord) -> bool:
    return source.kind == "hub" and source.name.partition(":")[0] == KORMEDMCQA


def _is_base(result: EvalResult, lineage: Sequence[TrainingInfo]) -> bool:
    return result.model.adapter_sha256 is None and result.model.base_sha256 == lineage[0].base_sha256


def _comparable(a: EvalResult, b: EvalResult) -> bool:
    parts = [
        (one.protocol, one.protocol_version, one.prompt_version, one.settings, one.split, one.data.sha256)
        for one in (a, b)
    ]
    return parts[0] == parts[1]


def _validated(info: TrainingInfo, history: Sequence[EpochScore]) -> list[ProfessionRow]:
    kept = [score for score in history if (score.stage, score.epoch) == (info.stage, info.validation.epoch_kept)]
    if not kept or kept[-1].result.split not in _SPLITS:
        return []
    result = kept[-1].result
    first = history[0].result if history[0].epoch == 0 else None
    base = first if first is not None and first.asks_the_same(result) else None
    on_hub = bool(info.exam_sources) and all(_is_kormedmcqa(source) for source in info.exam_sources)
    rows = []
    for name, score in result.protocols.items():
        if name not in PROTOCOL_VERSIONS or not _VERSION.fullmatch(score.protocol_version):
            continue
        before = base.protocols[name].per_subject if base is not None and name in base.protocols else {}
        rows += _rows(score.per_subject, before, name, score.protocol_version, result.split, shots=0, on_hub=on_hub)
    return rows


def _evaluated(result: EvalResult, base: EvalResult | None, *, on_hub: bool) -> list[ProfessionRow]:
    known = result.protocol in PROTOCOLS and _VERSION.fullmatch(result.protocol_version) and result.split in _SPLITS
    shots = result.settings.get("shots", 0)
    if not known or type(shots) is not int or shots < 0:
        return []
    before = base.per_subject if base is not None else {}
    return _rows(
        result.per_subject, before, result.protocol, result.protocol_version, result.split, shots=shots, on_hub=on_hub
    )


def _rows(
    after: Mapping[str, Proportion],
    before: Mapping[str, Proportion],
    protocol: str,
    version: str,
    split: str,
    *,
    shots: int,
    on_hub: bool,
) -> list[ProfessionRow]:
    return [
        ProfessionRow(
            profession=profession,
            protocol=protocol,
            version=version,
            split=split,
            shots=shots,
            on_hub=on_hub,
            model=counts,
            base=_counts(before.get(profession)),
        )
        for profession in PROFESSIONS
        if (counts := _counts(after.get(profession))) is not None
    ]


def _counts(score: Proportion | None) -> tuple[int, int] | None:
    return (score.correct, score.n) if score is not None and 0 <= score.correct <= score.n and score.n > 0 else None
