"""Checks of a sample's text alone. Each returns whether the sample passes; the time is linear in the text."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lorachain.content_letters import squeezed
from lorachain.evaluation.answer_line import answer_lines
from lorachain.evaluation.reasoning_text import names_another
from lorachain.letter_uses import Kind, letter_uses
from lorachain.records import ExamQuestion

_BLANKS = re.compile(r"\s+")
_LEAK = re.compile(
    r"힌트|hint|정답(?:이|은|을|를)?\s?(?:이미\s?)?(?:주어|제시|알려|알고|공개)|(?:주어진|제시된|알려진|미리\s?받은)\s?정답"
    r"|정답을\s?(?:미리|먼저)|(?:the\s)?(?:given|provided)\s(?:correct\s)?answer|answer\s(?:is|was)\s(?:given|provided)"
    r"|언급\s?없이\s?풀이",
    re.IGNORECASE,
)
_FOREIGN_WORD = re.compile(r"[A-Za-zÀ-ɏ]{4,}")
_SAME_START = 4
"""Characters that a miscopied word shares with the right one at least."""
_GRAM = 12
"""Characters of the n-grams whose repetition is counted."""
_MIN_CHARACTERS = 8
_MAX_REPEATED = 0.5
_MAX_SAME_GRAM = 4


def one_answer_line_last(text: str) -> bool:
    """Whether `text` has exactly one answer line, with something after its cue, and ends with it."""
    lines = answer_lines(text)
    return len(lines) == 1 and not text[lines[0].end :].strip()


def is_consistent(reasoning: str, shown: ExamQuestion, chosen: int) -> bool:
    """Whether the option that the reasoning names last is the one answered.

    An option is named by its text or by a letter that certainly refers to it; reasoning that names none is consistent.
    """
    return not names_another(reasoning, shown, chosen)


def is_long_enough(reasoning: str) -> bool:
    """Whether there is any reasoning before the answer. The upper bound is the writer's limit of tokens, which leaves a
    sample unfinished."""
    return len(_BLANKS.sub("", reasoning)) >= _MIN_CHARACTERS


def is_repetitive(reasoning: str) -> bool:
    """Whether the text loops: more than half of its 12-grams of characters are repeats, or one of them occurs more than
    four times without overlap."""
    text = _BLANKS.sub(" ", reasoning)
    grams = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    if len(grams) <= _GRAM:
        return False
    if 1 - len(set(grams)) / len(grams) > _MAX_REPEATED:
        return True
    gram, count = Counter(grams).most_common(1)[0]
    return count > _MAX_SAME_GRAM and text.count(gram) > _MAX_SAME_GRAM


def miscopies_a_term(reasoning: str, known: Iterable[str]) -> bool:
    """Whether a foreign word of the text begins like one of the question or the dictionary and goes on otherwise: a
    small model that loses a term halfway reasons about another one. A plural is no other word.

    Args:
        known: the question with its options, and the terms of the dictionary in the text.
    """
    terms = {word.casefold().rstrip("s") for text in known for word in _FOREIGN_WORD.findall(text)}
    starts = {word[:_SAME_START] for word in terms if len(word) > _SAME_START}
    return any(
        (folded := word.casefold().rstrip("s")) not in terms and folded[:_SAME_START] in starts
        for word in _FOREIGN_WORD.findall(reasoning)
    )


def mentions_leak(reasoning: str) -> bool:
    """Whether the text speaks of a hint or of a given answer."""
    return _LEAK.search(reasoning) is not None


def without_letters(reasoning: str, shown: ExamQuestion) -> str:
    """The reasoning without its single letters that may name an option, and without the numbers of options: what
    supports the right answer is then the content alone."""
    uses = [use for use in letter_uses(reasoning, shown.options, shown.question) if use.kind is not Kind.NAME]
    drop = {use.index for use in uses}
    text = "".join(character for i, character in enumerate(reasoning) if i not in drop)
    text = re.sub(r"[①-⑤❶-❺]|(?<![0-9])[1-5]번", "", text)
    return _BLANKS.sub(" ", re.sub(r"[(\[]\s{0,4}[)\]]", "", text)).strip()


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8) -> list[bool]:
    """For each text, whether it nearly repeats an earlier one that is not itself a duplicate: Jaccard similarity of the
    sets of character 5-grams of at least `threshold`."""
    kept: list[frozenset[str]] = []
    duplicate = []
    for text in texts:
        plain = squeezed(text)
        grams = frozenset(plain[i : i + 5] for i in range(max(1, len(plain) - 4)))
        repeats = any(len(grams & other) >= threshold * len(grams | other) for other in kept)
        duplicate.append(repeats)
        if not repeats:
            kept.append(grams)
    return duplicate
