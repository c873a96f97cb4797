"""Letters, options and cloze by full logits, one sequence at a time, from transformers alone.

Prompts are those of lm-evaluation-harness' task `kormedmcqa` 3.0: the question, `A. …` to `E. …`, and the answer cue. A
model with a chat template reads the question as the user's message, and the cue opens its answer.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

CUE = "정답："
LETTERS = "ABCDE"


def question_text(question: str, options: Sequence[str]) -> str:
    lines = [question.strip()]
    for letter, option in zip(LETTERS, options, strict=True):
        lines.append(letter + ". " + option)
    return "\n".join(lines)


def prompt_ids(tokenizer: Any, message: str) -> list[int]:
    """BOS once, the message, and the cue; within the turns of the chat template, if there is one."""
    if tokenizer.chat_template is None:
        return [tokenizer.bos_token_id, *ids_of(tokenizer, message + "\n" + CUE)]
    turns = [{"role": "user", "content": message}]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert rendered.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(rendered + CUE, add_special_tokens=False)["input_ids"]
    return ids


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """(T, V) float64: row t predicts token t + 1."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0]
    return logits.double()


def letters(model: Any, tokenizer: Any, prompt: Sequence[int]) -> list[float]:
    """Log-probabilities of the five letters among themselves, where the tokens of " A" to " E" first differ."""
    spelled = [ids_of(tokenizer, " " + letter) for letter in LETTERS]
    position = 0
    while len({tuple(ids[: position + 1]) for ids in spelled}) == 1:
        position += 1
    scores = []
    for ids in spelled:
        logits = logits_of(model, [*prompt, *ids])
        scores.append(logits[len(prompt) + position - 1, ids[position]].item())
    total = math.log(sum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def letters_in_every_order(model: Any, tokenizer: Any, question: str, options: Sequence[str]) -> list[float]:
    """The mean probability of each option over the five cyclic orders (Zheng et al. 2023, arXiv 2309.03882)."""
    total = [0.0] * 5
    for shift in range(5):
        order = [(i + shift) % 5 for i in range(5)]
        prompt = prompt_ids(tokenizer, question_text(question, [options[i] for i in order]))
        for option, logprob in zip(order, letters(model, tokenizer, prompt), strict=True):
            total[option] += math.exp(logprob) / 5
    return [math.log(mean) for mean in total]


def options_after(model: Any, tokenizer: Any, prompt: Sequence[int], options: Sequence[str]) -> list[float]:
    """Log-likelihood of " " + each option's text, summed over its tokens."""
    sums = []
    for option in options:
        ids = ids_of(tokenizer, " " + option)
        logprobs = logits_of(model, [*prompt, *ids]).log_softmax(-1)
        sums.append(sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)))
    return sums


def per_character(sums: Sequence[float], options: Sequence[str]) -> list[float]:
    return [total / len(option) for total, option in zip(sums, options, strict=True)]


def pmi(after_question: Sequence[float], after_cue: Sequence[float]) -> list[float]:
    """log p(option | question) - log p(option | cue): Holtzman et al. 2021, arXiv 2104.08315."""
    return [a - b for a, b in zip(after_question, after_cue, strict=True)]


def clear_choice(scores: Sequence[float], margin: float) -> int | None:
    """Index of the largest score; None where another one is within the margin."""
    best = max(range(len(scores)), key=lambda i: scores[i])
    others = [score for i, score in enumerate(scores) if i != best]
    return best if scores[best] - max(others) > margin else None
