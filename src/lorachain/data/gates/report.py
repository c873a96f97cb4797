"""Counts and lists of a data report, collected while records are read."""

import hmac
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorachain.artifacts.data_gates import (
    MOST_LISTED,
    ContaminationReport,
    DuplicateRecord,
    DuplicatesReport,
    MatchedRecord,
    PersonalFinding,
    PersonalReport,
    QualityMeasure,
)
from lorachain.data.gates.contamination import Match
from lorachain.data.gates.near_duplicates import Duplicate
from lorachain.data.gates.personal import Finding
from lorachain.data.gates.quality import MEASURES, SUGGESTED, is_left_out
from lorachain.data_settings import ContaminationConfig, DuplicatesConfig, PersonalConfig, QualityConfig

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class Located:
    """A record, as reports name it."""

    record: int
    where: str
    sha256: str


@dataclass(slots=True)
class ContaminationCounts:
    settings: ContaminationConfig
    questions: dict[str, int]
    records: int = 0
    removed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    touched: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    listed: list[MatchedRecord] = field(default_factory=list)
    total: int = 0

    def add(self, located: Located, matches: Sequence[Match], *, removed: bool) -> None:
        """A record in which questions were found."""
        self.records += 1
        self.removed += removed
        self.kinds.update({match.kind for match in matches})
        names = {match.question for match in matches}
        self.found |= names
        if not removed:
            self.touched |= names
        for match in matches:
            self.total += 1
            if len(self.listed) < MOST_LISTED:
                self.listed.append(
                    MatchedRecord(
                        record=located.record,
                        where=located.where,
                        sha256=located.sha256,
                        questions=match.questions,
                        question=match.question,
                        kind=match.kind,
                        share=round(match.share, 4),
                        removed=removed,
                    )
                )

    def report(self) -> ContaminationReport:
        return ContaminationReport(
            action=self.settings.action,
            threshold=self.settings.threshold,
            questions=self.questions,
            records=self.records,
            removed=self.removed,
            kinds=dict(sorted(self.kinds.items())),
            touched=tuple(sorted(self.touched)),
            found=tuple(sorted(self.found)),
            matches=tuple(self.listed),
            not_listed=self.total - len(self.listed),
        )


@dataclass(slots=True)
class DuplicateCounts:
    settings: DuplicatesConfig
    exact: int = 0
    near: int = 0
    across_files: int = 0
    removed: int = 0
    listed: list[DuplicateRecord] = field(default_factory=list)

    def add(self, located: Located, duplicate: Duplicate, *, across_files: bool, removed: bool) -> None:
        if duplicate.similarity == 1.0:
            self.exact += 1
        else:
            self.near += 1
        self.across_files += across_files
        self.removed += removed
        if len(self.listed) < MOST_LISTED:
            self.listed.append(
                DuplicateRecord(
                    record=located.record,
                    where=located.where,
                    sha256=located.sha256,
                    of=duplicate.record,
                    similarity=round(duplicate.similarity, 4),
                )
            )

    def report(self) -> DuplicatesReport:
        return DuplicatesReport(
            action=self.settings.action,
            similarity=self.settings.similarity,
            exact=self.exact,
            near=self.near,
            across_files=self.across_files,
            removed=self.removed,
            duplicates=tuple(self.listed),
            not_listed=self.exact + self.near - len(self.listed),
        )


@dataclass(slots=True)
class PersonalCounts:
    settings: PersonalConfig
    records: int = 0
    masked: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    listed: list[PersonalFinding] = field(default_factory=list)
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def add(
        self, located: Located, fields: Sequence[str], findings: Sequence[Sequence[Finding]], *, masked: bool
    ) -> None:
        self.records += 1
        self.masked += masked
        for number, (text, of_field) in enumerate(zip(fields, findings, strict=True)):
            for finding in of_field:
                self.kinds[finding.kind] += 1
                if len(self.listed) < MOST_LISTED:
                    content = text[finding.start : finding.end].encode("utf-8", "surrogatepass")
                    self.listed.append(
                        PersonalFinding(
                            kind=finding.kind,
                            record=located.record,
                            where=located.where,
                            field=number,
                            start=finding.start,
                            salted_hash=hmac.digest(self.salt, content, "sha256").hex()[:16],
                        )
                    )

    def report(self) -> PersonalReport:
        return PersonalReport(
            action=self.settings.action,
            records=self.records,
            masked=self.masked,
            kinds=dict(sorted(self.kinds.items())),
            findings=tuple(self.listed),
            not_listed=self.kinds.total() - len(self.listed),
        )


@dataclass(slots=True)
class QualityCounts:
    """The sample is every n-th record, n doubling when it is full: the same for the same records."""

    limits: QualityConfig
    removed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MEASURES), np.int64))
    suggested: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MEASURES), np.int64))
    sample: list[NDArray[np.float64]] = field(default_factory=list)
    every: int = 1
    seen: int = 0

    def add(self, values: NDArray[np.float64]) -> bool:
        """Counts the measures of a record; returns whether a limit leaves it out."""
        left_out = is_left_out(values, self.limits)
        self.removed += left_out
        self.suggested += is_left_out(values, SUGGESTED)
        if self.seen % self.every == 0:
            self.sample.append(values)
            if len(self.sample) > _SAMPLE:
                self.sample, self.every = self.sample[::2], self.every * 2
        self.seen += 1
        return bool(left_out.any())

    def report(self) -> dict[str, QualityMeasure]:
        if not self.sample:
            return {}
        values = np.quantile(np.array(self.sample), _QUANTILES, axis=0)
        fields = ("min_characters", "min_hangul", "max_repetition", "max_boilerplate")
        return {
            name: QualityMeasure(
                quantiles={f"{100 * q:g} %": round(float(v), 4) for q, v in zip(_QUANTILES, values[:, i], strict=True)},
                limit=getattr(self.limits, fields[i]),
                removed=int(self.removed[i]),
                suggested=getattr(SUGGESTED, fields[i]),
                suggested_would_remove=int(self.suggested[i]),
            )
            for i, name in enumerate(MEASURES)
        }
