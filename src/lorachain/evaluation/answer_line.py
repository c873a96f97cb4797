"""The option that an answer in free text names: the rules of the `reasoning` protocol.

An answer line is what follows a cue with a colon (`정답： …`, `Answer: …`); without one, the last sentence that states
the answer ("정답은 B입니다") is read. A line names an option by its text, by its letter, by its number, or by text and
letter, and the text decides what is a letter: "E. coli (B)" is B, and "E. coli" is the option with that text.

Lines are cut to a length that the options decide, and patterns on them have a bounded width: the time is linear.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lorachain.content_letters import ENDINGS, WINDOW, cleaned, is_known_name, squeezed
from lorachain.prompts import AnswerStyle
from lorachain.records import LETTERS

_BLANK_OR_EMPHASIS = " \t\r\n\f\v\u00a0\u3000*_`"
_ANSWER_CUE = re.compile(
    r"(?:정답(?:은|이)?"
    r"|(?:^|(?<=[\n.!?…]))[\s*_`#>\-•\"'({\[]{0,8}(?:(?:최종|따라서|그러므로|so|thus|therefore|hence|final|the|correct|best"
    r"|right|my)[\s,]{1,2}){0,3}(?:해답|답안|답|answer|option|choice)(?:\s(?:is|option|choice))?)"
    r"[*_`\"'\])】]{0,4}\s{0,16}[：:]",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"(?:정답|해답|(?<![가-힣])답)(?:은|는|이|으로는?)?\s"
    r"|(?:정답|answer)\s?[\])】>=→–-]\s?"
    r"|(?<![a-z])answer(?:\s(?:choice|option|here|to\sthis\squestion)){0,2}\s(?:is|would\sbe|should\sbe|must\sbe)\s"
    r"|(?<![a-z])(?:correct|best|right)\s(?:option|choice)\sis\s",
    re.IGNORECASE,
)
_NAMED_FIRST = re.compile(
    r"(?<![A-Za-z0-9가-힣])(?:(?:보기|선택지|선지|option|choice)\s?)?[(\[]?(?-i:([A-E]))[)\]]?(?:번)?"
    r"(?:(?:이|가)\s(?:정답|답)(?!이?\s?아)(?:이|입|으|$|[.\s])|\sis\s(?:the\s)?(?:correct|best|right|answer)(?!\s?[,;]?\s?not))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?:다|요|음|임)[.!](?=\s|$)|(?<=[^A-E\s])\.(?=\s)")
_MOST_STATEMENTS = 32
"""How many statements are read, from the last one back."""


class AnswerLine(NamedTuple):
    """Where an answer line is in a text: from its cue to the end of the line that holds the answer."""

    start: int
    end: int


def answer_lines(text: str) -> list[AnswerLine]:
    """Every answer line of `text`, in order: a cue, and what follows it up to the newline."""
    lines = []
    for match in _ANSWER_CUE.finditer(text):
        answer = match.end()
        while answer < len(text) and text[answer] in _BLANK_OR_EMPHASIS:
            answer += 1
        newline = text.find("\n", answer)
        lines.append(AnswerLine(match.start(), len(text) if newline < 0 else newline))
    return lines


def answer_line_complete(text: str) -> bool:
    """Whether `text` has an answer line from its cue to its newline: what follows changes nothing."""
    match = _ANSWER_CUE.search(text)
    return match is not None and "\n" in text[match.end() :].lstrip(_BLANK_OR_EMPHASIS)


def reasoned_choice(text: str, options: Sequence[str]) -> int | None:
    """The option that the first answer line names, or, without an answer line, the last statement of an answer; None
    if there is neither or it names no option, or several."""
    longest = 2 * max(map(len, options)) + 400
    match = _ANSWER_CUE.search(text)
    if match is not None:
        rest = text[match.end() :].lstrip(_BLANK_OR_EMPHASIS)
        return choice_of_line(rest.split("\n", 1)[0][:longest], options)
    plain = _without_emphasis(text)
    statements = [*_STATEMENT.finditer(plain), *_NAMED_FIRST.finditer(plain)]
    statements.sort(key=lambda statement: statement.start())
    for statement in reversed(statements[-_MOST_STATEMENTS:]):
        if statement.re is _NAMED_FIRST:
            return LETTERS.index(statement.group(1))
        choice = _choice_of_statement(plain[statement.end() : statement.end() + longest].split("\n", 1)[0], options)
        if choice is not None:
            return choice
    return None


def reasoned_text_choice(text: str, options: Sequence[str]) -> int | None:
    """As `reasoned_choice`, but the text decides where the answer line is an option's text with another's letter
    behind it: for a model that is trained to name the text, and is scored by it where it answers directly."""
    match = _ANSWER_CUE.search(text)
    line = text[match.end() :].lstrip(_BLANK_OR_EMPHASIS).split("\n", 1)[0] if match else ""
    line = _plain(line[: 2 * max(map(len, options)) + 400])
    if trailing := _TRAILING.search(line):
        texts = [squeezed(option) for option in options]
        named = [number for number, option in enumerate(texts) if _same(line[: trailing.start()], option)]
        if len(named) == 1:
            return named[0]
    return reasoned_choice(text, options)


def choice_reader(style: AnswerStyle) -> Callable[[str, Sequence[str]], int | None]:
    """How an answer in free text is read of a model that answers in this style."""
    return reasoned_text_choice if style == "options" else reasoned_choice


def _choice_of_statement(line: str, options: Sequence[str]) -> int | None:
    """What comes after "정답은": up to the end of the sentence, or else the complete line."""
    sentence = _SENTENCE_END.search(line)
    choice = choice_of_line(line[: sentence.end()], options) if sentence else None
    return choice_of_line(line, options) if choice is None else choice


def _without_emphasis(text: str) -> str:
    return text.replace("**", "").replace("__", "").replace("`", "")


# ---- one line --------------------------------------------------------------------------------------------------------

_CIRCLED = {ord(c): f"{i % 5 + 1}번" for i, c in enumerate("①②③④⑤❶❷❸❹❺➀➁➂➃➄➊➋➌➍➎")}
_LONGEST_IN_BRACKETS = 200
_OPEN, _CLOSE = r"[(\[<{「『【〔〈《]", r"[)\]>}」』】〕〉》]"
_PREFIX = re.compile(
    r"(?:(?:보기|선택지|선지|옵션|바로|역시|option|choice|answer|letter|the|is|정답은|답은)(?![가-힣a-z])[\s:]{0,2}){1,3}",
    re.IGNORECASE,
)
_FINAL = rf"(?:번|항)?(?:{ENDINGS})?(?:\s?(?:정답|답)?(?:이다|입니다|임|이에요|예요)?)\s?[.!。,;]{{0,3}}\s?"
_LEADING = re.compile(rf"(?:{_OPEN}\s?([A-E])\s?{_CLOSE}|([A-E]))(?:번)?\s?[.:,)\]=→-]?\s?")
_TRAILING = re.compile(rf"{_OPEN}\s?([A-E])\s?{_CLOSE}{_FINAL}\Z")
_TRAILING_BARE = re.compile(rf"[-,:=→/]\s?([A-E]){_FINAL}\Z")
_LETTER_ALONE = re.compile(rf"{_OPEN}?\s?([A-Ea-e])\s?{_CLOSE}?{_FINAL}\Z")
_LETTER_AHEAD = re.compile(
    rf"(?:{_OPEN}\s?([A-E])\s?{_CLOSE}|([A-E])(?=번|{ENDINGS}|\s|[.:,;()\]!?]|$|\s?[-=→]\s))(?:번)?"
)
_SEVERAL = re.compile(
    rf"(?:번)?\s?(?:[,、·/&+~-]|와|과|및|또는|혹은|이나|나|하고|or\s|and\s)\s?(?:or\s|and\s)?{_OPEN}?[A-E]"
    rf"(?={ENDINGS}|번|\W|$)"
)
"""Another letter after the first: "B와 C", "A or B"."""
_REJECTED = re.compile(
    rf".{{0,{2 * WINDOW}}}?아니(?:라|고),?\s|not\s{_OPEN}?[A-E]{_CLOSE}?,?\s(?:but\s|rather\s)?", re.IGNORECASE
)
"""What the line says that the answer is not: "A가 아니라 …"."""
_NEGATION = re.compile(
    r"\s?(?:이|가|은|는)?\s?(?:아니|아닌|제외|틀리|틀린|오답)|\s(?:is\s)?(?:not|wrong|incorrect)\b"
    r"|[^.]{0,16}(?:으나|지만|보이나)"  # "정답은 A라고 생각할 수 있으나"
)
_NUMBER = re.compile(rf"{_OPEN}?\s?([1-5])\s?(번{{1,2}}|{_CLOSE}|\.(?!\d)|(?=\s?[.!]?\s?\Z))(?:번)?\s?")
_REJECTS, _REASON_AFTER = re.compile("아니[라고]"), re.compile(r"[.,;:(\-–—→=]")
_ORGANISM = re.compile(r"[A-E]\.\s?[a-z]{3,32}")
_LATIN_WORD = re.compile(r"\.\s?([a-z]{3,32})")
_BRACKETED = re.compile(rf"{_OPEN}(.{{1,{_LONGEST_IN_BRACKETS}}}){_CLOSE}([가-힣.]{{0,8}})\Z")
_SYMBOLS = re.compile(rf"(?:(?!{_OPEN})[^\w]){{1,8}}")
_TAG = re.compile(r"</?(?:b|i|u|em|p|br|strong|mark|code|answer)\s?/?>")
_COPULA = re.compile(r"(?:이?(?:정답|답))?(?:입니다|이다|이에요|예요|임|이라고|이라|다)?[.。!,;]{0,4}\Z")


def choice_of_line(line: str, options: Sequence[str]) -> int | None:
    """The option that one answer names: `B. text`, `text (B)`, an option's whole text, `B`, `(B)번`, `②`; None if it
    names none, or several. A letter wins over a text beside it that is another option's."""
    texts = [squeezed(option) for option in options]
    choice = _by_letter_and_text(_plain(line), texts)
    if choice is None:
        choice = _by_text(line, options, texts)
    if choice is None:
        choice = _by_label(_plain(line.translate(_CIRCLED)), texts)
    return choice


def _plain(line: str) -> str:
    return cleaned(unicodedata.normalize("NFKC", line)).strip()


def _by_letter_and_text(line: str, texts: Sequence[str]) -> int | None:
    """`B. text` or `text (B)` where the text is that of option B."""
    leading = _LEADING.match(line)
    if leading and (leading.end() > leading.end(leading.lastindex or 0) or line[leading.end() :].startswith("(")):
        number = LETTERS.index(leading.group(1) or leading.group(2))
        if _same(line[leading.end() :], texts[number]):
            return number
    for pattern in (_TRAILING, _TRAILING_BARE):
        trailing = pattern.search(line)
        if trailing:
            number = LETTERS.index(trailing.group(1))
            if _same(line[: trailing.start()], texts[number]):
                return number
    return None


def _by_text(line: str, options: Sequence[str], texts: Sequence[str]) -> int | None:
    """The one option with this text, compared more and more loosely; or the one that the line begins with."""
    for equal in (
        [option.strip() == line.strip() for option in options],
        [text == squeezed(line) for text in texts],
        [_same(line, text) for text in texts],
        [squeezed(option.strip().split("\n")[0]) == squeezed(line) for option in options],
    ):
        if any(equal):
            return equal.index(True) if equal.count(True) == 1 else None
    key = squeezed(line)
    mentioned = [text for text in texts if len(text) > 1 and text in key]
    if (
        len(mentioned) != 1
        or not key.startswith(mentioned[0])
        or _REJECTS.search(key)
        or _TRAILING.search(cleaned(line))
    ):
        return None
    followed_by_reason = _REASON_AFTER.match(key[len(mentioned[0]) :])
    return texts.index(mentioned[0]) if followed_by_reason else None


def _same(text: str, option: str) -> bool:
    """Whether a text is an option's, apart from a full stop and the copula ("위염입니다.")."""
    key = squeezed(text)
    if bracketed := _BRACKETED.match(key):
        key = key if key == option else bracketed.group(1) + bracketed.group(2)
    if key == option or key.rstrip(".。!,;") == option.rstrip(".。!,;"):
        return bool(key) or not option
    return bool(option) and key.startswith(option) and bool(_COPULA.fullmatch(key[len(option) :]))


def _by_label(line: str, texts: Sequence[str]) -> int | None:
    """A letter or number whose text, if any, is not that of an option."""
    line = _TAG.sub("", line)
    for beginning in (_SYMBOLS, _PREFIX, _REJECTED):
        match = beginning.match(line)
        line = line[match.end() :] if match else line
    alone = _LETTER_ALONE.match(line)
    if alone:
        # "A" as the text of another option is left open.
        return _unless_text(LETTERS.index(alone.group(1).upper()), line, texts)
    ahead = _letter_ahead(line, texts)
    trailing = _TRAILING.search(line)
    if trailing:
        head = line[: trailing.start()]
        if is_known_name(head[-48:], "", bracketed=True):
            return None
        named = LETTERS.index(trailing.group(1))
        return named if ahead in (None, named) else None
    if ahead is not None:
        return ahead
    number = _by_number(line, texts)
    return _by_organism(line, texts) if number is None else number


def _unless_text(number: int, line: str, texts: Sequence[str]) -> int | None:
    same = [i for i, text in enumerate(texts) if _same(line, text)]
    return number if same in ([], [number]) else None


def _letter_ahead(line: str, texts: Sequence[str]) -> int | None:
    match = _LETTER_AHEAD.match(line)
    if match is None:
        return None
    letter = match.group(1) or match.group(2)
    rest = line[match.end() :]
    bracketed = match.group(1) is not None
    after = rest if bracketed else line[match.end(2) :]
    if is_known_name("", cleaned(after[:48]), bracketed=bracketed) or _SEVERAL.match(after) or _NEGATION.match(after):
        return None
    word = _LATIN_WORD.match(after)
    if word and any(f"{letter.lower()}.{word.group(1)}" in text for text in texts):
        return None
    return LETTERS.index(letter)


def _by_number(line: str, texts: Sequence[str]) -> int | None:
    match = _NUMBER.match(line)
    if match is None:
        return None
    rest = line[match.end() :]
    same = [i for i, text in enumerate(texts) if rest and _same(rest, text)]
    if len(same) == 1:
        return same[0]
    certain = match.group(2).startswith("번")
    if not certain and any(text[:1].isdigit() for text in texts):
        return None  # "2" may be a quantity
    return int(match.group(1)) - 1


def _by_organism(line: str, texts: Sequence[str]) -> int | None:
    """The one option that has the organism that the line begins with: "E. coli 감염" of "대장균(E. coli)"."""
    match = _ORGANISM.match(line)
    named = [i for i, text in enumerate(texts) if match and squeezed(match.group()) in text]
    return named[0] if len(named) == 1 else None
