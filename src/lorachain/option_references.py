"""Questions whose options must keep their order, because something refers to an option by its place.

Such a reference is in an option ("모두 옳다", "A와 B"), or in the reasoning in a form that is not followed to a new
place: a number, "첫 번째 보기", or a letter that may or may not name an option. Every pattern has a bounded width.
"""

import re

from lorachain.content_letters import ENDINGS, is_known_name, window_before
from lorachain.letter_uses import Kind, letter_uses
from lorachain.records import ExamQuestion

_COUNTED = r"(?:첫|두|세|네|다섯|마지막|[1-5])\s?번째"
_OPTION_NOUN = r"(?:보기|선택지|선지|옵션|항목|문항|답)"
_REFERS_BY_POSITION = re.compile(
    r"(?:정답|(?<![가-힣])답|보기|선택지|선지|옵션)(?:은|는|이|가)?\s{0,4}[:：]?\s{0,4}[(\[]?\s{0,2}[*_]{0,2}[1-5１-５①-⑤]"
    r"|[①②③④⑤❶❷❸❹❺⑴⑵⑶⑷⑸➀➁➂➃➄]"
    r"|(?<![0-9.~∼-])(?<!하루 )(?<!하루에 )(?<!매일 )(?<!일주일에 )(?<!주 )[1-5]번"
    r"(?=(?:이|은|을|과|도|만|으로|의)?\s{0,2}(?:[,.:)\]\n]|$|보기|선택지|선지|항|지문|정답|답|맞|옳|틀|아니|고르|선택)"
    r"|(?:이|은|을|과|도)\s)"
    rf"|\(\s?[1-5]\s?\)\s?(?:번|{ENDINGS})"
    rf"|{_COUNTED}\s?(?:의\s?)?{_OPTION_NOUN}|{_OPTION_NOUN}[^\n.]{{0,10}}{_COUNTED}"
    r"|(?:첫째|둘째|셋째|넷째|다섯째|마지막|맨\s?(?:위|아래|앞|뒤|처음|끝)의?|앞의?|뒤의?|바로\s?(?:위|아래)의?)\s?"
    r"(?:보기|선택지|선지|옵션)(?!\s?중|에서|들)"
    r"|(?i:\b(?:first|second|third|fourth|fifth|last|final|previous|next)\s(?:option|choice|answer)\b"
    r"|\b(?:option|choice|answer)\s(?:number\s|no\.?\s|#\s?)?(?:one|two|three|four|five|[1-5](?![0-9.%])|i{1,3}\b|iv\b|v\b))"
)
# References in other characters: full-width, circled, lower case, and look-alikes of other alphabets.
_REFERS_BY_OTHER_CHARACTER = re.compile(
    r"(?<![^\W가-힣])[Ａ-Ｅａ-ｅⒶ-Ⓔⓐ-ⓔ🄐-🄔🄰-🄴🅐-🅔🅰-🅴⒜-⒠АВСЕΑΒΕ](?![^\W가-힣])"
    r"|(?<![A-Za-z0-9가-힣])[(\[]\s?[a-e]\s?[)\]](?![A-Za-z])"
    r"|(?<![A-Za-z0-9])[a-e]번"
    r"|(?:정답|답|보기|선택지|선지|옵션)(?:은|는|이|가)?\s{0,2}[:：]?\s{0,2}[*_(]{0,3}[a-e](?![A-Za-z0-9-])"
    r"|(?i:\b(?:answer|option|choice)(?:\sis)?)\s{0,2}[:：]?\s{0,2}[*_(]{0,3}[b-e](?![A-Za-z0-9-])"
    r"|(?i:\b(?:answer|option|choice))\s?[:：]\s{0,2}[*_(]{0,3}a(?![A-Za-z0-9-])"
)
_REFERS_TO_OPTIONS = re.compile(
    r"모두|위의|이상의|전부|없다$|다\s{0,8}맞|해당\s{0,8}(?:사항\s{0,8})?없음|[①②③④⑤]|[㉠-㉭ㄱ-ㅎ]\s{0,8},"
    r"|(?:정답|(?<![가-힣])답)[이은]?\s{0,4}없|해당[가-힣 ]{0,8}없|(?:옳은|맞는|틀린)\s?(?:것|답)[이은]?\s?없"
    r"|(?:둘|셋|넷)\s?다|다\s?(?:옳|틀리|아니)|어느\s?(?:것|쪽)도|아무것도\s?(?:아니|없|해당)"
    r"|^(?:위|이상|상기)\s?(?:보기|항목|내용|사항|답|둘|셋)|상기\s|^(?:기타|그\s?외|나머지)\.?$"
    r"|보기\s{0,2}(?:중|[A-E1-5])|선택지|\(\s?[1-5]\s?\)|^[1-5]번(?:과|,|\s?및|만|\s?또는)"
    r"|(?i:\b(?:all|none|both|any|either|neither|two)\s(?:of\s)?(?:the\s)?(?:above|these|them|options|choices)\b"
    r"|\bof the above\b|^the above|^(?:none|all|both|neither)\.?$)"
)
_ONLY_LABELS = re.compile(
    r"\s{0,4}\(?(?:[1-9]|[가나다라마]|[ㄱ-ㅁ])\)?(?:\s{0,2}[,·와과및]\s{0,2}\(?(?:[1-9]|[가나다라마]|[ㄱ-ㅁ])\)?){1,6}\s{0,4}"
    r"|[ㄱ-ㅎ]{2,6}"
)
_SEVERAL_LETTERS = re.compile(
    r"(?<![A-Za-z0-9])[A-E][)\]]?(?:\s{0,8}(?:[,、·ㆍ/&+]|와|과|및|또는|혹은|이나|나|하고|랑|그리고|or|and)\s{0,8}[(\[]?[A-E]"
    r"(?![A-Za-z0-9])(?!\s?-?\s?[형군])){1,4}"
)
_ONE_LETTER = re.compile(
    r"\s{0,4}[(\[]?[A-E][)\]]?(?:만|와\s?(?:같|동일)|과\s?(?:같|동일)|\s?only)[^\n]{0,40}",
    re.IGNORECASE,
)


def depends_on_order(question: ExamQuestion) -> bool:
    """Whether an option refers to others or to the list, or the reasoning to an option in a way that cannot be
    followed with certainty."""
    reasoning = question.reasoning or ""
    if _REFERS_BY_POSITION.search(reasoning) or _REFERS_BY_OTHER_CHARACTER.search(reasoning):
        return True
    if any(use.kind is Kind.UNCERTAIN for use in letter_uses(reasoning, question.options, question.question)):
        return True
    return any(_refers_to_options(option) for option in question.options)


def _refers_to_options(option: str) -> bool:
    if _REFERS_TO_OPTIONS.search(option) or _ONLY_LABELS.fullmatch(option) or _ONE_LETTER.fullmatch(option):
        return True
    return any(
        not is_known_name(window_before(option, match.start()), "") for match in _SEVERAL_LETTERS.finditer(option)
    )
