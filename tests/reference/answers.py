"""The answer in a generated text: published rules as they were published, and answers written by a known rule."""

import ast
import json
import re
from collections.abc import Iterator, Sequence

from lm_eval.tasks.kormedmcqa.utils import extract_choice

LETTERS = "ABCDE"


def lm_eval_choice(text: str) -> int | None:
    """The harness' own function (EleutherAI/lm-evaluation-harness 0.4.13, `kormedmcqa` 3.0)."""
    letter = extract_choice(text)
    return LETTERS.index(letter) if letter else None


def kormedeval_choice(text: str) -> int | None:
    """The patterns of github.com/baeseongsu/kormedmcqa_v: the first fenced object, or else the last of all objects that
    has a letter under 정답, or else under answer; without one the first boxed letter."""
    fenced = re.search(r"```json\s*(\{.*?\})\s*```", text, re.DOTALL | re.IGNORECASE)
    objects = [fenced.group(1)] if fenced else re.findall(r"\{.*?\}", text, re.DOTALL)
    for source in objects[::-1]:
        try:
            value = json.loads(source)
        except ValueError:
            try:
                value = ast.literal_eval(source)
            except (ValueError, SyntaxError):
                continue
        if not isinstance(value, dict):
            continue
        for key in ("정답", "answer"):
            if value.get(key) is not None:
                letter = re.search("[A-E]", str(value[key]).upper())
                if letter:
                    return LETTERS.index(letter.group())
    boxed = re.search(r"\\boxed\{([A-E])\}", text, re.IGNORECASE)
    return LETTERS.index(boxed.group(1).upper()) if boxed else None


CUES = ("정답：", "정답:", "정답 : ", "**정답:** ", "Answer: ", "The correct answer is: ", "따라서 답: ")
"""What opens an answer line."""
STATEMENTS = ("정답은 {}입니다.", "따라서 정답은 {} 이다.", "The answer is {}.")
"""Sentences that state an answer without a cue."""


def answers_that_name(number: int, options: Sequence[str]) -> Iterator[str]:
    """Ways to write that the answer is option `number`, of options that are words without letters and numbers."""
    letter, text = LETTERS[number], options[number]
    yield from (f"{letter}. {text}", f"{letter}) {text}", f"({letter}) {text}", f"{letter}: {text}")
    yield from (f"{text} ({letter})", f"{text}({letter})", f"{text} ({letter}).", f"{text} ({letter})입니다.")
    yield from (text, f" {text} ", f"{text}.", f"{text}입니다.", f"**{text}**")
    yield from (letter, f"({letter})", f"{letter}.", f"{letter}번", f"**{letter}**", f"[{letter}]", letter.lower())
    yield from (f"{number + 1}번", "①②③④⑤"[number], f"{number + 1}번 {text}", f"{'①②③④⑤'[number]} {text}")


def answers_that_name_none(options: Sequence[str]) -> Iterator[str]:
    """Ways to write that name no option, or several."""
    yield from (
        "",
        "모름",
        "알 수 없다",
        "A와 B",
        "A, C",
        "B 또는 D",
        f"{options[0]}, {options[1]}",
        "F",
        "6번",
        "정답 없음",
    )
