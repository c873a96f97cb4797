"""Finds personal data in Korean text, and masks it. What was found is never part of a message or a file.

Every pattern has a bounded width, so that the time to read a text is linear in its length.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from lorachain.data.gates.names import find_names
from lorachain.data.gates.personal_numbers import (
    has_check_digit,
    is_alien,
    is_birth_date,
    is_card,
    is_landline,
    is_mobile,
)
from lorachain.data.gates.user_pattern import compile_bounded
from lorachain.data_settings import FindingKind, PersonalKind

MASKS: dict[FindingKind, str] = {
    "resident": "[주민등록번호]",
    "alien": "[외국인등록번호]",
    "phone": "[전화번호]",
    "email": "[이메일]",
    "card": "[카드번호]",
    "account": "[계좌번호]",
    "chart": "[등록번호]",
    "name": "[이름]",
}
_CONTEXT = 20
"""Characters before a number in which a word such as 전화 says what it is."""
_PLAIN = str.maketrans(
    {
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **dict.fromkeys("‐‑‒–—―−－﹣ー", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " "),
        **{"（": "(", "）": ")", "．": ".", "・": ".", "·": ".", "ㆍ": ".", "＋": "+", "＠": "@", "／": "/", "~": "-"},
    }
)
"""One character for one, so that positions stay."""
_REGION = re.compile(
    "[+(＋（]?\\d[\\d ()./+\\-‐‑‒–—―−－﹣ー\u00a0\u2002\u2003\u2009\u202f\u3000（）．・·ㆍ＋／~]{6,2000}"
)
"""Digits and what may be between them: numbers are only searched for within."""
_MARGIN = 3
"""Characters around a region that the patterns look at."""
_SPOKEN = str.maketrans("공영일이삼사오육륙칠팔구", "001234566789")

_RESIDENT = re.compile(r"(?<![\d-])(\d{6})( ?[-./] ?| )?(\d{7})(?!\d)")
_PHONE = re.compile(
    r"(?<![\d.-])(?:\+|(?<![\d-]))?(?:\(?82\)?[ .-]{0,2}\(?0?\)?|\(?0)(?:2|1[016-9]|[3-6]\d|70)"
    r"(?:\) ?| ?[-./)] ?| )?\d{3,4}(?: ?[-./] ?| )?\d{4}(?![\d-]|\.\d)"
)
_SPOKEN_PHONE = re.compile(
    r"[공영]일[공영일육칠팔구](?: ?- ?| )?[공영일이삼사오육륙칠팔구]{3,4}(?: ?- ?| )?[공영일이삼사오육륙칠팔구]{4}"
)
_AT = ("@", "＠", "(at)", "[at]", "골뱅이")
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63} ?(?:@|\(at\)|\[at\]|골뱅이) ?"
    r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,3}\.[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_CARD = re.compile(r"(?<![\d-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\d-])")
_ACCOUNT = re.compile(r"(?<![\d-])\d{2,6}(?:-\d{1,8}){1,3}(?![\d-])|(?<![\d-])\d{10,14}(?![\d-])")

_RESIDENT_WORDS = re.compile(r"주민|등록번호|외국인등록|RRN|resident", re.IGNORECASE)
_PHONE_WORDS = re.compile(r"전화|연락처|휴대|핸드폰|팩스|TEL|FAX|phone|☎|☏|📞", re.IGNORECASE)
_ACCOUNT_WORDS = re.compile(
    r"계좌|입금|송금|예금주|은행|농협|수협|신협|새마을금고|우체국|카카오뱅크|토스뱅크|케이뱅크|account", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Where something was found; not what."""

    kind: FindingKind
    start: int
    end: int


class PersonalData:
    """Searches texts for some kinds of personal data.

    Args:
        chart_pattern: a regular expression for chart numbers, or empty.
        names_model: folder of a model that finds names of people (`names`), or empty.

    Raises:
        ConfigError: the pattern cannot be used.
    """

    def __init__(self, kinds: Collection[PersonalKind], chart_pattern: str = "", names_model: str = "") -> None:
        self._kinds: frozenset[FindingKind] = frozenset(kinds) | ({"name"} if names_model else set())
        self._names_model = names_model
        self._chart = compile_bounded(chart_pattern, "data.personal.chart_pattern") if chart_pattern else None

    def find(self, text: str) -> list[Finding]:
        """What is in the text, in its order; of overlapping findings the one that begins first, then the longest."""
        findings: list[Finding] = []
        for start, end, kind in sorted(self._all(text), key=lambda item: (item[0], -item[1])):
            if kind in self._kinds and (not findings or start >= findings[-1].end):
                findings.append(Finding(kind, start, end))
        return findings

    def _all(self, text: str) -> Iterator[tuple[int, int, FindingKind]]:
        if self._names_model:
            yield from ((start, end, "name") for start, end in find_names(self._names_model, text))
        if self._chart is not None:
            yield from ((match.start(), match.end(), "chart") for match in self._chart.finditer(text))
        if any(at in text for at in _AT):
            plain = text.translate(_PLAIN)
            yield from ((match.start(), match.end(), "email") for match in _EMAIL.finditer(plain))
        if "공일" in text or "영일" in text:
            for match in _SPOKEN_PHONE.finditer(text):
                if is_mobile(re.sub(r"\D", "", match[0].translate(_SPOKEN))):
                    yield match.start(), match.end(), "phone"
        for region in _REGION.finditer(text):
            first = max(0, region.start() - _MARGIN)
            part = text[first : region.end() + _MARGIN].translate(_PLAIN)
            for pattern, classify in _NUMBERS:
                for match in pattern.finditer(part):
                    start = first + match.start()
                    kind = classify(match, text[max(0, start - _CONTEXT) : start])
                    if kind is not None:
                        yield start, first + match.end(), kind


def masked(text: str, findings: list[Finding]) -> str:
    """The text with the kind in square brackets in place of each finding, such as `[전화번호]`."""
    for finding in reversed(findings):
        text = f"{text[: finding.start]}{MASKS[finding.kind]}{text[finding.end :]}"
    return text


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match[0])


def _registration(match: re.Match[str], before: str) -> PersonalKind | None:
    """With a hyphen the form is that of a registration number, whatever its check digit; without one, the check digit
    or a word before it decides."""
    digits = _digits(match)
    if not is_birth_date(digits):
        return None
    hyphen = "-" in (match[2] or "")
    if not (hyphen or has_check_digit(digits) or _RESIDENT_WORDS.search(before)):
        return None
    return "alien" if is_alien(digits) else "resident"


def _phone(match: re.Match[str], before: str) -> PersonalKind | None:
    digits = _digits(match)
    if digits.startswith("82"):
        national = digits[2:]
        digits = national if national.startswith("0") else f"0{national}"
    if is_mobile(digits):
        return "phone"
    separated = re.fullmatch(r"\d+", match[0]) is None
    return "phone" if is_landline(digits) and (separated or _PHONE_WORDS.search(before)) else None


def _card(match: re.Match[str], before: str) -> PersonalKind | None:
    return "card" if is_card(_digits(match)) else None


def _account(match: re.Match[str], before: str) -> PersonalKind | None:
    """Account numbers have no common form: a word before them decides."""
    enough = 10 <= len(_digits(match)) <= 14
    return "account" if enough and _ACCOUNT_WORDS.search(before) else None


_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], PersonalKind | None]], ...] = (
    (_RESIDENT, _registration),
    (_PHONE, _phone),
    (_CARD, _card),
    (_ACCOUNT, _account),
)
