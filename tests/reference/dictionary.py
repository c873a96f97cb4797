"""A dictionary entry in every form, and greedy exact match by full logits: nothing here imports lorachain.

The forms are written out as docs/data.md and the published prompts show them. Exact match generates one id at a time
without a KV cache, and compares answers as people would: by NFKC, case and single spaces.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from reference.exam_scores import ids_of, logits_of

SPARE = 4
Prompt = tuple[str, str, str]
"""What the user says, the cue that opens the answer, and the answer with the space before it."""


def own_form(source: str, target: str, values: dict[str, str]) -> Prompt:
    name = {"term": "용어:", "definition": "뜻:", "english": "영어:"}
    return name[source] + " " + values[source], name[target], " " + values[target]


def trained_forms(direction: str, term: str, english: str, definition: str) -> list[Prompt]:
    """The question, the statement and the gloss of a direction, in this order."""
    reason = "풀이："
    forms = {
        "term->english": [
            (term + "의 영어 이름은 무엇입니까?", "답:", " " + english),
            (term + "의 영어 이름을 한 문장으로 쓰시오.", reason, " " + term + "의 영어 이름은 " + english + "이다."),
            ("용어 " + term + "에 영어를 병기하시오.", "병기:", " " + term + "(" + english + ")"),
        ],
        "english->term": [
            (english + "에 해당하는 우리말 의학 용어는 무엇입니까?", "답:", " " + term),
            (
                english + "의 우리말 이름을 한 문장으로 쓰시오.",
                reason,
                " " + english + "의 우리말 이름은 " + term + "이다.",
            ),
            ("영문 기록의 " + english + "에 우리말을 병기하시오.", "병기:", " " + english + "(" + term + ")"),
        ],
        "term->definition": [
            (term + "의 뜻은 무엇입니까?", "답:", " " + definition),
            (term + "에 관해 아는 것을 쓰시오.", reason, " " + term + "의 뜻은 다음과 같다. " + definition),
            (term + "에 관한 용어 해설을 쓰시오.", "해설:", " " + term + ": " + definition),
        ],
        "definition->term": [
            ("다음 설명에 해당하는 의학 용어는 무엇입니까?\n" + definition, "답:", " " + term),
            (
                "다음 설명이 무엇에 관한 것인지 한 문장으로 쓰시오.\n" + definition,
                reason,
                " 이 설명에 해당하는 용어는 " + term + "이다.",
            ),
            (definition + "\n위 해설의 표제어를 쓰시오.", "표제어:", " " + term),
        ],
    }
    return forms[direction]


def held_out_forms(direction: str, term: str, english: str, definition: str) -> list[Prompt]:
    """The two wordings of a direction that nothing is trained on."""
    forms = {
        "term->english": [
            ("다음 용어를 의학 영어로 옮기시오.\n" + term, "영어:", " " + english),
            ("영문 의무 기록에 적을 " + term + "의 정식 명칭을 알려 주십시오.", "답:", " " + english),
        ],
        "english->term": [
            ("다음 의학 영어를 한국어로 옮기시오.\n" + english, "용어:", " " + term),
            ("외국 병원 소견서의 " + english + ", 국문으로는 어떻게 씁니까?", "답:", " " + term),
        ],
        "term->definition": [
            ("의대생에게 " + term + "의 개념을 설명해 주십시오.", "뜻:", " " + definition),
            (term + "의 정의를 묻는 문제에 답하시오.", "답:", " " + definition),
        ],
        "definition->term": [
            (definition + "\n이것을 가리키는 말을 쓰시오.", "용어:", " " + term),
            ("의학 사전에 이렇게 풀이된 표제어를 찾으십시오: " + definition, "답:", " " + term),
        ],
    }
    return forms[direction]


# ---- greedy exact match ----------------------------------------------------------------------------------------------


def greedy_line(model: Any, tokenizer: Any, user: str, cue: str, limit: int) -> str:
    """The model's answer up to its end token, its first newline, or `limit` ids, by full logits each time."""
    ids = [tokenizer.bos_token_id, *ids_of(tokenizer, user + "\n" + cue)]
    answer: list[int] = []
    ends = {tokenizer.eos_token_id, *model.generation_config.eos_token_id}
    while len(answer) < limit:
        token = int(logits_of(model, [*ids, *answer])[-1].argmax())
        if token in ends:
            break
        answer.append(token)
        if "\n" in tokenizer.decode(answer, skip_special_tokens=True):
            break
    text: str = tokenizer.decode(answer, skip_special_tokens=True)
    return text.split("\n")[0]


def limit_of(tokenizer: Any, expected: Sequence[str], most: int) -> int:
    """A few ids more than the longest expected answer of a direction, at most `most`."""
    return min(most, max(len(ids_of(tokenizer, answer)) for answer in expected) + SPARE)


def same(answer: str, expected: str) -> bool:
    def plain(text: str) -> list[str]:
        return unicodedata.normalize("NFKC", text).casefold().split()

    return plain(answer) == plain(expected)


def overlap_f1(answer: str, expected: str) -> float:
    """Of two multisets of characters: 2 |A and B| / (|A| + |B|), counted one character at a time."""
    a = list(unicodedata.normalize("NFKC", answer).casefold().replace(" ", ""))
    b = list(unicodedata.normalize("NFKC", expected).casefold().replace(" ", ""))
    a, b = [c for c in a if not c.isspace()], [c for c in b if not c.isspace()]
    if not a and not b:
        return 1.0
    left, shared = list(b), 0
    for character in a:
        if character in left:
            left.remove(character)
            shared += 1
    return 2 * shared / (len(a) + len(b))
