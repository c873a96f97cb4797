"""Rewards for reinforcement learning on exam questions, in the form that TRL's GRPOTrainer calls.

Each function takes the completions of a batch and the columns of its rows, and returns one number from 0 to 1 per
completion. `lorachain export-rewards` writes the rows and a file that TRL and ms-swift import.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lorachain.evaluation.answer_line import answer_lines, reasoned_choice
from lorachain.evaluation.reasoning_text import hangul_share, reasoning_of
from lorachain.letter_uses import Kind, letter_uses
from lorachain.prompts import REASONING_CUE
from lorachain.reasoning.text_checks import is_long_enough, is_repetitive, one_answer_line_last

Completion = str | Sequence[Mapping[str, Any]]
MIN_HANGUL = 0.7


def text_of(completion: Completion) -> str:
    """The text of a completion, plain or conversational."""
    if isinstance(completion, str):
        text = completion
    else:
        text = "".join(str(message.get("content") or "") for message in completion)
    return text.strip().removeprefix(REASONING_CUE).strip()


def format_reward(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """1 for reasoning that does not loop, followed by one answer line at the end."""
    return [float(_is_well_formed(text_of(completion))) for completion in completions]


def language_reward(
    completions: Sequence[Completion], question: Sequence[str], options: Sequence[Sequence[str]], **columns: Any
) -> list[float]:
    """1 for reasoning in Korean; terms of the question and its options may be in another language."""
    return [
        float(_is_korean(text_of(completion), stem, five))
        for completion, stem, five in zip(completions, question, options, strict=True)
    ]


def answer_reward(
    completions: Sequence[Completion],
    question: Sequence[str],
    options: Sequence[Sequence[str]],
    answer: Sequence[int],
    **columns: Any,
) -> list[float]:
    """1 for the right answer after well-formed reasoning in Korean: nothing is earned by an answer alone."""
    return [
        float(
            reasoned_choice(text_of(completion), five) == right
            and _is_well_formed(text_of(completion))
            and _is_korean(text_of(completion), stem, five)
        )
        for completion, stem, five, right in zip(completions, question, options, answer, strict=True)
    ]


def shuffle_reward(
    completions: Sequence[Completion],
    question: Sequence[str],
    options: Sequence[Sequence[str]],
    answer: Sequence[int],
    question_id: Sequence[str],
    **columns: Any,
) -> list[float]:
    """The share of the batch's other completions for the same question, in any order of its options, that are right
    too; 0 for a completion that is wrong itself, and its `answer_reward` where the batch has no other."""
    right = answer_reward(completions, question=question, options=options, answer=answer)
    of_question: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(question_id, right, strict=True):
        of_question[name].append(value)
    rewards = []
    for name, value in zip(question_id, right, strict=True):
        others = len(of_question[name]) - 1
        rewards.append(value * (sum(of_question[name]) - value) / others if others else value)
    return rewards


def _is_well_formed(text: str) -> bool:
    reasoning = reasoning_of(text)
    return (
        bool(answer_lines(text))
        and one_answer_line_last(text)
        and is_long_enough(reasoning)
        and not is_repetitive(reasoning)
        and not _lists_letters(reasoning)
    )


def _lists_letters(reasoning: str) -> bool:
    """Whether the reasoning is little but names of options."""
    letters = Counter(use.kind for use in letter_uses(reasoning))
    content = sum(map(str.isalpha, reasoning)) - sum(letters.values())
    return sum(count for kind, count in letters.items() if kind is not Kind.NAME) > max(5, content / 8)


def _is_korean(text: str, question: str, options: Sequence[str]) -> bool:
    return hangul_share(reasoning_of(text), [question, *options]) >= MIN_HANGUL


REWARDS = {
    "lorachain_answer": answer_reward,
    "lorachain_format": format_reward,
    "lorachain_language": language_reward,
    "lorachain_shuffle": shuffle_reward,
}
