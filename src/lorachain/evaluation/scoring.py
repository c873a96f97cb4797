"""What a model answers to five-option questions, read from one forward pass: `letters` and `options`.

`letters` reads the next-token logits of the five option letters after the answer cue. `options` reads the
log-likelihood there of each option's text, summed over its tokens. This is the one implementation of both: validation
reads the two from the same forward pass, the protocols of `lorachain eval` read one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from lorachain.errors import DataError, ModelError
from lorachain.inference.batching import map_in_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.logprobs import log_normalizer, require_finite, target_logits
from lorachain.inference.prefix_cache import KeyValues, PrefixCache, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.prompts import Prompt, answer_prompt, rotations
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """The scores of one question's five options."""

    id: str
    gold: int
    logprobs_by_order: tuple[tuple[float, ...], ...]
    """Per order of the options: log-softmax over the five letters alone, in the order of the letters."""
    option_logprobs: tuple[float, ...] | None
    """Log-likelihood of " " + option text, summed over its tokens; None where options were not scored."""
    option_tokens: tuple[int, ...] | None
    option_chars: tuple[int, ...]
    prompt_tokens: int

    @property
    def letter_logprobs(self) -> tuple[float, ...]:
        """Per option of the question: the log-probability of its letter, or the log of its mean over several orders."""
        if len(self.logprobs_by_order) == 1:
            return self.logprobs_by_order[0]
        logprobs = torch.tensor(self.logprobs_by_order, dtype=torch.float64)  # (orders, letters)
        # In order s, letter i belongs to option (i + s) mod 5.
        of_options = torch.stack([of_letters.roll(shift) for shift, of_letters in enumerate(logprobs)])
        return tuple(of_options.exp().mean(dim=0).log().tolist())

    @property
    def chosen_letter(self) -> int:
        """Index of the option with the most likely letter; the first of equals."""
        return first_argmax(self.letter_logprobs)

    @property
    def chosen_option(self) -> int:
        """Index of the option whose text is most likely; the first of equals.

        Raises:
            ValueError: options were not scored.
        """
        if self.option_logprobs is None:
            raise ValueError(f"question {self.id} was scored without options")
        return first_argmax(self.option_logprobs)


def first_argmax(values: Sequence[float]) -> int:
    """Index of the largest value; the first of equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


@dataclass(frozen=True, slots=True)
class LetterTokens:
    """The ids that distinguish the five letters, and the ids before them that all five share.

    A completion begins with a space, and Gemma has one token for " A", so `shared` is empty. With a tokenizer that
    splits the space off, the letters are read after it.
    """

    shared: list[int]
    ids: list[int]


def letter_tokens(encoder: TokenEncoder) -> LetterTokens:
    """The ids of " A" to " E", up to the first that differs.

    Raises:
        ModelError: no single token distinguishes the five letters.
    """
    spelled = [encoder.text_ids(f" {letter}") for letter in LETTERS]
    shared = 0
    while shared < min(map(len, spelled)) and len({ids[shared] for ids in spelled}) == 1:
        shared += 1
    distinct = [ids[shared] for ids in spelled if len(ids) > shared]
    if len(set(distinct)) != len(LETTERS):
        raise ModelError(
            f"the tokenizer writes the option letters as {spelled}, which no single token distinguishes; "
            "use the tokenizer files that belong to the model"
        )
    return LetterTokens(spelled[0][:shared], distinct)


def score_questions(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    *,
    token_budget: int = 8192,
    with_options: bool = True,
    prompt: Callable[[ExamQuestion], Prompt] = answer_prompt,
    all_orders: bool = False,
    share_prefix: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[QuestionScore]:
    """Letters, and with `with_options` options too, of every question, in the order of the questions.

    Works for plain and PEFT-wrapped models of both Gemma 3 classes; the model's mode is restored. Memory does not grow
    with the number of questions, and a score depends on the other questions only through rounding.

    Args:
        token_budget: the most tokens in a batch, padding included; a longer question is a batch by itself.
        prompt: makes the prompt of a question.
        all_orders: score the letters in each cyclic order of the options, for the price of their differing tokens.
        share_prefix: compute what all prompts begin with (worked examples) once.
        on_progress: called with the number of finished questions.

    Raises:
        ModelError: no single token distinguishes the five letters.
        DataError: an option has no text.
        NonFiniteError: logits are NaN or infinite.
        DeviceError: a question does not fit in the device's memory.
    """
    if all_orders and with_options:
        raise ValueError("options are scored in one order only")
    letters = letter_tokens(encoder)
    prompts = [  # (question, order, ids)
        [encoder.prompt_ids(prompt(q)) for q in (rotations(question) if all_orders else [question])]
        for question in questions
    ]
    with eval_mode(model):
        common = common_prefix(list(chain.from_iterable(prompts))) if share_prefix and prompts else 0
        prefix_cache = compute_prefix_cache(model, prompts[0][0][:common]) if common else None
        cached = prefix_cache.length if prefix_cache is not None else 0
        items = [
            _item(encoder, question, [ids[cached:] for ids in orders], letters, cached, with_options)
            for question, orders in zip(questions, prompts, strict=True)
        ]

        def score(group: list[int]) -> list[QuestionScore]:
            return _score(model, [items[i] for i in group], letters, prefix_cache)

        lengths = [len(item.tree) for item in items]
        return map_in_groups(model, lengths, token_budget, score, prefix_cache, on_progress)


@dataclass(frozen=True, slots=True)
class _Item:
    question: ExamQuestion
    prompt_tokens: int
    tree: PrefixTree
    letter_indices: list[int]
    """Per order, the index in the tree at which the letters are read."""
    options: list[list[int]]
    """Ids of each option's text. The tree's continuations leave out the last id, which predicts nothing."""


def _item(
    encoder: TokenEncoder,
    question: ExamQuestion,
    prompts: list[list[int]],
    letters: LetterTokens,
    cached: int,
    with_options: bool,
) -> _Item:
    """`prompts`: ids of the question's orders without the `cached` ids that they begin with."""
    options = [encoder.text_ids(f" {text}") for text in question.options] if with_options else []
    for text, ids in zip(question.options, options, strict=False):
        if not text.strip() or not ids:
            raise DataError(f"question {question.id}: an option has no text; each of the five needs some")
    if len(prompts) > 1:
        orders = [[*prompt, *letters.shared] for prompt in prompts]
        common = common_prefix(orders)
        tree = PrefixTree(orders[0][:common], [ids[common:] for ids in orders])
        letter_indices = [tree.path(order)[-1] for order in range(len(orders))]
    else:
        continuations = [ids[:-1] for ids in options]
        if letters.shared:
            continuations.append(letters.shared)
        tree = PrefixTree(prompts[0], continuations)
        letter_indices = [tree.path(len(continuations) - 1)[-1] if letters.shared else len(prompts[0]) - 1]
    return _Item(question, cached + len(prompts[0]), tree, letter_indices, options)


def _score(
    model: nn.Module, items: list[_Item], letters: LetterTokens, prefix_cache: PrefixCache | None
) -> list[QuestionScore]:
    read: list[list[int]] = []  # where the letters are read, the prefix's last token, then each option's continuation
    for item in items:
        read.append(list(item.letter_indices))
        if item.options:
            prefix_end = len(item.tree.prefix) - 1
            read[-1] += [prefix_end, *(i for option in range(len(item.options)) for i in item.tree.path(option)[1:])]
    key_values = KeyValues(prefix_cache, keep=False) if prefix_cache is not None else None
    hidden = hidden_states(model, [item.tree for item in items], read, key_values)  # (N, H)
    weight = head_weight(model)  # (V, H)
    per_item = torch.split(hidden, [len(indices) for indices in read])
    orders = len(items[0].letter_indices)
    at_cue = torch.cat([rows[:orders] for rows in per_item])  # (B x orders, H)
    by_order = _letter_logprobs(at_cue, weight, letters).view(len(items), orders, len(LETTERS)).tolist()
    option_logprobs = _option_logprobs(items, [rows[orders:] for rows in per_item], weight)
    for item, of_letters, of_options in zip(items, by_order, option_logprobs, strict=True):
        require_finite([*chain.from_iterable(of_letters), *(of_options or ())], f"question {item.question.id}")
    return [
        QuestionScore(
            id=item.question.id,
            gold=item.question.answer,
            logprobs_by_order=tuple(map(tuple, by_order[i])),
            option_logprobs=option_logprobs[i],
            option_tokens=tuple(len(ids) for ids in item.options) if item.options else None,
            option_chars=tuple(len(text) for text in item.question.options),
            prompt_tokens=item.prompt_tokens,
        )
        for i, item in enumerate(items)
    ]


def _letter_logprobs(hidden: Tensor, weight: Tensor, letters: LetterTokens) -> Tensor:
    """Log-softmax over the letters alone: hidden (N, H), weight (V, H) -> (N, 5) float32. Five rows of the head."""
    rows = weight[torch.tensor(letters.ids, device=weight.device)]
    return torch.log_softmax(hidden.float() @ rows.float().T, dim=-1)


def _option_logprobs(items: list[_Item], rows: list[Tensor], weight: Tensor) -> list[tuple[float, ...] | None]:
    """Sums over each option's tokens. The prefix's last token predicts all five first tokens: normalized once."""
    if not any(item.options for item in items):
        return [None] * len(items)
    predicted_by: list[int] = []  # row of the concatenated hidden states that predicts each target
    targets: list[int] = []
    owner: list[int] = []  # the option, counted over the batch, that each target belongs to
    start = 0
    for number, item in enumerate(items):
        following = start + 1
        for option, ids in enumerate(item.options):
            predicted_by += [start, *range(following, following + len(ids) - 1)]
            targets += ids
            owner += [number * len(LETTERS) + option] * len(ids)
            following += len(ids) - 1
        start = following
    device = weight.device
    hidden = torch.cat(rows)  # (N, H)
    source = torch.tensor(predicted_by, device=device)
    logprobs = (
        target_logits(hidden[source], weight, torch.tensor(targets, device=device))
        - log_normalizer(hidden, weight)[source]
    )
    sums = torch.zeros(len(items) * len(LETTERS), device=device)
    sums.index_add_(0, torch.tensor(owner, device=device), logprobs)
    return [tuple(five) for five in sums.view(-1, len(LETTERS)).tolist()]
