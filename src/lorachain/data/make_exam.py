"""Five-option questions from a dictionary: more training data, and a test of what stage 01 taught.

Each entry gives one question, term -> English name or definition -> term. Right and wrong options of a question come
from the same split, so that no text that a dev question shows was ever an option in training: its questions can then
be answered by knowing the dictionary, not by having seen the exam.
"""

import random
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorachain.data.decontamination import normalized
from lorachain.data.normalization import normalize_name
from lorachain.data.splits import Split
from lorachain.errors import ConfigError, DataError
from lorachain.records import ExamQuestion, Term

MIN_ENTRIES = 5
NEIGHBORS = 8
"""On each side in the order of length: the options that a distractor is drawn from."""
MASK = "○○"
_SUBJECT = re.compile(r"\w[\w.-]*")
Kind = Literal["english", "term"]
"""What a question asks for. Its five options are all of that kind."""
_KINDS: tuple[Kind, Kind] = ("english", "term")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One entry and the questions it can give."""

    entry: Term
    concept: int
    """Entries that share a term, a definition or an English name are one concept: never options of one question."""
    stems: dict[Kind, str]
    """The question for each kind of answer that the entry allows."""

    def option(self, kind: Kind) -> str | None:
        return self.entry.english if kind == "english" else self.entry.term


@dataclass(frozen=True, slots=True)
class _Option:
    text: str
    concept: int
    """Different for each option of a question, and so is the text."""
    category: str | None


def make_exam(
    entries: Sequence[Term],
    *,
    seed: int,
    dev_fraction: float = 0.3,
    limit: int | None = None,
    subject: str = "dictionary",
) -> dict[Split, list[ExamQuestion]]:
    """Questions split so that no entry, and no synonym of it, is in both splits; deterministic in the arguments.

    Distractors come from the entry's category where there is one, then from the entries nearest in length. How many of
    them are shorter than the answer is drawn uniformly, so that its length does not reveal the answer.

    Args:
        entries: at least five that give a question and differ from each other.
        dev_fraction: share of the concepts that go to `dev`, between 0 and 1.
        limit: at most this many questions in both splits together; the entries are drawn at random.
        subject: the directory's name and the first part of each id.

    Raises:
        ConfigError: `dev_fraction`, `limit` or `subject` is out of range.
        DataError: fewer than five usable entries, or too few for five different options.
    """
    if not 0 < dev_fraction < 1:
        raise ConfigError(f"dev_fraction: expected a number between 0 and 1, found {dev_fraction}.")
    if limit is not None and limit < 2:
        raise ConfigError(f"limit: expected at least 2 questions (one for train, one for dev), found {limit}.")
    subject = normalize_name(subject)
    if not _SUBJECT.fullmatch(subject):
        raise ConfigError(f"subject: expected letters, digits, '_', '-' and '.', found {subject!r}.")
    rng = random.Random(seed)
    candidates = _candidates(entries)
    concepts = sorted({item.concept for item in candidates})
    if len(concepts) < MIN_ENTRIES:
        raise DataError(
            f"make-exam: expected at least {MIN_ENTRIES} entries with an English name or a definition that differ "
            f"from each other, found {len(concepts)}. Add entries to the dictionary."
        )
    rng.shuffle(concepts)
    dev_size = min(max(round(dev_fraction * len(concepts)), 1), len(concepts) - 1)
    in_dev = set(concepts[:dev_size])
    parts: dict[Split, list[_Candidate]] = {
        "train": [item for item in candidates if item.concept not in in_dev],
        "dev": [item for item in candidates if item.concept in in_dev],
    }
    limits = _share(limit, {split: len(part) for split, part in parts.items()}, dev_fraction)
    everything = _Pool(candidates)
    exam: dict[Split, list[ExamQuestion]] = {"train": [], "dev": []}
    seen: set[str] = set()
    for period, (split, part) in enumerate(parts.items(), start=1):
        pools = (_Pool(part), everything)
        rng.shuffle(part)
        for item in part:
            if len(exam[split]) == limits[split]:
                break
            question = _question(item, pools, seen, f"{subject}-0-{period}-{len(exam[split]) + 1}", subject, rng)
            if question is not None:
                exam[split].append(question)
        if not exam[split]:
            raise DataError(
                f"make-exam: no entry of the {split} part has five different options to choose from. Add entries with "
                "the same fields (English name, definition) to the dictionary."
            )
    return exam


def _share(limit: int | None, sizes: Mapping[Split, int], dev_fraction: float) -> dict[Split, int]:
    """The number of questions of each split under the limit, at least one each."""
    if limit is None or limit >= sum(sizes.values()):
        return dict(sizes)
    dev = min(max(round(dev_fraction * limit), 1), limit - 1, sizes["dev"])
    return {"train": min(limit - dev, sizes["train"]), "dev": dev}


def _candidates(entries: Sequence[Term]) -> list[_Candidate]:
    """The entries with an English name, or a definition that says more than the term."""
    candidates = []
    for entry, concept in zip(entries, _concepts(entries), strict=True):
        stems: dict[Kind, str] = {}
        if entry.english and normalized(entry.english):
            stems["english"] = f"다음 용어의 영어 이름은? {entry.term}"
        if (clue := _clue(entry)) and normalized(entry.term):
            stems["term"] = f"다음 설명에 해당하는 용어는? {clue}"
        if stems:
            candidates.append(_Candidate(entry, concept, stems))
    return candidates


def _clue(entry: Term) -> str | None:
    """The definition with the term masked (encyclopedias begin with the term itself); None if nothing remains."""
    if not entry.definition:
        return None
    clue = re.sub(re.escape(entry.term), MASK, entry.definition, flags=re.IGNORECASE)
    return clue if normalized(clue.replace(MASK, "")) else None


def _concepts(entries: Sequence[Term]) -> list[int]:
    """A number for each entry, equal where entries share a term, a definition (apart from the term in it) or an English
    name, also indirectly: union-find over the shared keys."""
    parent = list(range(len(entries)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[tuple[str, str], int] = {}
    for i, entry in enumerate(entries):
        keys = [("term", entry.term), ("definition", _clue(entry))]
        keys += [("english", name) for name in (entry.english, *(entry.english or "").split(";"))]
        for kind, value in keys:
            if value and (key := normalized(value)):
                parent[root(i)] = root(first_with.setdefault((kind, key), i))
    return [root(i) for i in range(len(entries))]


class _Pool:
    """Options by kind, and by kind and category, each sorted by length."""

    def __init__(self, items: Iterable[_Candidate]) -> None:
        self._groups: dict[tuple[Kind, str | None], list[_Option]] = defaultdict(list)
        for item in items:
            for kind in _KINDS:
                text = item.option(kind)
                if text and normalized(text):
                    option = _Option(text, item.concept, item.entry.category)
                    for category in dict.fromkeys((None, option.category)):
                        self._groups[kind, category].append(option)
        for group in self._groups.values():
            group.sort(key=_length)

    def distractors(self, answer: _Option, kind: Kind, rng: random.Random) -> list[str] | None:
        """Four wrong options that differ from each other; None where the pool has too few."""
        chosen: list[_Option] = []
        for category in dict.fromkeys((answer.category, None)):
            chosen += self._nearest(answer, self._groups.get((kind, category), []), chosen, rng)
        return [option.text for option in chosen] if len(chosen) == 4 else None

    def _nearest(
        self, answer: _Option, group: list[_Option], chosen: list[_Option], rng: random.Random
    ) -> list[_Option]:
        """Up to as many options as are still missing, a uniformly drawn number of them from the shorter side."""
        missing = 4 - len(chosen)
        used = {answer.concept, *(option.concept for option in chosen)}
        length = len(answer.text)
        # Equal lengths are divided at a random position, or all of them would count as longer.
        middle = rng.randint(bisect_left(group, length, key=_length), bisect_right(group, length, key=_length))
        shorter = _first_different((group[i] for i in range(middle - 1, -1, -1)), used)
        used |= {option.concept for option in shorter}
        longer = _first_different((group[i] for i in range(middle, len(group))), used)
        from_shorter = min(max(rng.randint(0, missing), missing - len(longer)), len(shorter))
        drawn = rng.sample(shorter, from_shorter)
        return drawn + rng.sample(longer, min(missing - from_shorter, len(longer)))


def _length(option: _Option) -> int:
    return len(option.text)


def _first_different(options: Iterable[_Option], used: set[int]) -> list[_Option]:
    """The first few options of concepts that are not used, one for each concept."""
    by_concept: dict[int, _Option] = {}
    for option in options:
        if option.concept not in used:
            by_concept.setdefault(option.concept, option)
        if len(by_concept) == NEIGHBORS:
            break
    return list(by_concept.values())


def _question(
    item: _Candidate, pools: Sequence[_Pool], seen: set[str], name: str, subject: str, rng: random.Random
) -> ExamQuestion | None:
    """A question of a kind drawn from those of the entry; None where all its stems were used or options are lacking."""
    for kind in rng.sample(sorted(item.stems), len(item.stems)):
        text, stem = item.option(kind), item.stems[kind]
        if text is None or normalized(stem) in seen:
            continue
        answer = _Option(text, item.concept, item.entry.category)
        for pool in pools:
            if (texts := pool.distractors(answer, kind, rng)) is not None:
                seen.add(normalized(stem))
                position = rng.randrange(5)
                texts.insert(position, text)
                a, b, c, d, e = texts
                return ExamQuestion(name, subject, stem, (a, b, c, d, e), position, exam=subject)
    return None
