"""Text to ids: one BOS, the supervised span, packing without seeing each other, and collation.

Gemma needs its BOS exactly once: without it perplexity explodes, and chat templates add one too, so two are as
likely as none. Here the text never carries a BOS and `TokenEncoder` always puts one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lorachain.errors import ModelError
from lorachain.prompts import Example, Prompt, render

IGNORE_INDEX = -100
END_OF_TURN = "<end_of_turn>"
_STAND_IN = "\ue000"
"""Of the private use area: no template holds it."""


class Tokenizer(Protocol):
    """What is needed of a `transformers` tokenizer."""

    bos_token: str
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None
    added_tokens_decoder: dict[int, Any]

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str: ...
    def save_pretrained(self, save_directory: str | Path) -> object: ...


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One sequence: ids with BOS first; ids from `supervised_from` on are targets."""

    ids: list[int]
    supervised_from: int
    record: int = 0
    form: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """How many ids are targets."""
        return len(self.ids) - self.supervised_from


class TokenEncoder:
    """Examples and prompts to ids with one tokenizer.

    Raises:
        ModelError: the tokenizer has no BOS, EOS or padding token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ModelError(
                "the tokenizer lacks a BOS, EOS or padding token; Gemma 3 has all three "
                "(<bos>, <eos>, <pad>): use the tokenizer files that belong to the model"
            )
        self.tokenizer = tokenizer
        self.bos_id: int = tokenizer.bos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        # A chat model ends its turn; a base model ends the text.
        self.end_id: int = (
            tokenizer.convert_tokens_to_ids(END_OF_TURN) if tokenizer.chat_template else tokenizer.eos_token_id
        )
        self.eos_id: int = tokenizer.eos_token_id
        self._special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special_starts = {name[0] for name in self._special}  # of Gemma's 6,249 names, one or two characters

    def text_ids(self, text: str) -> list[int]:
        """Ids of the text alone: no BOS, no EOS; a `<bos>` that stands in the data is five characters, no token."""
        return self._ids(text, split_special_tokens=True)

    def _ids(self, text: str, *, split_special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)[
            "input_ids"
        ]
        return ids

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """BOS and the rendered prompt. A chat template's turns are special tokens, what stands within them is none: a
        question about `<end_of_turn>` does not end its turn.

        Raises:
            ModelError: the chat template makes another text of such a question.
        """
        text = render(prompt, self.tokenizer)
        if not self.tokenizer.chat_template:
            return [self.bos_id, *self.text_ids(text)]
        if not self._names_special_token(prompt.user):
            return [self.bos_id, *self._ids(text, split_special_tokens=False)]
        before, _, after = render(replace(prompt, user=_STAND_IN), self.tokenizer).partition(_STAND_IN)
        within = text[len(before) : len(text) - len(after)]
        if text != before + within + after or within.strip() != prompt.user.strip():
            raise ModelError(
                f"the chat template changes the question {prompt.user[:60]!r}, which names a special token"
            )
        turn, opened = (self._ids(part, split_special_tokens=False) for part in (before, after))
        return [self.bos_id, *turn, *self.text_ids(within), *opened]

    def _names_special_token(self, text: str) -> bool:
        return any(start in text for start in self._special_starts) and any(name in text for name in self._special)

    def encode(self, example: Example) -> TokenRow:
        """Prompt and completion are tokenized apart, so that the supervised ids are exactly the completion's and the
        end token, and the prompt's ids are those an evaluation will see."""
        if example.prompt is None:
            return TokenRow([self.bos_id, *self.text_ids(example.completion), self.eos_id], supervised_from=1)
        prompt = self.prompt_ids(example.prompt)
        return TokenRow([*prompt, *self.text_ids(example.completion), self.end_id], supervised_from=len(prompt))


def split_long(row: TokenRow, max_length: int) -> list[TokenRow]:
    """A plain-text row cut into pieces of at most `max_length` ids, each a sequence of its own with its BOS.

    No token is lost; only the last piece ends with EOS.
    """
    bos, body = row.ids[0], row.ids[1:]
    step = max_length - 1
    return [TokenRow([bos, *body[i : i + step]], supervised_from=1) for i in range(0, len(body), step)]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of rows grouped so that each group's total length is at most `capacity`.

    Deterministic in `lengths`. Source: "Fewer Truncations Improve Language Modeling" (Ding et al. 2024,
    arXiv 2404.10830).

    Raises:
        ValueError: a row is longer than `capacity`.
    """
    by_room: dict[int, deque[int]] = {}  # free room -> groups with exactly that room, first made first used
    rooms = 0  # bit r is set where a group has exactly r tokens of room
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"row {index} has {length} tokens, more than the pack's {capacity}")
        if wide_enough := rooms >> length:
            room = length + (wide_enough & -wide_enough).bit_length() - 1  # the lowest bit: the tightest fit
            group = by_room[room].popleft()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            group, room = len(groups), capacity
            groups.append([])
        groups[group].append(index)
        by_room.setdefault(room - length, deque()).append(group)
        rooms |= 1 << (room - length)
    return groups


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids, each line one or several packed sequences.

    `position_ids` restart at each sequence, from which transformers' mask functions isolate packed sequences;
    padding continues the last sequence's positions, and a causal model's real tokens never see what is to their right.
    """

    input_ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, label of position t is the id at t + 1 or IGNORE_INDEX: already shifted

    @property
    def supervised(self) -> int:
        return int((self.labels != IGNORE_INDEX).sum())

    def as_inputs(self) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "labels": self.labels}


def collate(lines: Sequence[Sequence[TokenRow]], pad_id: int) -> Batch:
    """One line of the batch per element, holding its rows end to end.

    Labels are shifted within each row, so a pack's last token never predicts its neighbour's BOS.
    """
    width = max(sum(len(row) for row in line) for line in lines)
    ids = torch.full((len(lines), width), pad_id, dtype=torch.int64)  # (B, T)
    positions = torch.zeros((len(lines), width), dtype=torch.int64)  # (B, T)
    labels = torch.full((len(lines), width), IGNORE_INDEX, dtype=torch.int64)  # (B, T)
    for i, line in enumerate(lines):
        start = 0
        for row in line:
            end, first = start + len(row), start + row.supervised_from
            ids[i, start:end] = torch.tensor(row.ids)
            positions[i, start:end] = torch.arange(len(row))
            labels[i, first - 1 : end - 1] = ids[i, first:end]
            start = end
        padding = width - start
        positions[i, start:] = torch.arange(len(line[-1]), len(line[-1]) + padding)
    return Batch(ids, positions, labels)


def token_budget_groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices, longest first, in groups whose padded size (count times the longest) stays within `budget` tokens.

    A row longer than the budget stands alone.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
