"""Which single capital letters are part of a name: E. coli, vitamin B, B형간염, blood group A, D-dimer.

The letters A to E name the options of a question, and in medical text they also begin or end many names. Both places
that read letters out of running text use this module: the references in reasoning, and the answer in a generation.

Every pattern has a bounded width and is applied to a short window, so that the time is linear in the text.
"""

import re
import unicodedata

WINDOW = 48
"""Characters considered on each side of a letter."""

# Emphasis, quotes and characters of no width around a letter say nothing about it.
_IGNORED = dict.fromkeys(map(ord, "*_`$\"'“”‘’\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_SPACES = re.compile(rf"[^\S\n]{{1,{WINDOW}}}")
_SENTENCE_END = re.compile(r"[.!?\n]")
_MATH = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)(?=\{)")

# Endings of Korean words that can follow a letter directly: "B가", "B이다", "B번은", "B라고".
_ENDING = (
    r"(?:이었습니다|였습니다|이겠습니다|입니다|습니다|입니까|이었다|이겠다|이므로|이지만|이어서|이라서|이라고|이라는"
    r"|이라면|이란|이라|이기|이나|이든|이며|이고|이면|이지요|이지|이죠|이네|이에요|예요|에요|이다|인데|인지|인가|인"
    r"|임을|임이|임|일|였다|이|가|은|는|을|를|과|와|도|만|의|에서|에게|에|으로|로|까지|부터|보다|처럼|밖에|뿐|하고|랑"
    r"|라고|라는|라서|라면|란|라|나|든|며|고|지만|므로|면|지|죠|요|기|다)"
)
ENDINGS = rf"(?:(?:번|항){_ENDING}{{0,3}}|{_ENDING}{{1,3}})(?![가-힣])"
"""What may follow the letter of an option without a space, up to the end of the word."""

# Only nouns that leave no doubt: "환자 A" or "검사 (B)" may also be an option.
_KOREAN_BEFORE = (
    "비타민|글로불린|혈액형|유전자형|유전형|혈청형|표현형|아형|인플루엔자|혈우병|간염|바이러스|단백질|단백|독소|톡신"
    "|스포린|마이신|믹신|테리신|엔자임|조효소|카텝신|카뎁신|사이클린|아밀로이드|비스페놀|헤모글로빈|혈색소|글란딘|페니실린"
    "|인산화효소|키나아제|키나제|파아제|리파제|등급|보체인자"
)
_ENGLISH_BEFORE = (
    "vitamins|vitamin|vit|hepatitis|influenza|virus|type|types|group|groups|class|classes|grade|protein|immunoglobulin"
    "|ig|hb|hemoglobin|haemoglobin|hemophilia|haemophilia|coenzyme|toxin|toxins|serotype|stanford|child|pugh|kerley|hla"
    "|ldl|hdl|apolipoprotein|apo|cyclosporine|cyclosporin|amphotericin|polymyxin|mitomycin|actinomycin|antimycin"
    "|cathepsin|cyclin|kinase|phospholipase|subtype|genotype|rh|bisphenol|fumonisin|prostaglandin|troponin"
)
_KNOWN_BEFORE = re.compile(
    rf"(?:(?:{_KOREAN_BEFORE}) ?|혈액형(?:은|는|이|가|의|:) ?|[°º˚] ?"
    rf"|(?<![A-Za-z])(?i:{_ENGLISH_BEFORE})[ -]{{1,2}})\Z"
)
# Of a bracketed letter: "혈액형(A)" is a name, "반코마이신(A)" an option.
_KNOWN_BEFORE_BRACKET = re.compile(
    r"(?:비타민|글로불린|혈액형|유전자형|혈청형|아형|인플루엔자|혈우병|조효소|엔자임"
    r"|(?<![A-Za-z])(?i:vitamin|hepatitis|influenza|type|group|class|immunoglobulin|ig|hemophilia|coenzyme))\Z"
    r"|혈액형(?:은|는|이|가|의|:) ?\Z"
)

_KOREAN_AFTER = (
    "세포|림프|반응단백|반응성|이량|이합|항원|항체|간염|바이러스|인플루엔자|펩타이드|펩티드|사슬|단백|독소|톡신|염색|유전자"
    "|수용체|말단|등급|과립|결핍|띠|섬유|형간염|형 간염"
)
_KOREAN_AFTER_SHORT = "형|군|균|값|선|파|층|씨|양|급"
_EPITHETS = (
    # Genera beginning with A to E, abbreviated.
    "baumannii|fumigatus|flavus|niger|israelii|actinomycetemcomitans|lumbricoides|duodenale|aegypti|albopictus"
    "|xylosoxidans|hydrophila|lwoffii|calcoaceticus|naeslundii|viscosus|simplex|cantonensis|sarcina"
    "|cereus|anthracis|fragilis|pertussis|parapertussis|bronchiseptica|burgdorferi|recurrentis|henselae|quintana|subtilis"
    "|melitensis|abortus|suis|canis|cepacia|pseudomallei|mallei|coagulans|longum|bifidum|malayi|dermatitidis|microti"
    "|difficile|albicans|botulinum|perfringens|tetani|septicum|diphtheriae|jeikeium|minutissimum|jejuni|fetus"
    "|neoformans|gattii|trachomatis|pneumoniae|psittaci|burnetii|auris|glabrata|krusei|parapsilosis|tropicalis|parvum"
    "|hominis|sinensis|freundii|koseri|elegans|cayetanensis|immitis|posadasii|striatum|ramosum|innocuum|ochracea"
    "|latum|medinensis|dendriticum|caninum|radiodurans|pteronyssinus|farinae"
    "|coli|faecalis|faecium|histolytica|dispar|granulosus|multilocularis|vermicularis|cloacae|aerogenes|floccosum"
    "|chaffeensis|corrodens|rhusiopathiae|nana|gallinarum|meningoseptica|hartmanni|durans|avium"
    "|콜라이|콜리|디피실|디피실레|디피실리|바우마니|바우마니이|푸미가투스|세레우스|안트라시스|프라길리스|페르투시스"
    "|알비칸스|보툴리눔|퍼프린젠스|테타니|디프테리에|제주니|네오포르만스|트라코마티스|뉴모니에|시타시|버네티|아우리스"
    "|글라브라타|파르붐|시넨시스|페칼리스|패칼리스|파이칼리스|페슘|패시움|히스톨리티카|그래뉼로수스|베르미쿨라리스|클로아케"
)
EPITHET_AFTER = re.compile(rf"\.\s?(?:{_EPITHETS})(?![a-z])")
"""Of an organism whose genus is abbreviated to the letter: "E. coli", "C.difficile"."""
_KNOWN_AFTER = re.compile(
    rf"\s?[-‐-―−]\s?(?:{_KOREAN_AFTER}|반응|[A-Za-z0-9]{{2}})"  # D-dimer, C- 반응단백질, B-100
    rf"|\s?(?:{_KOREAN_AFTER}|반응\s단백|(?:{_KOREAN_AFTER_SHORT})(?:{ENDINGS}|(?![가-힣])))"  # B세포, A 군
    rf"|(?:{_KOREAN_AFTER_SHORT})[가-힣]"  # B형간염, B군사슬알균
    r"|[^\W가-힣]"  # part of a word or number: Aδ, B₁₂
    r"|/(?![A-E](?![A-Za-z]))[A-Za-z]|-a\s"  # A/G, but not A/B; A-a
)
_KNOWN_GLUED_AFTER = re.compile(rf"(?:{_KOREAN_AFTER}|(?:{_KOREAN_AFTER_SHORT}))")
_NAMED_THINGS = re.compile(
    rf"(?:{_KOREAN_BEFORE})(?:은|는|이|가|의|으로|로|\s중|\s가운데)"
    rf"|(?<![A-Za-z])(?i:{_ENGLISH_BEFORE})\s(?:is|are|was|were)(?![A-Za-z])"
)
RANGE_AFTER = re.compile(r"\s?(?:[-‐-―−~∼～]|부터|에서|(?:to|through)\s)\s?[A-E](?![A-Za-z0-9])")
"""From one option to another: "A~D", "A부터 D까지"."""


def cleaned(text: str) -> str:
    """Composed, without emphasis, quotes and characters of no width, and runs of spaces as one."""
    text = unicodedata.normalize("NFC", _MATH.sub("", text).translate(_IGNORED))
    return _SPACES.sub(" ", text)


def squeezed(text: str) -> str:
    """For comparison: compatibility forms, case, emphasis and blanks do not count."""
    folded = unicodedata.normalize("NFKC", _MATH.sub("", text)).casefold()
    return "".join(folded.translate(_IGNORED).split())


def window_before(text: str, index: int) -> str:
    """The cleaned text before a letter."""
    return cleaned(text[max(0, index - WINDOW) : index])


def window_after(text: str, index: int) -> str:
    """The cleaned text after a letter."""
    return cleaned(text[index + 1 : index + 1 + WINDOW])


def is_known_name(before: str, after: str, *, bracketed: bool = False) -> bool:
    """Whether the letter between these cleaned texts is certainly part of a name, whatever letter it is.

    Of a `bracketed` letter the texts are those outside of the brackets.
    """
    if RANGE_AFTER.match(after):
        return False
    if bracketed:
        return bool(_KNOWN_GLUED_AFTER.match(after) or _KNOWN_BEFORE_BRACKET.search(before))
    return bool(EPITHET_AFTER.match(after) or _KNOWN_AFTER.match(after) or _KNOWN_BEFORE.search(before))


def speaks_of_named_things(before: str) -> bool:
    """Whether the sentence up to the letter speaks of something that is called by letters: "부족한 비타민은 D"."""
    return bool(_NAMED_THINGS.search(_SENTENCE_END.split(before)[-1]))
