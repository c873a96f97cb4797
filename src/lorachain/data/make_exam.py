"""Five-option questions from a dictionary: more to train on, and the chain's own probe of what stage 01 taught.

Each entry is asked once, term -> English name or definition -> term. Right and wrong options of a question come from
the same split, so that no text that a dev question shows was ever an option in training: the probe can then be passed
by knowing the dictionary, not by having seen the exam.
"""

import json
import os
import random
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorachain.data.screening import normalised
from lorachain.errors import ConfigError, DataError
from lorachain.records import LETTERS, ExamQuestion, Term

MIN_ENTRIES = 5
NEIGHBOURS = 8
"""On each side in the order of length: the options that a distractor is drawn from."""
MASK = "○○"
_SUBJECT = re.compile(r"\w[\w.-]*")
Made = Literal["train", "dev"]


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry as it will be asked."""

    stem: str
    answer: str
    key: str
    """The answer, normalised: options differ in it."""
    kind: str
    """`english` or `term`: what the answer is. Distractors are of the same kind."""
    concept: int
    """Entries that share a term, a definition or an English name are one concept: never options against each other."""
    category: str | None


def make_exam(
    entries: Sequence[Term],
    *,
    seed: int,
    dev_fraction: float = 0.3,
    limit: int | None = None,
    subject: str = "dictionary",
) -> dict[Made, list[ExamQuestion]]:
    """Questions split so that no entry, and no synonym of it, is asked in both; the same for the same arguments.

    Distractors come from the entry's category where there is one, then from the entries nearest in length. How many of
    them are shorter than the answer is drawn uniformly, so that its length does not give the answer away.

    Args:
        entries: at least five that can be asked and told apart.
        dev_fraction: share of the concepts that go to `dev`, between 0 and 1.
        limit: at most so many questions in both splits together; the entries are drawn.
        subject: becomes the folder's name and the first part of each id.

    Raises:
        ConfigError: `dev_fraction`, `limit` or `subject` is out of range.
        DataError: fewer than five usable entries, or too few for five different options.
    """
    if not 0 < dev_fraction < 1:
        raise ConfigError(f"dev_fraction: expected a number between 0 and 1, found {dev_fraction}.")
    if limit is not None and limit < 2:
        raise ConfigError(f"limit: expected at least 2 questions (one for train, one for dev), found {limit}.")
    if not _SUBJECT.fullmatch(subject):
        raise ConfigError(f"subject: expected letters, digits, '_', '-' and '.', found {subject!r}.")
    rng = random.Random(seed)
    items = list(_items(entries, rng))
    concepts = sorted({item.concept for item in items})
    if len(concepts) < MIN_ENTRIES:
        raise DataError(
            f"make-exam: expected at least {MIN_ENTRIES} entries with an English name or a definition that differ "
            f"from each other, found {len(concepts)}. Add entries to the dictionary."
        )
    rng.shuffle(concepts)
    dev_size = min(max(round(dev_fraction * len(concepts)), 1), len(concepts) - 1)
    in_dev = set(concepts[:dev_size])
    halves: dict[Made, list[_Item]] = {
        "train": [item for item in items if item.concept not in in_dev],
        "dev": [item for item in items if item.concept in in_dev],
    }
    limits = _share(limit, {made: len(half) for made, half in halves.items()}, dev_fraction)
    everything = _Pool(items)
    exam: dict[Made, list[ExamQuestion]] = {"train": [], "dev": []}
    for period, (made, half) in enumerate(halves.items(), start=1):
        pool = _Pool(half)
        for item in rng.sample(half, limits[made]):
            distractors = pool.distractors(item, rng) or everything.distractors(item, rng)
            if distractors is not None:
                exam[made].append(_question(item, distractors, f"0-{period}-{len(exam[made]) + 1}", subject, rng))
    if not exam["train"] or not exam["dev"]:
        raise DataError(
            "make-exam: the entries give no question with five different options in "
            f"{'train' if not exam['train'] else 'dev'}. Add entries to the dictionary."
        )
    return exam


def write_exam(questions: Mapping[Made, Sequence[ExamQuestion]], out_dir: Path) -> list[Path]:
    """Writes `<subject>/train.jsonl` and `<subject>/dev.jsonl` in KorMedMCQA's schema; returns the files.

    Each file is written beside and renamed, so that a file of that name is whole.
    """
    written = []
    for made, half in questions.items():
        by_subject: dict[str, list[ExamQuestion]] = defaultdict(list)
        for question in half:
            by_subject[question.subject].append(question)
        for subject, rows in by_subject.items():
            path = out_dir / subject / f"{made}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(_row(question), ensure_ascii=False) + "\n" for question in rows)
            os.replace(partial, path)
            written.append(path)
    return written


def _row(question: ExamQuestion) -> dict[str, object]:
    year, period, number = question.id.removeprefix(f"{question.subject}-").split("-")
    return {
        "subject": question.subject,
        "year": int(year),
        "period": int(period),
        "q_number": int(number),
        "question": question.question,
        **dict(zip(LETTERS, question.options, strict=True)),
        "answer": question.answer + 1,
        "cot": question.reasoning or "",
    }


def _share(limit: int | None, sizes: Mapping[Made, int], dev_fraction: float) -> dict[Made, int]:
    """How many questions each split gets under the limit, at least one each."""
    if limit is None or limit >= sum(sizes.values()):
        return dict(sizes)
    dev = min(max(round(dev_fraction * limit), 1), limit - 1, sizes["dev"])
    return {"train": min(limit - dev, sizes["train"]), "dev": dev}


def _items(entries: Sequence[Term], rng: random.Random) -> Iterator[_Item]:
    """The entries that can be asked, each stem once."""
    asked: set[str] = set()
    for entry, concept in zip(entries, _concepts(entries), strict=True):
        clue = _clue(entry)
        ways = (["english"] if entry.english else []) + (["term"] if clue else [])
        if not ways:
            continue
        kind = rng.choice(ways)
        if kind == "english":
            stem, answer = f"다음 용어의 영어 이름은? {entry.term}", entry.english or ""
        else:
            stem, answer = f"다음 설명에 해당하는 용어는? {clue}", entry.term
        if normalised(answer) and normalised(stem) not in asked:
            asked.add(normalised(stem))
            yield _Item(stem, answer, normalised(answer), kind, concept, entry.category)


def _clue(entry: Term) -> str | None:
    """The definition with the term masked, as encyclopedias begin with the term itself; None if nothing is left."""
    if not entry.definition:
        return None
    clue = re.sub(re.escape(entry.term), MASK, entry.definition, flags=re.IGNORECASE)
    return clue if normalised(clue.replace(MASK, "")) else None


def _concepts(entries: Sequence[Term]) -> list[int]:
    """A number for each entry, equal where entries share a term, a definition (but for the term in it) or an English
    name, however indirectly: union-find over the shared keys."""
    parent = list(range(len(entries)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[tuple[str, str], int] = {}
    for i, entry in enumerate(entries):
        keys = [("term", entry.term), ("definition", _clue(entry))]
        keys += [("english", name) for name in (entry.english or "").split(";")]
        for kind, value in keys:
            if value and (key := normalised(value)):
                parent[root(i)] = root(first_with.setdefault((kind, key), i))
    return [root(i) for i in range(len(entries))]


class _Pool:
    """Items by kind, and by kind and category, each in the order of their answers' lengths."""

    def __init__(self, items: Iterable[_Item]) -> None:
        self._by_group: dict[tuple[str, str | None], list[_Item]] = defaultdict(list)
        for item in items:
            self._by_group[item.kind, None].append(item)
            if item.category is not None:
                self._by_group[item.kind, item.category].append(item)
        for group in self._by_group.values():
            group.sort(key=_length)

    def distractors(self, asked: _Item, rng: random.Random) -> list[_Item] | None:
        """Four wrong options that differ from each other; None where the pool has too few."""
        taken: list[_Item] = []
        for category in [asked.category, None] if asked.category is not None else [None]:
            taken += self._nearest(asked, self._by_group.get((asked.kind, category), []), taken, rng)
        return taken if len(taken) == 4 else None

    def _nearest(self, asked: _Item, group: list[_Item], taken: list[_Item], rng: random.Random) -> list[_Item]:
        """Up to as many items as are still wanted, a uniformly drawn share of them from the shorter side."""
        wanted = 4 - len(taken)
        keys = {asked.key, *(item.key for item in taken)}
        # Ties in length are cut at a random place, or equal lengths would all count as longer.
        low, high = (
            bisect_left(group, len(asked.answer), key=_length),
            bisect_left(group, len(asked.answer) + 1, key=_length),
        )
        middle = rng.randint(low, high)
        shorter = _first_different(reversed(group[:middle]) if middle else (), asked, keys)
        longer = _first_different(group[middle:], asked, keys | {item.key for item in shorter})
        from_shorter = max(min(rng.randint(0, wanted), len(shorter)), wanted - len(longer))
        chosen = rng.sample(shorter, min(from_shorter, len(shorter)))
        return chosen + rng.sample(longer, min(wanted - len(chosen), len(longer)))


def _length(item: _Item) -> int:
    return len(item.answer)


def _first_different(items: Iterable[_Item], asked: _Item, keys: set[str]) -> list[_Item]:
    """The first few of the items that are other concepts and differ from `keys` and each other."""
    found: dict[str, _Item] = {}
    for item in items:
        if item.concept != asked.concept and item.key not in keys:
            found.setdefault(item.key, item)
        if len(found) == NEIGHBOURS:
            break
    return list(found.values())


def _question(item: _Item, distractors: list[_Item], number: str, subject: str, rng: random.Random) -> ExamQuestion:
    texts = [distractor.answer for distractor in distractors]
    answer = rng.randrange(5)
    texts.insert(answer, item.answer)
    a, b, c, d, e = texts
    return ExamQuestion(f"{subject}-{number}", subject, item.stem, (a, b, c, d, e), answer, exam=subject)
