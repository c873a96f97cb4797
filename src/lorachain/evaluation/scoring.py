"""What a model answers to a five-option question, read from one forward: `letters` and `options`.

`letters`: the next-token logits of the five option letters after the answer cue. `options`: the log-likelihood of each
option's text there, summed over its tokens; the question's prefix is computed once for its five options.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorachain.errors import DataError, ModelError
from lorachain.inference.batching import forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.logprobs import log_normalizer, target_logits
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.prompts import Prompt, answer_prompt
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question's five scores, in the order of its options."""

    id: str
    gold: int
    letter_logprobs: tuple[float, ...]
    """Log-softmax over the five letters alone: five numbers that sum to one as probabilities."""
    option_logprobs: tuple[float, ...] | None
    """Log-likelihood of " " + option text, summed over its tokens; None where options were not asked."""
    option_tokens: tuple[int, ...] | None
    option_chars: tuple[int, ...]
    prompt_tokens: int

    @property
    def chosen_letter(self) -> int:
        """Index of the most likely letter; the first of equals."""
        return first_argmax(self.letter_logprobs)

    @property
    def chosen_option(self) -> int:
        """Index of the option whose text is most likely as a whole; the first of equals.

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
    """The five ids that tell the letters apart, and the ids that all five share before them.

    A completion begins with a space: Gemma has one token for " A", so that `shared` is empty. Where a tokenizer splits
    the space off, the letters are read behind it.
    """

    shared: list[int]
    ids: list[int]


def letter_tokens(encoder: TokenEncoder) -> LetterTokens:
    """The ids of " A" to " E", up to the first that differs.

    Raises:
        ModelError: the tokenizer does not tell the five letters apart by one token.
    """
    rows = [encoder.text_ids(f" {letter}") for letter in LETTERS]
    shared = 0
    while shared < min(map(len, rows)) and len({row[shared] for row in rows}) == 1:
        shared += 1
    ids = [row[shared] for row in rows if len(row) > shared]
    if len(set(ids)) != len(LETTERS):
        raise ModelError(
            f"the tokenizer writes the option letters as {rows}, which no single token tells apart; "
            "use the tokenizer files that belong to the model"
        )
    return LetterTokens(rows[0][:shared], ids)


def five_logprobs(hidden: Tensor, weight: Tensor, letters: LetterTokens) -> Tensor:
    """Log-softmax over the letters alone: hidden (N, H), weight (V, H) -> (N, 5) float32. Five rows of the head."""
    rows = weight[torch.tensor(letters.ids, device=weight.device)]
    return torch.log_softmax(hidden.float() @ rows.float().T, dim=-1)


def score_questions(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    *,
    token_budget: int = 8192,
    with_options: bool = True,
    prompt: Callable[[ExamQuestion], Prompt] = answer_prompt,
    on_progress: Callable[[int], None] | None = None,
) -> list[QuestionScore]:
    """Both readings of every question, in the given order, after what `prompt` makes of it; `on_progress` hears how
    many are done.

    Batches hold at most `token_budget` padded tokens (a longer question stands alone), so memory does not grow with
    the number of questions, and a score does not depend on its neighbours beyond rounding. Works for plain and
    PEFT-wrapped models of both Gemma 3 classes; the model's training mode is put back.

    Raises:
        ModelError: the tokenizer does not tell the five letters apart.
        DataError: an option has no text.
    """
    letters = letter_tokens(encoder)
    items = [_item(encoder, question, prompt(question), letters, with_options) for question in questions]
    scores: dict[int, QuestionScore] = {}
    with eval_mode(model):
        for group in forward_groups(model, [len(item.tree) for item in items], token_budget):
            scores.update(zip(group, _score(model, [items[i] for i in group], letters), strict=True))
            if on_progress is not None:
                on_progress(len(scores))
    return [scores[i] for i in range(len(items))]


@dataclass(frozen=True, slots=True)
class _Item:
    question: ExamQuestion
    tree: PrefixTree
    options: list[list[int]]
    """Ids of each option's text; the tree's continuations leave the last id out, which predicts nothing."""
    letter_place: int
    """Where in the line the letters' logits are read."""


def _item(
    encoder: TokenEncoder, question: ExamQuestion, prompt: Prompt, letters: LetterTokens, with_options: bool
) -> _Item:
    prefix = encoder.prompt_ids(prompt)
    options = [encoder.text_ids(f" {text}") for text in question.options] if with_options else []
    for text, ids in zip(question.options, options, strict=False):
        if not text.strip() or not ids:
            raise DataError(f"question {question.id}: an option has no text; each of the five needs some")
    continuations = [ids[:-1] for ids in options]
    if letters.shared:
        continuations.append(letters.shared)
    tree = PrefixTree(prefix, continuations)
    place = tree.path(len(continuations) - 1)[-1] if letters.shared else len(prefix) - 1
    return _Item(question, tree, options, place)


def _score(model: nn.Module, items: list[_Item], letters: LetterTokens) -> list[QuestionScore]:
    read: list[list[int]] = []  # the letters' place, the prefix's last token, then each continuation
    for item in items:
        prefix_end = len(item.tree.prefix) - 1
        read.append([item.letter_place])
        if item.options:
            read[-1] += [prefix_end, *(p for b in range(len(item.options)) for p in item.tree.path(b)[1:])]
    hidden = hidden_states(model, [item.tree for item in items], read)  # (N, H)
    weight = head_weight(model)  # (V, H)
    per_item = torch.split(hidden, [len(places) for places in read])
    at_cue = torch.stack([rows[0] for rows in per_item])  # (B, H)
    letter_logprobs = five_logprobs(at_cue, weight, letters).tolist()
    option_logprobs = _option_logprobs(items, [rows[1:] for rows in per_item], weight)
    return [
        QuestionScore(
            id=item.question.id,
            gold=item.question.answer,
            letter_logprobs=tuple(letter_logprobs[i]),
            option_logprobs=option_logprobs[i],
            option_tokens=tuple(len(ids) for ids in item.options) if item.options else None,
            option_chars=tuple(len(text) for text in item.question.options),
            prompt_tokens=len(item.tree.prefix),
        )
        for i, item in enumerate(items)
    ]


def _option_logprobs(items: list[_Item], rows: list[Tensor], weight: Tensor) -> list[tuple[float, ...] | None]:
    """Sums over each option's tokens. The prefix's last token predicts all five first tokens: normalized once."""
    if not any(item.options for item in items):
        return [None] * len(items)
    predicted_by: list[int] = []  # row of the concatenated hidden states that predicts each target
    targets: list[int] = []
    owner: list[int] = []  # which option, counted over the batch, each target belongs to
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
