"""Whether an answer has the form that its stage trains, whatever it says: a stage can lose what another one taught.

After stage 02, a dictionary question was answered "심방증 (C)", the form of an exam answer.
"""

import re

from lorachain.evaluation.exact_match import normalize
from lorachain.evaluation.reasoning_text import hangul_share
from lorachain.prompts import ANSWER_CUE, REASONING_CUE
from lorachain.records import LETTERS, ExamQuestion

VERSION = "1"
_OPTION_MARK = re.compile(r"^\s?\(?[A-E][.):]|\([A-E]\)\s?$")
_LETTER_FIRST = re.compile(r"\s?\(?([A-E])[.):]\)?\s?(.*)", re.DOTALL)
_LETTER_LAST = re.compile(r"(.*?)\s?\(([A-E])\)[.\s]?", re.DOTALL)
_CUES = (ANSWER_CUE.rstrip("："), REASONING_CUE.rstrip("："))


def is_korean(text: str) -> bool:
    """Whether most of its letters are Hangul; false for a text without letters."""
    return any(map(str.isalpha, text)) and hangul_share(text) > 0.5


def has_dictionary_form(answer: str, expected: str, *, ended: bool) -> bool:
    """One line that ended, in the script of the expected answer, without the marks of an exam answer.

    `ended`: by an end token or a newline, not cut at the limit.
    """
    line = answer.strip()
    if not ended or not line or "\n" in line or "\ufffd" in line:
        return False
    if _OPTION_MARK.search(line) and not _OPTION_MARK.search(expected.strip()):
        return False
    if any(cue in line and cue not in expected for cue in _CUES):
        return False
    return is_korean(line) == is_korean(expected)


def has_exam_form(answer: str, question: ExamQuestion, *, ended: bool) -> bool:
    """` B. text` or ` text (B)`, with the text of the option that the letter names, and nothing else."""
    line = answer.strip()
    if not ended:
        return False
    for pattern, letter, text in ((_LETTER_FIRST, 1, 2), (_LETTER_LAST, 2, 1)):
        match = pattern.fullmatch(line)
        if match and normalize(match[text]) == normalize(question.options[LETTERS.index(match[letter])]):
            return True
    return False


def has_plain_text_form(continuation: str) -> bool:
    """Running Korean text. A document need not end within the limit, so that it was cut says nothing."""
    text = continuation.strip()
    if not text or "\ufffd" in text.rstrip("\ufffd"):  # the last character may be cut
        return False
    return is_korean(text) and not any(f"{cue}：" in text or f"{cue}:" in text for cue in _CUES)
