"""What each single capital letter of a reasoning is, so that references to options follow a new order.

A letter is one of four kinds. A `NAME` is content and never changes. A `REFERENCE` certainly names an option and
follows it. A `SUBJECT` ("B는 …") names an option if nothing else in the question is called by a single letter. What is
`UNCERTAIN` keeps the question in its order. No rule depends on which of the letters A to E is there, apart from the
text of the option that it names: that makes a reordering reversible.

Every pattern has a bounded width and is applied to a short window, so that the time is linear in the text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from lorachain.content_letters import (
    ENDINGS,
    EPITHET_AFTER,
    RANGE_AFTER,
    cleaned,
    is_known_name,
    speaks_of_named_things,
    squeezed,
    window_after,
    window_before,
)
from lorachain.records import LETTERS

_LETTER = re.compile(r"(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9])")
_LONGEST_OPTION = 200
"""Characters of an option that are compared with the text beside a letter."""


class Kind(Enum):
    """What a single capital letter is."""

    NAME = "name"
    REFERENCE = "reference"
    SUBJECT = "subject"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class LetterUse:
    """One single capital letter of a text."""

    index: int
    letter: str
    kind: Kind


# ---- one letter and its surroundings ---------------------------------------------------------------------------------

_OPEN, _CLOSE = r"[(\[{<（［【「『〈]", r"[)\]}>）］】」』〉]"
_OPEN_BEFORE, _CLOSE_AFTER = re.compile(rf"{_OPEN}\s?\Z"), re.compile(rf"\A\s?{_CLOSE}")
_WORD_BEFORE = re.compile(r"[^\W\d]\Z")
_CUE_BEFORE = re.compile(
    r"(?:(?:정답|해답|답안|오답|(?<![가-힣])답|보기|선택지|선지|옵션)"
    r"[\])】]?(?:으로는|으로|은|는|이|가|의|로|을|를)?(?:\s?중(?:에서|에)?)?\s?(?:바로|역시|결국|당연히)?\s?[:：=→-]?\s?"
    r"|(?<![A-Za-z])(?i:answers|answer|options|option|choices|choice)"
    r"(?:\s(?:is|are|was|would be|should be|must be)|\s?[:：])?\s(?:the\s)?(?:(?:option|choice)\s)?"
    r"|(?<![A-Za-z])(?i:choose|select|pick|eliminate|exclude)\s"
    rf"){_OPEN}?\s?\Z"
)
_ENGLISH_COLON_CUE = re.compile(rf"(?<![A-Za-z])(?i:answer|option|choice)\s?[:：]\s?{_OPEN}?\s?\Z")
_CONCLUSION_BEFORE = re.compile(
    r"(?:따라서|그러므로|그래서|결론적으로|결국|고로|즉|∴|→|⇒|(?<![A-Za-z])(?i:thus|therefore|hence)),?\s\Z"
)
_SUPERLATIVE_BEFORE = re.compile(
    r"(?:적절|적합|타당|알맞|올바|옳|틀린|맞는|해당하|가능성이)[가-힣 ]{0,12}"
    r"(?:것|진단|치료|처치|원인|약물|검사)(?:은|는|이)\s\Z"
)
# A letter that begins a phrase: what comes before cannot be a noun that the letter belongs to.
_PHRASE_BEFORE = re.compile(
    r"(?:^|[\n.,;:!?…。、)\]}·→⇒-]\s?|[가-힣A-E](?:은|는|을|를|으로|므로|에서|하고|이며|이고|지만|하면|이면|려면|때문에)\s"
    r"|(?:^|[\s(])(?:따라서|그러므로|그러나|하지만|반면|반면에|즉|또|또한|그리고|또는|혹은|및|와|과|중|중에서|중에|결국|다만|단"
    r"|아니라|아니고|달리|대신|반대로|마찬가지로|그래서|결론적으로|여기서|우선|먼저|특히|한편|오직|남은|but|and|or|so|because|while|whereas|since|therefore|thus"
    r"|hence|only|that|if|whether|both|either|neither|not|than|then|with|leaves|leaving)\s)\Z",
    re.IGNORECASE,
)
_COMPOUND_AFTER = re.compile(rf"(?!{ENDINGS})[가-힣]|[-‐-―−+=°′×][^\s,.)\]]")
"""The letter is the first part of a word, but of none that is known to be a name."""
_CALLED_ANSWER_AFTER = re.compile(r"(?:이|가|은|는)\s(?:정답|답)")
_LIST_BEFORE = re.compile(r"(?:^|\n)\s?(?:[-•·>#]\s?){0,4}\Z")
_LIST_AFTER = re.compile(r"[.):]\s")
_LOWERCASE_AFTER = re.compile(r"\.\s?[a-zà-ÿ]")
_TAIL_AFTER_CUE = re.compile(
    rf"(?:\s?(?:$|[.,;:!?。、…)\]}}\n/·&+]|{_OPEN}|-\s)|{ENDINGS}"
    rf"|\s(?:또는|혹은|및|그리고|등|중|외|이외|하나|뿐|맞|옳|때문|{ENDINGS}"
    r"|(?i:because|since|as|and|or|is|are|was|not|which|but|here)(?![A-Za-z])))"
)
_NUMBERED_AFTER = re.compile(rf"번{ENDINGS}|번(?![가-힣])")
_COPULA_AFTER = re.compile(r"(?:\s?(?:이다|입니다|임|이라|일\s?것|이었다)(?![가-힣])|이므로|\s?(?:$|[.\n]))")
_SUBJECT_AFTER = re.compile(rf"\s?{ENDINGS}|\s(?i:is|was|are|cannot|can|would)(?![A-Za-z])")
# What is said of an option, within the sentence.
_CHOICE_AFTER = re.compile(
    rf"(?:\s?{ENDINGS})?[^.!?\n]{{0,16}}(?:정답|(?<![가-힣])답(?:이|입|으로|은|$)|고르|고른|골라|선택)"
    r"|\s(?i:is|was)\s(?:(?i:the|a|not|most|likely|therefore|clearly)\s){0,3}(?i:correct|incorrect|right|wrong|best|answer)"
)
_JUDGED_AFTER = re.compile(
    rf"\s?{ENDINGS}[^.!?\n]{{0,30}}(?:옳|맞|틀리|틀린|틀렸|아니|적절|적합|타당|해당|제외|정확|부합|알맞|올바르|잘못|배제)"
)


def _kind(text: str, index: int, options: Sequence[str], *, listed: bool, labelled: bool) -> Kind:
    """The kind of one letter by itself.

    Args:
        listed: several letters begin a line, as in a list of the options.
        labelled: the question calls something else by a letter.
    """
    before, after = window_before(text, index), window_after(text, index)
    bracketed = bool(_OPEN_BEFORE.search(before) and _CLOSE_AFTER.match(after))
    outer_before = _OPEN_BEFORE.sub("", before) if bracketed else before
    outer_after = _CLOSE_AFTER.sub("", after) if bracketed else after
    name = is_known_name(outer_before, outer_after, bracketed=bracketed)
    cue = bool(_CUE_BEFORE.search(before) or _ENGLISH_COLON_CUE.search(before))
    named = _named_options(text, index, options, bracketed)
    own = LETTERS.index(text[index]) if text[index] in LETTERS else None
    if own is None:
        return Kind.NAME if name or not cue else Kind.UNCERTAIN
    if RANGE_AFTER.match(after) or named - {own}:
        return Kind.UNCERTAIN  # a range of options, or a letter beside another option's text
    if own in named:
        return Kind.UNCERTAIN if name and not bracketed else Kind.REFERENCE
    if name and _CALLED_ANSWER_AFTER.match(outer_after):
        return Kind.UNCERTAIN  # "비타민 (B)가 정답이다"
    if cue and name:
        # "정답은 B형간염", "정답은 E. coli": the name begins where the answer does.
        return Kind.UNCERTAIN if bracketed or outer_after.startswith(" ") else Kind.NAME
    if name:
        return Kind.NAME
    if cue:
        certain = bracketed or (_TAIL_AFTER_CUE.match(after) and not _LOWERCASE_AFTER.match(after))
        return Kind.REFERENCE if certain else Kind.UNCERTAIN
    if bracketed:
        certain = _PHRASE_BEFORE.search(outer_before) and not _COMPOUND_AFTER.match(outer_after)
        certain = certain and not labelled and not speaks_of_named_things(before)
        return Kind.REFERENCE if certain else Kind.UNCERTAIN
    if _WORD_BEFORE.search(before):
        return Kind.UNCERTAIN  # the end of a word
    if _NUMBERED_AFTER.match(after):
        return Kind.REFERENCE
    return _kind_of_bare_letter(before, after, listed)


def _kind_of_bare_letter(before: str, after: str, listed: bool) -> Kind:
    """Of a letter without brackets, number word, name, or a word that calls it an option."""
    if _COMPOUND_AFTER.match(after) or speaks_of_named_things(before):
        return Kind.UNCERTAIN
    if _LIST_BEFORE.search(before) and _LIST_AFTER.match(after):
        return Kind.REFERENCE if listed and not _LOWERCASE_AFTER.match(after) else Kind.UNCERTAIN
    if (_CONCLUSION_BEFORE.search(before) or _SUPERLATIVE_BEFORE.search(before)) and _COPULA_AFTER.match(after):
        return Kind.REFERENCE
    if _PHRASE_BEFORE.search(before):
        if _CHOICE_AFTER.match(after):
            return Kind.REFERENCE
        if _JUDGED_AFTER.match(after) or _SUBJECT_AFTER.match(after):
            return Kind.SUBJECT
    return Kind.UNCERTAIN


def _named_options(text: str, index: int, options: Sequence[str], bracketed: bool) -> set[int]:
    """The options whose text is beside the letter: "B. 위염", "B(위염)", "위염(B)"."""
    if not options:
        return set()
    width = max(map(len, options[:5])) if options else 0
    width = min(width, _LONGEST_OPTION) + 12
    after = cleaned(text[index + 1 : index + 1 + width])
    content = after.lstrip(' .,):：-–]}>」』】=→("')
    separated = len(after) != len(content)
    content = squeezed(content)
    before = ""
    if bracketed:
        before = squeezed(_OPEN_BEFORE.sub("", cleaned(text[max(0, index - width) : index])))
    named: dict[int, int] = {}
    for number, option in enumerate(options):
        option = squeezed(option[:_LONGEST_OPTION])
        if len(option) < 2 and not separated:
            continue
        if option and (content.startswith(option) or before.endswith(option)):
            named[number] = len(option)
    # Of options of which one contains the other, the longer one is written there.
    return {number for number, length in named.items() if length == max(named.values())}


# ---- all letters of a text -------------------------------------------------------------------------------------------

_BETWEEN = re.compile(
    rf"{_CLOSE}?(?:번|항)?\s?(?:[,、·ㆍ/&+]|및|와|과|또는|혹은|이나|나|하고|랑|그리고|,?\s?(?:or|and))\s?"
    rf"(?:그리고|및|또는|혹은|or|and)?\s?(?:보기|선택지|option|choice)?\s?{_OPEN}?"
)


def letter_uses(text: str, options: Sequence[str] = (), stem: str = "") -> list[LetterUse]:
    """Every single capital letter of `text` with its kind. `options` and `stem` are the question's."""
    indices = [match.start() for match in _LETTER.finditer(text)]
    list_letters = {text[i] for i in indices if _begins_list_line(text, i)}
    # Things that the question calls A and B, as in "(A)에 들어갈 말은?"; a letter is then not necessarily an option.
    labelled = any(
        match.group() in LETTERS
        and not is_known_name(window_before(stem, match.start()), window_after(stem, match.start()))
        for match in _LETTER.finditer(stem)
    )
    listed = len(list_letters) > 1 and not labelled
    uses = [
        LetterUse(
            index,
            text[index],
            Kind.NAME
            if _within_option(text, index, options)
            else _kind(text, index, options, listed=listed, labelled=labelled),
        )
        for index in indices
    ]
    uses = [use for chain in _chains(text, uses) for use in chain]
    names = any(use.kind is Kind.NAME for use in uses) or any(map(_has_letter, (stem, *options)))
    subject = Kind.UNCERTAIN if names else Kind.REFERENCE
    return [replace(use, kind=subject) if use.kind is Kind.SUBJECT else use for use in uses]


def _begins_list_line(text: str, index: int) -> bool:
    before, after = window_before(text, index), window_after(text, index)
    return bool(_LIST_BEFORE.search(before) and _LIST_AFTER.match(after)) and not EPITHET_AFTER.match(after)


def _within_option(text: str, index: int, options: Sequence[str]) -> bool:
    """Whether the letter is part of an option's text that is quoted there: "E. coli", "비타민 B"."""
    for option in options:
        option = option[:_LONGEST_OPTION]
        for match in _LETTER.finditer(option):
            start = index - match.start()
            if len(option) > 1 and start >= 0 and text.startswith(option, start):
                return True
    return False


def _has_letter(text: str) -> bool:
    return any(match.group() in LETTERS for match in _LETTER.finditer(text))


def _chains(text: str, uses: list[LetterUse]) -> Iterator[list[LetterUse]]:
    """Letters joined by "와", "또는" or a comma are of one kind: "비타민 A와 D", "보기 B와 D"."""
    chain: list[LetterUse] = []
    for use in uses:
        if chain:
            between = text[chain[-1].index + 1 : use.index]
            if len(between) > 24 or not _BETWEEN.fullmatch(cleaned(between)):
                yield _of_one_kind(chain)
                chain = []
        chain.append(use)
    if chain:
        yield _of_one_kind(chain)


def _of_one_kind(chain: list[LetterUse]) -> list[LetterUse]:
    if len(chain) == 1:
        return chain
    kinds = {use.kind for use in chain}
    if {Kind.NAME, Kind.REFERENCE} <= kinds:
        return [replace(use, kind=Kind.UNCERTAIN) for use in chain]
    for kind in (Kind.NAME, Kind.REFERENCE, Kind.SUBJECT):
        if kind in kinds:
            return [replace(use, kind=kind) for use in chain]
    return chain


def remap(text: str, letter_for: Mapping[str, str], *, options: Sequence[str] = (), stem: str = "") -> str:
    """The text with each certain reference to an option replaced by `letter_for` of its letter."""
    characters = list(text)
    for use in letter_uses(text, options, stem):
        if use.kind is Kind.REFERENCE:
            characters[use.index] = letter_for[use.letter]
    return "".join(characters)
